// What training measured for the quantiser (CALIBRATION=train), in its checkpoint.
//
// Tensors calibration/rows/MATRIX and calibration/columns/MATRIX (float32) are the costs of a matrix by row and by column,
// calibration/mean (float32, one for each matrix in the order of names) their means; with feedback calibration/order/MATRIX (int32)
// and calibration/upper/MATRIX (float32) are a Feedback. The counter calibration.of.SOURCE says of which weights, by
// settings.source.
#pragma once

#include <string>

#include "common/checkpoint/checkpoint.h"
#include "common/quantise/steps.h"
#include "common/settings/settings.h"

namespace fairway {

// The settings that a calibration depends on, besides the weights and the text.
inline constexpr const char* kCalibrationSettings[] = {"calibration_windows", "calibration_tokens",           "calibration_seed",       "gptq_damping",
                                                       "gptq_order",          "keep_max_numel", "control_tensor_name_patterns", "fp16_keep_name_patterns"};

// Whether training calibrates for gptq-lite.
bool TrainingCalibrates(const Settings& settings);

void AddCalibration(const Calibration& calibration, CheckpointWriter& writer);

// The calibration that `training` holds of `weights`, which ema-finalize made of it. Throws InputError where it holds none, where
// `weights` were not made of it or of another source, or where the calibration was made with other settings.
Calibration ReadCalibration(const CheckpointReader& training, const CheckpointReader& weights, const Settings& settings);

}  // namespace fairway
