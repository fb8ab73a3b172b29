#include "common/base/error.h"
#include "common/calibrate/checkpoint.h"

namespace fairway {

Calibration CalibrateCheckpoint(const CheckpointReader&, const Settings& settings, Lineage&,
                                const std::function<void(int64_t, int64_t)>&) {
  if (settings.calibration_windows > 0 || settings.quantiser == "gptq")
    throw UsageError("this build is without LibTorch and cannot calibrate; rtn goes with CALIBRATION_WINDOWS=0");
  return {};
}

CodedMatrices CodeCheckpoint(const CheckpointReader&, const Settings&, Lineage&, const std::function<void(int64_t, int64_t)>&) {
  throw UsageError("this build is without LibTorch and cannot calibrate, which QUANTISER=gptq_sdclip needs");
}

double EstimateCheckpointCalibration(const Settings&) { return 0; }

}  // namespace fairway
