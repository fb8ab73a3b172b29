// What a training run prints beside its steps.
#pragma once

#include "common/model/step_profile.h"
#include "common/parallel/communicator.h"
#include "common/runtime/runtime.h"
#include "common/settings/settings.h"
#include "common/train/estimate.h"

namespace fairway {

// The settings, in the lines that logs of the field begin with.
void LogHeader(const Settings& settings, const Estimate& estimate, const Communicator& communicator);
// Memory, time and size to expect. Measures how fast products are here (0.2 s).
void LogEstimate(const Settings& settings, const Estimate& estimate, const Runtime& runtime);
// What is kept in floating point is known before training, and so is its share of an artifact of the size that is asked for.
void LogCrowdedBudget(const Settings& settings, int64_t parameters);
// Where the steps' time went, the largest share first; what no operation claims is "other". `seconds`: of all `steps`.
void LogProfile(const StepProfile& profile, int64_t steps, double seconds);

}  // namespace fairway
