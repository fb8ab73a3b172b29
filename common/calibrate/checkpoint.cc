#include "common/calibrate/checkpoint.h"

#include <ATen/Parallel.h>

#include "common/base/error.h"
#include "common/calibrate/calibrate.h"

namespace fairway {
namespace {

constexpr double kLoadedLibTorchBytes = 90e6;  // before anything is computed

}  // namespace

Calibration CalibrateCheckpoint(const CheckpointReader& weights, const Settings& settings, Lineage& lineage,
                                const std::function<void(int64_t, int64_t)>& progress) {
  if (settings.calibration_windows == 0) {
    if (settings.quantiser == "hessian") throw UsageError("QUANTISER=hessian needs CALIBRATION_WINDOWS");
    return {};
  }
  settings.CheckModel(weights.path());
  at::set_num_threads(settings.ThreadCount());
  const ShardSet train(settings.data_path, "train", settings.vocab_size);
  lineage.inputs.push_back({"train shards", train.Identity(), {}});
  return Calibrate(LoadParameters(weights, settings), settings, train, progress);
}

double EstimateCheckpointCalibration(const Settings& settings) {
  const bool calibrates = settings.quantiser != "published" && settings.calibration_windows > 0;
  return kLoadedLibTorchBytes + (calibrates ? EstimateCalibration(settings) : 0);
}

}  // namespace fairway
