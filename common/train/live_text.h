// The text of train's live line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/settings/settings.h"

namespace fairway {

struct TrainingState {
  int64_t step;                  // steps taken
  double elapsed;                // seconds of steps on the training clock
  double seconds_per_step;       // of recent steps
  double validation_seconds;     // of one validation; 0: not known yet
  double loss;                   // of the last step, nats per token
  std::optional<double> val_bpb; // at the last validation
  bool averages_snapshots, fake_quantises;  // whether SWA, late QAT have begun
};

// "step 85/140  60%  loss 2.4123  val_bpb 2.3120  16,977 tokens/s  0:35 left  next: late QAT at 119". The percentage is of the
// steps or of the clock, whichever ends the run; the time left counts steps and validations. `settings`: with the clock that steps
// have.
std::string LiveText(const Settings& settings, const TrainingState& state);

}  // namespace fairway
