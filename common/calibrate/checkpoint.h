// Calibration of a checkpoint of weights, for programs that are built without LibTorch too.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "common/checkpoint/checkpoint.h"
#include "common/quantise/coded.h"
#include "common/quantise/steps.h"
#include "common/settings/settings.h"

namespace fairway {

// The calibration that settings.quantiser, calibration and calibration_windows ask for: what `training` measured of these weights,
// or measured here, on text that the weights generate or on the training split in settings.data_path; nothing of it where
// calibration_windows is 0. Names what was read in `lineage`. Throws UsageError for `gptq` without windows, for calibration `train`
// without `training`, and in a build without LibTorch where anything is to be measured; InputError where the weights are not those
// of the model that the settings describe, or the split is too short, and as ReadCalibration does. As one of several ranks it
// computes with the others: all get the same result, and disconnect afterwards. Throws as MakeCommunicator and RequireAgreement do.
Calibration CalibrateCheckpoint(const CheckpointReader& weights, const std::string& training, const Settings& settings, Lineage& lineage,
                                const std::function<void(int64_t done, int64_t of)>& progress);

// The codes of QUANTISER=gptq_sdclip: Hessians from the training split in settings.data_path, named in `lineage`, then the matrices.
// Throws UsageError as one of several ranks, because the work is not shared, and in a build without LibTorch; otherwise as
// CalibrateCheckpoint does.
CodedMatrices CodeCheckpoint(const CheckpointReader& weights, const Settings& settings, Lineage& lineage,
                             const std::function<void(int64_t done, int64_t of)>& progress);

// Bytes of memory beside the checkpoint's own: LibTorch, which is loaded whatever the settings, and what calibration takes.
double EstimateCheckpointCalibration(const Settings& settings);

}  // namespace fairway
