// CALIBRATION=train in gptq-lite, with LibTorch or without.
#pragma once

#include <string>

#include "common/base/error.h"
#include "common/quantise/calibration.h"

namespace fairway {

inline Calibration ReadMeasured(const CheckpointReader& weights, const std::string& training, const Settings& settings, Lineage& lineage) {
  if (training.empty())
    throw UsageError("CALIBRATION=train needs --training TRAIN.ckpt, the checkpoint that the weights were made of; CALIBRATION=self needs nothing");
  const CheckpointReader checkpoint(training);
  lineage.inputs.push_back({"calibration", checkpoint.identity(), {}});
  return ReadCalibration(checkpoint, weights, settings);
}

}  // namespace fairway
