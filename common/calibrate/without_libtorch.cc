#include "common/base/error.h"
#include "common/calibrate/checkpoint.h"
#include "common/calibrate/measured.h"

namespace fairway {

Calibration CalibrateCheckpoint(const CheckpointReader& weights, const std::string& training, const Settings& settings, Lineage& lineage,
                                const std::function<void(int64_t, int64_t)>&) {
  if (settings.calibration == "train" && settings.calibration_windows > 0) return ReadMeasured(weights, training, settings, lineage);
  if (settings.calibration_windows > 0 || settings.quantiser == "gptq")
    throw UsageError("this build is without LibTorch and cannot calibrate; CALIBRATION=train and CALIBRATION_WINDOWS=0 go without");
  return {};
}

CodedMatrices CodeCheckpoint(const CheckpointReader&, const Settings&, Lineage&, const std::function<void(int64_t, int64_t)>&) {
  throw UsageError("this build is without LibTorch and cannot calibrate, which QUANTISER=gptq_sdclip needs");
}

double EstimateCheckpointCalibration(const Settings&) { return 0; }

}  // namespace fairway
