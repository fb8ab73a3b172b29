// What an error in each weight costs, from windows of training data.
//
// Cost: the diagonal of the empirical Fisher matrix, the mean over tokens of squared gradients; near a minimum it stands for the
// loss's second derivative. Feedback: a linear layer's inputs x, of which H = mean x x^T (GPTQ, arXiv 2210.17323, section 3).
#pragma once

#include <functional>

#include "common/checkpoint/checkpoint.h"
#include "common/model/transformer.h"
#include "common/parallel/communicator.h"
#include "common/quantise/steps.h"
#include "common/settings/settings.h"
#include "common/tokens/shards.h"

namespace fairway {

// Draws calibration_windows windows of calibration_tokens targets from `train` by calibration_seed, and computes on the CPU; of
// every matrix with an export grid the cost, and for settings.quantiser `gptq` the feedback of linear layers. `weights` are as
// LoadParameters gives them. progress(done, of) hears of each window and, for gptq, of each matrix.
// Several ranks share out windows and matrices, and all come to what one alone would have come to, bit for bit.
// REQUIRES: settings.CheckModel() passed; calibration_windows > 0. Throws InputError where the split is shorter than a window.
Calibration Calibrate(const NamedTensors& weights, const Settings& settings, const ShardSet& train,
                      const std::function<void(int64_t, int64_t)>& progress,
                      Communicator& communicator = Communicator::Single());

// Inverts H = `moments` / `count` + damping * (mean of its diagonal) as Feedback says. moments: float64 [n, n].
Feedback MakeFeedback(const at::Tensor& moments, int64_t count, double damping, bool descending);

// Bytes of memory that Calibrate takes beside the weights, at most.
double EstimateCalibration(const Settings& settings);

}  // namespace fairway
