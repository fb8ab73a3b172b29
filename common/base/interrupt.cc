#include "common/base/interrupt.h"

#include <csignal>

namespace fairway {
namespace {

volatile std::sig_atomic_t interrupt_signal = 0;

void OnInterrupt(int signal) {
  interrupt_signal = signal;
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

}  // namespace

void CatchInterrupts() {
  std::signal(SIGINT, OnInterrupt);
  std::signal(SIGTERM, OnInterrupt);
}

int InterruptSignal() { return interrupt_signal; }
void NoteInterrupt(int signal) { interrupt_signal = signal; }

}  // namespace fairway
