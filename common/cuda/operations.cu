// Kernels of the bodies in operations.h. No header of LibTorch's: with them this file would take half a minute to compile.
#include <stdexcept>
#include <string>

#include "common/cuda/operations.h"

namespace fairway::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarpsPerBlock = 4;  // where a unit has one warp

__device__ float Plus(float a, float b) { return a + b; }
__device__ float Larger(float a, float b) { return a > b ? a : b; }

// Every thread of the warp gets the same: lanes pair off symmetrically.
template <float (*Combine)(float, float)>
__device__ float OverWarp(float x) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) x = Combine(x, __shfl_xor_sync(0xffffffffu, x, distance));
  return x;
}

// The threads of a warp, or of a block.
template <int kLanes>
struct Lanes {
  __device__ int64_t first() const { return threadIdx.x; }
  __device__ int64_t count() const { return kLanes; }
  __device__ float Sum(float x) const { return OverAll<Plus>(x); }
  __device__ float Max(float x) const { return OverAll<Larger>(x); }

 private:
  template <float (*Combine)(float, float)>
  __device__ float OverAll(float x) const {
    x = OverWarp<Combine>(x);
    if constexpr (kLanes == kWarp) {
      __syncwarp();
    } else {
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
__global__ void __launch_bounds__(kWarp* kWarpsPerBlock) OfWarps(const Operation operation, const int64_t units) {
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.y;
  if (unit < units) operation(Lanes<kWarp>{}, unit);
}

template <class Operation>
void Launch(const Operation& operation, cudaStream_t stream) {
  const int64_t units = operation.units();
  if (units == 0) return;
  if constexpr (Operation::kLanes == kWarp) {
    const dim3 blocks(static_cast<unsigned>((units + kWarpsPerBlock - 1) / kWarpsPerBlock)), threads(kWarp, kWarpsPerBlock);
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
