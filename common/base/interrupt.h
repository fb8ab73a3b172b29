// Signals for programs that have something to finish first.
#pragma once

#include <cstdint>

namespace fairway {

// From now on SIGINT, SIGTERM and SIGHUP no longer end the program but make InterruptSignal return their number (0 before). A second one of
// them ends it at once. A SIGHUP that is ignored stays ignored (nohup). SIGUSR1 is only counted.
void CatchInterrupts();
int InterruptSignal();
// As if this process had been sent the signal that another rank of the run was.
void NoteInterrupt(int signal);
// How often SIGUSR1 has come: each asks for a checkpoint.
int64_t CheckpointRequests();

}  // namespace fairway
