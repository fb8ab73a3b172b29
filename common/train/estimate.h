// What a training run will need, before it starts.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/settings/settings.h"

namespace fairway {

struct Estimate {
  int64_t parameters;       // elements
  double memory_bytes;      // of the process at its peak, at most: of the host or, on a GPU, of the GPU
  double flops_per_step;    // floating-point operations of the matrix products of one step
  double flops_of_calibration;  // the same of all calibrations in the run, for late QAT and for the quantiser
  double artifact_bytes;    // packed: the budget where late QAT has one, else with codes near the entropy of Gaussian rows
};

// Sums over the parameters and the engine's workspace; estimate.cc explains the constants.
// Memory is of one of `world_size` ranks, the rest of all together. Throws as TargetBytes does where late QAT goes by a budget.
Estimate EstimateTraining(const Settings& settings, int64_t world_size = 1, at::Device device = at::kCPU);

// Floating-point operations per second that a product of matrices 1024 wide, 8192 on a GPU, reaches, in the run's precision (about
// 0.2 s).
double MeasureProducts(const Settings& settings, at::Device device);

}  // namespace fairway
