#include "common/base/interrupt.h"

#include <csignal>
#include <cstdlib>
#include <initializer_list>

namespace fairway {
namespace {

constexpr int kEnding[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};
volatile std::sig_atomic_t interrupt_signal = 0, checkpoint_requests = 0;

bool Ignored(int signal) {
  struct sigaction action;
  return sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

void OnInterrupt(int signal) {
  if (signal == SIGUSR1 && interrupt_signal != 0) return;  // a warning changes nothing then
  interrupt_signal = signal;
  for (const int ending : kEnding)
    if (ending != SIGUSR1 && !Ignored(ending)) std::signal(ending, SIG_DFL);
}

void OnRequest(int) { checkpoint_requests = checkpoint_requests + 1; }

bool InBatchJob() {
  for (const char* variable : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"})
    if (std::getenv(variable) != nullptr) return true;
  return false;
}

}  // namespace

void CatchInterrupts() {
  for (const int signal : kEnding)
    if (signal != SIGHUP || !Ignored(SIGHUP)) std::signal(signal, OnInterrupt);
  std::signal(SIGPIPE, SIG_IGN);  // the same signal may have ended who reads the log: that must not cost the checkpoint
  if (InBatchJob()) std::signal(SIGUSR1, OnRequest);
}

int InterruptSignal() { return interrupt_signal; }
void NoteInterrupt(int signal) { interrupt_signal = signal; }
int64_t CheckpointRequests() { return checkpoint_requests; }

}  // namespace fairway
