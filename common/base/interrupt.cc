#include "common/base/interrupt.h"

#include <csignal>

namespace fairway {
namespace {

constexpr int kEnding[] = {SIGINT, SIGTERM, SIGHUP};
volatile std::sig_atomic_t interrupt_signal = 0, checkpoint_requests = 0;

bool Ignored(int signal) {
  struct sigaction action;
  return sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

void OnInterrupt(int signal) {
  interrupt_signal = signal;
  for (const int ending : kEnding)
    if (!Ignored(ending)) std::signal(ending, SIG_DFL);
}

void OnRequest(int) { checkpoint_requests = checkpoint_requests + 1; }

}  // namespace

void CatchInterrupts() {
  for (const int signal : kEnding)
    if (signal != SIGHUP || !Ignored(SIGHUP)) std::signal(signal, OnInterrupt);
  std::signal(SIGUSR1, OnRequest);
}

int InterruptSignal() { return interrupt_signal; }
void NoteInterrupt(int signal) { interrupt_signal = signal; }
int64_t CheckpointRequests() { return checkpoint_requests; }

}  // namespace fairway
