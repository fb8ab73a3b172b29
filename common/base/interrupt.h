// Signals for programs that have something to finish first.
#pragma once

#include <cstdint>

namespace fairway {

// From now on SIGINT, SIGTERM and SIGHUP no longer end the program but make InterruptSignal return their number (0 before). A
// second one of them ends it at once. A SIGHUP that is ignored stays ignored (nohup). SIGUSR1 is a batch system's warning: in a job
// of Slurm, PBS or LSF (SLURM_JOB_ID, PBS_JOBID or LSB_JOBID is set), which ends the job itself when its time is up, it is only
// counted; elsewhere it is treated as the others. What is written to a reader that has gone (SIGPIPE) fails and no longer ends the
// program.
void CatchInterrupts();
int InterruptSignal();
// Acts as if this process had received the signal that another rank of the run received.
void NoteInterrupt(int signal);
// How often SIGUSR1 has come: each asks for a checkpoint.
int64_t CheckpointRequests();

}  // namespace fairway
