// The training run: clock, log, validation, checkpoints, interruption and resumption around Trainer's step.
#pragma once

#include <string>

#include "common/checkpoint/checkpoint.h"
#include "common/settings/settings.h"

namespace fairway {

struct TrainResult {
  std::string path;      // of the checkpoint: the finished one, or the one to continue from
  std::string identity;  // of its content
  int64_t steps = 0;
  double seconds = 0;    // training time
  double loss = 0;       // of the last step, nats per token
  double val_loss = 0, val_bpb = 0;  // of the unaveraged weights, plain evaluation
  bool finished = false;  // false: interrupted
};

// Trains to the end of the schedule and writes `out`. While it runs it keeps checkpoints OUT.partial-STEP.ckpt (OUT without its
// .ckpt; the newest keep_checkpoints), removed once `out` is there.
//
// resume: empty, start afresh (refused with UsageError while partial checkpoints are there: they would be overwritten); "newest",
// continue from the newest of them, or start afresh where there is none; else the checkpoint to continue from. Settings other than
// those marked R in settings.def, and the training shards, must be the ones that the run was begun with (InputError names what
// differs).
//
// SIGINT, SIGTERM and, unless it is ignored, SIGHUP stop it: after the step, or within one that takes long, which is abandoned
// (between micro-batches, and in a single process between the chunks of one). It writes a checkpoint of the last finished step,
// says how to continue, and returns. In a batch job SIGUSR1 makes it write a checkpoint after the step and continue. `lineage` is
// the program's own; the inputs are added here. With `profile_steps` the log says at the end where a step's time went, by operation
// (step_profile.h); UsageError on a GPU, which has no such clock.
TrainResult Train(Settings settings, const std::string& out, const std::string& resume, Lineage lineage, bool profile_steps = false);

}  // namespace fairway
