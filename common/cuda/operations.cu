// Kernels of the bodies in operations.h. No header of LibTorch's: with them this file would take half a minute to compile.
#include <stdexcept>
#include <string>

#include "common/cuda/operations.h"

namespace fairway::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kThreadsPerBlock = 128;  // where a unit has a warp or a part of one

__device__ float Plus(float a, float b) { return a + b; }
__device__ float Larger(float a, float b) { return a > b ? a : b; }

// Every one of kLanes neighbours in a warp gets the same: lanes pair off symmetrically.
template <int kLanes, float (*Combine)(float, float)>
__device__ float OverWarp(float x, unsigned neighbours) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) x = Combine(x, __shfl_xor_sync(neighbours, x, distance));
  return x;
}

// The threads of a part of a warp, of a warp, or of a block.
template <int kLanes>
struct Lanes {
  __device__ int64_t first() const { return threadIdx.x; }
  __device__ int64_t count() const { return kLanes; }
  __device__ float Sum(float x) const { return OverAll<Plus>(x); }
  __device__ float Max(float x) const { return OverAll<Larger>(x); }

 private:
  template <float (*Combine)(float, float)>
  __device__ float OverAll(float x) const {
    if constexpr (kLanes <= kWarp) {
      // Other units of the warp may be elsewhere, or have ended.
      constexpr unsigned kOwn = kLanes == kWarp ? 0xffffffffu : (1u << kLanes % kWarp) - 1;
      const unsigned neighbours = kOwn << threadIdx.y * kLanes % kWarp;
      x = OverWarp<kLanes, Combine>(x, neighbours);
      __syncwarp(neighbours);
    } else {
      x = OverWarp<kWarp, Combine>(x, 0xffffffffu);
      __shared__ float parts[kLanes / kWarp];
      if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
      __syncthreads();
      x = parts[0];
      for (int i = 1; i < kLanes / kWarp; ++i) x = Combine(x, parts[i]);
      __syncthreads();  // before `parts` is used again
    }
    return x;
  }
};

template <class Operation>
__global__ void __launch_bounds__(Operation::kLanes) OfBlocks(const Operation operation) {
  operation(Lanes<Operation::kLanes>{}, blockIdx.x);
}

template <class Operation>
__global__ void __launch_bounds__(kThreadsPerBlock) OfWarps(const Operation operation, const int64_t units) {
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (unit < units) operation(Lanes<Operation::kLanes>{}, unit);
}

template <class Operation>
void Launch(const Operation& operation, cudaStream_t stream) {
  const int64_t units = operation.units();
  if (units == 0) return;
  if constexpr (Operation::kLanes <= kWarp) {
    constexpr int kUnits = kThreadsPerBlock / Operation::kLanes;
    const dim3 blocks(static_cast<unsigned>((units + kUnits - 1) / kUnits)), threads(Operation::kLanes, kUnits);
    OfWarps<<<blocks, threads, 0, stream>>>(operation, units);
  } else {
    OfBlocks<<<static_cast<unsigned>(units), Operation::kLanes, 0, stream>>>(operation);
  }
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    throw std::runtime_error(std::string("CUDA refused a kernel: ") + cudaGetErrorString(error));
}

}  // namespace

void LaunchKernel(int number, const void* operation, cudaStream_t stream) {
  Operations::At(number, operation, [&](const auto& own) { Launch(own, stream); });
}

}  // namespace fairway::cuda
