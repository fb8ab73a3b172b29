// The schedule of pull request 531: learning rate scale and Muon's momentum.
#pragma once

#include <cstdint>
#include <string>

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

// Of `steps` steps that a run has taken, those that the settings mean to have a learning rate scale below `threshold`.
double LateSteps(const Settings& settings, double threshold, int64_t steps);

// Why the learning rate scale never comes below `threshold`, the value of setting `name`; empty where it does, or where a clock
// decides as it goes. `last`: the last step (from 0) that counts.
std::string WhyNeverBelow(const Settings& settings, double threshold, const char* name, int64_t last);

// Why the SWA will have no snapshot; empty where it may have one. A clock may end a run before the first one.
std::string WhyNoSnapshot(const Settings& settings);

}  // namespace fairway
