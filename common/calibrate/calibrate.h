// What an error in each weight costs, from windows of text.
//
// Cost: the diagonal of the empirical Fisher matrix, the mean over tokens of squared gradients; near a minimum it approximates the
// loss's second derivative. Feedback: a linear layer's inputs x, of which H = mean x x^T (GPTQ, arXiv 2210.17323, section 3), over
// tokens, summed over the visits of a looped layer.
#pragma once

#include <functional>

#include "common/checkpoint/checkpoint.h"
#include "common/model/transformer.h"
#include "common/parallel/communicator.h"
#include "common/quantise/steps.h"
#include "common/settings/settings.h"
#include "common/tokens/shards.h"

namespace fairway {

// Windows of calibration_tokens targets, each of calibration_tokens + 1 tokens.
using CalibrationWindows = std::vector<std::vector<uint16_t>>;

// calibration_windows windows from `train`, drawn by calibration_seed. Throws InputError where the split is shorter than a window.
CalibrationWindows DrawWindows(const Settings& settings, const ShardSet& train);
// Throws what DrawWindows would throw.
void CheckWindows(const Settings& settings, const ShardSet& train);

// As many that the weights generate at temperature 1, each from BOS (id 1) on, by calibration_seed and the window's number. Ranks
// share the work; the result does not depend on their number.
CalibrationWindows GenerateWindows(const NamedTensors& weights, const Settings& settings, Communicator& communicator,
                                   const std::function<void(int64_t, int64_t)>& progress);

// Computes on the CPU: of every matrix with an export grid the cost, and for settings.quantiser `gptq` the feedback of linear layers.
// `weights` are as LoadParameters gives them. progress(done, of) is called after each window and, for gptq, each matrix.
// Several ranks share the windows and matrices; the result is that of a single process, bit for bit.
// REQUIRES: settings.CheckModel() passed; there are windows.
Calibration Calibrate(const NamedTensors& weights, const Settings& settings, const CalibrationWindows& windows,
                      const std::function<void(int64_t, int64_t)>& progress,
                      Communicator& communicator = Communicator::Single());
// The same with DrawWindows.
Calibration Calibrate(const NamedTensors& weights, const Settings& settings, const ShardSet& train,
                      const std::function<void(int64_t, int64_t)>& progress,
                      Communicator& communicator = Communicator::Single());

// Inverts H = `moments` / `count` + damping * (mean of its diagonal) as Feedback says. moments: float64 [n, n].
Feedback MakeFeedback(const at::Tensor& moments, int64_t count, double damping, bool descending);

// Bytes of memory that Calibrate takes beside the weights, at most.
double EstimateCalibration(const Settings& settings);

}  // namespace fairway
