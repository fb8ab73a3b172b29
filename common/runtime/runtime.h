// What a process computes with: a GPU or the processor's threads, alone or as one of several ranks. The only module that queries
// the hardware and the launcher, and that makes devices, communicators, engines and optimisers.
#pragma once

#include <memory>
#include <string>

#include "common/cuda/device.h"
#include "common/model/engine.h"
#include "common/optim/optimizer.h"
#include "common/parallel/communicator.h"
#include "common/settings/settings.h"

namespace fairway {

// The GPU to compute on, or null for the CPU, by settings.device: cpu; cuda; or auto, which is cuda where this build has it and a
// GPU is there; where a driver is there that does not start, it logs why it is the CPU. Loads libfairway_cuda.so, and LibTorch's
// CUDA libraries with it, for a GPU alone. Throws UsageError for cuda in a build without it, IoError where there is no GPU, where
// the library cannot be loaded, or where CUDA does not start.
//
// REQUIRES: no operation on tensors before it has asked LibTorch about CUDA; LibTorch would remember that there is none.
cuda::Device* ChooseDevice(const Settings& settings);

// Sets the number of threads of LibTorch and of all teams (ops/team.h) to settings.ThreadCount(): as set, or the processors that
// this process may use, shared with the ranks of its host where none is bound to some. Logs where OMP_THREAD_LIMIT allows fewer
// than settings.threads. Throws as CheckThreadStacks does.
void UseThreads(const Settings& settings);

// Chooses all of it by the settings `device`, `backend` and `threads` and by the launcher. Throws as ChooseDevice, MakeCommunicator
// and UseThreads do.
struct Runtime {
  explicit Runtime(const Settings& settings);

  // Throws UsageError where `bytes` of the memory that computing takes, the GPU's or else the host's, are more than
  // settings.memory_limit, or than the GPU has free.
  void CheckMemory(const Settings& settings, double bytes) const;

  int threads() const;
  // The GPU's name or, on the CPU, the processor's.
  std::string processor() const;
  // What computes, for a log: "NVIDIA H100, 8 ranks"; "4 threads".
  std::string units() const;
  // The same with the processor's name: "AMD EPYC 9B45, 4 threads".
  std::string hardware() const;

  cuda::Device* device;  // null: the CPU
  std::unique_ptr<Communicator> communicator;
};

// What follows is on the device, or with null on the CPU; parameters and gradients are tensors there.
at::Device TorchDevice(const cuda::Device* device);
// Throws UsageError where a GPU cannot compute the model (cuda/backend.h).
std::unique_ptr<Engine> MakeEngine(const Settings& settings, NamedTensors parameters, NamedTensors gradients,
                                   cuda::Device* device);
std::unique_ptr<Optimizer> MakeOptimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters,
                                         FlatTensors gradients, cuda::Device* device, Communicator& communicator);

}  // namespace fairway
