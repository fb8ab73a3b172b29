// The grid of late quantisation-aware training where the export's steps follow from a budget (QUANTISER rtn, gptq): the steps that
// an export would take of the weights as they are when it begins. They stay; the export starts its search there and says how far
// its own steps are from them.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "common/model/transformer.h"
#include "common/parallel/communicator.h"
#include "common/quantise/steps.h"
#include "common/settings/settings.h"
#include "common/tokens/shards.h"

namespace fairway {

// Whether late QAT may begin in such a run and finds its steps then.
bool FindsSteps(const Settings& settings);

struct StepsToTrainOn {
  double step = 0;                       // what all of them follow from
  std::map<std::string, Steps> matrices;  // of every matrix that is exported as codes
};

// Calibrates `weights`, as LoadParameters gives them, on `train`, and finds the step whose artifact about fills the
// budget. Ranks do it together and get the same result. Throws as TargetBytes, Calibrate and SearchStep do; `between`, which is called
// between parts of the work, may throw as well.
StepsToTrainOn FindStepsToTrainOn(const NamedTensors& weights, const Settings& settings, const ShardSet& train,
                                  Communicator& communicator, const std::function<void()>& between = [] {});

// Seconds that this takes beside calibration, at most: one size of such weights is measured, on rank 0. All ranks get the same result.
double MeasureSearch(const NamedTensors& weights, const Settings& settings, const Calibration& calibration, Communicator& communicator);

}  // namespace fairway
