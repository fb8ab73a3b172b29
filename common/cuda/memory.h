// What the device's engine takes of the device's memory.
#pragma once

#include <c10/core/Device.h>

#include "common/settings/settings.h"

namespace fairway {

// What a process takes of a GPU before its first tensor, and besides them: CUDA's context, kernels, workspaces of cuBLAS, buffers
// of NCCL. An allowance, not measured.
inline constexpr double kDeviceLibraryBytes = 1.5e9;

// Bytes beside parameters and gradients, at most, for micro-batches of B sequences of T tokens: the weights as products use them,
// what a forward and a backward pass keep, and what the library's operations take for a while. On a CPU in a device's place
// products of bfloat16 take float32 copies of their operands besides.
double DeviceEngineBytes(const Settings& settings, int64_t B, int64_t T, bool training, at::Device device);

}  // namespace fairway
