// Settings, and sizes of data, that cannot end in a record together, found before the first step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/settings/settings.h"

namespace fairway {

// The settings of each stage of a chain. A stage that is finished has those that its product states.
struct ChainSettings {
  Settings train, finalize, quantise, eval;
};

// Stages that a command ends with, in the order of the chain.
enum class LastStage { kTrain, kFinalize, kQuantise, kEval, kSubmission };

// Throws UsageError naming both settings where a stage up to `last` would refuse what the stages before it leave: a source of
// weights that training does not keep, a size for a quantiser that has none, an evaluation method that cannot act. `budget`: bytes
// that artifact and code may have together; 0: no limit.
void CheckCombinations(const ChainSettings& settings, LastStage last, int64_t budget = 0);

// Tokens of the data that a chain reads.
struct DataSizes {
  int64_t train = 0, largest_train_shard = 0, val = 0;
};

// The same of stages from `first` to `last` that would find too few tokens: for a calibration window, for a sequence of evaluation.
void CheckDataSizes(const ChainSettings& settings, LastStage first, LastStage last, const DataSizes& data);

// What is on but cannot act in this run (an average without a snapshot, late QAT that never begins): one line for each. A record goes
// without it.
std::vector<std::string> IdleTechniques(const Settings& train);

}  // namespace fairway
