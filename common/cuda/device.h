// What computes device operations: a GPU, behind libfairway_cuda.so, which programs load where they use one (device.h); in tests
// the CPU. Everything else that runs on a GPU, LibTorch's operations on its tensors, needs no more than that the library is there.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>

#include "common/cuda/operations.h"

namespace fairway::cuda {

// Work that was recorded from a stream and can be launched again at the cost of one launch.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void Replay() = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  virtual at::Device torch_device() const = 0;
  virtual std::string name() const = 0;
  // Bytes of its own memory that nobody has taken; 0 where its memory is the host's.
  virtual double free_bytes() const { return 0; }

  // Puts an operation on the device's stream, which LibTorch's operations of this thread use too; does not wait. Throws
  // std::runtime_error where the launch is refused.
  template <class Operation>
  void Launch(const Operation& operation) {
    LaunchNumber(Operations::NumberOf<Operation>(), &operation);
  }

  // The library has read and written so many bytes of rows of activations; for those who count.
  virtual void Passed(const char* /*what*/, double /*bytes*/) {}

  // Records what `work` puts on the stream, without doing it. `work` must have run once before, uncaptured.
  virtual std::unique_ptr<Graph> Capture(const std::function<void()>& work) = 0;

 private:
  virtual void LaunchNumber(int number, const void* operation) = 0;
};

// The function that libfairway_cuda.so exports: makes GPU number `gpu`, and a stream of its own, current on this thread. Throws
// what CUDA reports. May be called with one number only.
inline constexpr char kDeviceSymbol[] = "FairwayCudaDevice";
using DeviceFunction = Device*(int gpu);

}  // namespace fairway::cuda
