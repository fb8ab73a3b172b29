// Where a run computes.
#pragma once

#include "common/cuda/machine.h"
#include "common/settings/settings.h"

namespace fairway {

// The GPU to compute on, or null for the CPU, by settings.device: cpu; cuda; or auto, which is cuda where this build has it and a
// GPU is there. Loads libfairway_cuda.so, and LibTorch's CUDA libraries with it, for a GPU alone. Throws UsageError for cuda in a
// build without it, IoError where there is no GPU, where the library cannot be loaded, or where CUDA does not start.
//
// REQUIRES: no operation on tensors before it has asked LibTorch about CUDA; LibTorch would remember that there is none.
cuda::Machine* ChooseDevice(const Settings& settings);

}  // namespace fairway
