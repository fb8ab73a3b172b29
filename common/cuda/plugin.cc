// libfairway_cuda.so: the device that is a GPU.
#include <ATen/Context.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>

#include "common/cuda/device.h"

namespace fairway::cuda {

// operations.cu
void LaunchKernel(int number, const void* operation, cudaStream_t stream);

namespace {

class CudaGraph : public Graph {
 public:
  explicit CudaGraph(const std::function<void()>& work) {
    // A graph has a pool of memory of its own, which serves nobody else after it, and inside a capture no memory can be given back:
    // what the graph before it had, and the pass that ran as it is, goes back to the driver now.
    c10::cuda::CUDACachingAllocator::emptyCache();
    graph_.capture_begin();
    try {
      work();
    } catch (...) {
      // Nothing else could run on a stream that is still captured. What CUDA says of a broken capture is not the cause.
      try {
        graph_.capture_end();
      } catch (const std::exception&) {
      }
      throw;
    }
    graph_.capture_end();
  }
  void Replay() override { graph_.replay(); }

 private:
  at::cuda::CUDAGraph graph_;
};

class Gpu : public Device {
 public:
  explicit Gpu(int gpu) : device_(at::kCUDA, static_cast<c10::DeviceIndex>(gpu)), stream_(Stream(device_)) {
    // Sums of the passes' products are float32 to the end, also where a product is split along them.
    at::globalContext().setAllowBF16ReductionCuBLAS(false);
  }

  at::Device torch_device() const override { return device_; }
  std::string name() const override { return at::cuda::getDeviceProperties(device_.index())->name; }
  double free_bytes() const override {
    size_t free = 0, all = 0;
    if (cudaMemGetInfo(&free, &all) != cudaSuccess) throw std::runtime_error("CUDA does not say how much memory is free");
    return static_cast<double>(free);
  }
  std::unique_ptr<Graph> Capture(const std::function<void()>& work) override { return std::make_unique<CudaGraph>(work); }

 private:
  static at::cuda::CUDAStream Stream(at::Device device) {
    c10::cuda::set_device(device.index());
    // Not the default stream: a graph cannot be captured there.
    const at::cuda::CUDAStream stream = at::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index());
    at::cuda::setCurrentCUDAStream(stream);
    return stream;
  }
  void LaunchNumber(int number, const void* operation) override { LaunchKernel(number, operation, stream_.stream()); }

  const at::Device device_;
  const at::cuda::CUDAStream stream_;
};

}  // namespace
}  // namespace fairway::cuda

extern "C" __attribute__((visibility("default"))) fairway::cuda::Device* FairwayCudaDevice(int gpu) {
  static fairway::cuda::Gpu device(gpu);
  return &device;
}
