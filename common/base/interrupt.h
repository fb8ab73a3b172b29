// Ctrl-C and its like, for programs that have something to finish first.
#pragma once

namespace fairway {

// From now on SIGINT and SIGTERM no longer end the program but make InterruptSignal return their number (0 before).
// A second signal ends it at once.
void CatchInterrupts();
int InterruptSignal();
// As if this process had been sent the signal that another rank of the run was.
void NoteInterrupt(int signal);

}  // namespace fairway
