// Where a run computes, and what computes it there.
#pragma once

#include "common/cuda/machine.h"
#include "common/model/engine.h"
#include "common/optim/optimizer.h"
#include "common/parallel/communicator.h"
#include "common/settings/settings.h"

namespace fairway {

// The GPU to compute on, or null for the CPU, by settings.device: cpu; cuda; or auto, which is cuda where this build has it and a
// GPU is there. Loads libfairway_cuda.so, and LibTorch's CUDA libraries with it, for a GPU alone. Throws UsageError for cuda in a
// build without it, IoError where there is no GPU, where the library cannot be loaded, or where CUDA does not start.
//
// REQUIRES: no operation on tensors before it has asked LibTorch about CUDA; LibTorch would remember that there is none.
cuda::Machine* ChooseDevice(const Settings& settings);

// Where this process computes, and with whom: what comes of the settings `device`, `backend` and `threads`, and of who started it.
// Sets LibTorch's number of threads: as set, or the processors that this process may use, shared with the ranks of its host where
// nobody has bound them to some. Throws as ChooseDevice and MakeCommunicator do.
struct Place {
  explicit Place(const Settings& settings);
  cuda::Machine* machine;
  std::unique_ptr<Communicator> communicator;
};

// What follows is on the machine, or with null on the CPU; parameters and gradients are tensors there.
at::Device DeviceOf(const cuda::Machine* machine);
// Throws UsageError where a GPU cannot compute the model (passes.h).
std::unique_ptr<Engine> MakeEngine(const Settings& settings, NamedTensors parameters, NamedTensors gradients,
                                   cuda::Machine* machine);
std::unique_ptr<Optimizer> MakeOptimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters,
                                         FlatTensors gradients, cuda::Machine* machine, Communicator& communicator);

}  // namespace fairway
