// The schedule of pull request 531: learning rate scale and Muon's momentum. No LibTorch needed.
#pragma once

#include <cstdint>

#include "common/settings/settings.h"

namespace fairway {

// Seconds that training has: max_wallclock_seconds less gptq_reserve_seconds; 0 or less: no limit.
double TrainingSeconds(const Settings& settings);

// How much of the training is over at the beginning of step number `step`, by the clock, or without one by steps.
double TrainingFraction(const Settings& settings, int64_t step, double elapsed_seconds);

// Multiplies every learning rate in step number `step` (from 0), after `elapsed_seconds` of training time. Falls linearly to 0
// over the last warmdown_iters steps: as many as the clock leaves at the average pace so far, or, without a cap, of iterations. With
// warmdown_frac: over that last share of the training, and no lower than min_lr (openai/parameter-golf pull request 1855).
double LearningRateScale(const Settings& settings, int64_t step, double elapsed_seconds);

// Muon's momentum in step number `step` (from 0).
double MuonMomentum(const Settings& settings, int64_t step);

}  // namespace fairway
