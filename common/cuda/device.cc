#include "common/cuda/device.h"

#include <ATen/Parallel.h>

#include <cstdlib>

#include "common/base/error.h"
#include "common/base/launch.h"
#include "common/base/log.h"
#include "common/base/machine.h"
#include "common/base/plugin.h"
#include "common/base/threads.h"
#include "common/cuda/optimizer.h"
#include "common/cuda/transformer.h"
#include "common/model/fused.h"
#include "common/model/products.h"

namespace fairway {

cuda::Machine* ChooseDevice(const Settings& settings) {
  if (settings.device == "cpu") return nullptr;
  const bool asked = settings.device == "cuda";
  if (asked && !BuiltWithCuda()) throw UsageError("DEVICE=cuda: this build is for CPUs only; it was made without nvcc");
  if (!BuiltWithCuda() || (!asked && GpuCount() == 0)) return nullptr;
  if (GpuCount() == 0) throw IoError("DEVICE=cuda", "no GPU: the CUDA driver is missing or offers none");
  // Each rank of a host has its own GPU, or is shown no other one.
  const int64_t gpu = GpuCount() == 1 ? 0 : LaunchOf().local_rank;
  if (gpu >= GpuCount())
    throw IoError("DEVICE=" + settings.device, StringPrintf("rank %ld of this host has no GPU: the driver offers %d", gpu, GpuCount()));
  const auto machine = reinterpret_cast<cuda::MachineFunction*>(LoadPlugin("libfairway_cuda.so", cuda::kMachineSymbol));
  try {
    return machine(static_cast<int>(gpu));
  } catch (const std::exception& error) {
    const std::string cause = error.what();  // LibTorch appends a stack trace
    throw IoError("DEVICE=" + settings.device, "CUDA does not start: " + cause.substr(0, cause.find('\n')));
  }
}

Place::Place(const Settings& settings)
    : machine(settings.backend == "mpi" && settings.device == "auto" ? nullptr : ChooseDevice(settings)),
      communicator(MakeCommunicator(settings, machine != nullptr)) {
  const int threads = settings.ThreadCount();
  if (settings.threads > threads)
    Log("threads: %d of the %ld that THREADS asks for: OMP_THREAD_LIMIT = %s", threads, settings.threads, std::getenv("OMP_THREAD_LIMIT"));
  CheckThreadStacks();
  at::set_num_threads(threads);
}

at::Device DeviceOf(const cuda::Machine* machine) { return machine != nullptr ? machine->device() : at::Device(at::kCPU); }

std::unique_ptr<Engine> MakeEngine(const Settings& settings, NamedTensors parameters, NamedTensors gradients,
                                   cuda::Machine* machine) {
  if (machine != nullptr) return cuda::MakeEngine(settings, std::move(parameters), std::move(gradients), *machine);
  ChooseProducts(settings);
  return std::make_unique<FusedTransformer>(settings, std::move(parameters), std::move(gradients));
}

std::unique_ptr<Optimizer> MakeOptimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters,
                                         FlatTensors gradients, cuda::Machine* machine, Communicator& communicator) {
  if (machine == nullptr)
    return std::make_unique<Optimizer>(settings, layout, std::move(parameters), std::move(gradients), communicator);
  return std::make_unique<cuda::DeviceOptimizer>(settings, layout, std::move(parameters), std::move(gradients), *machine,
                                                 communicator);
}

}  // namespace fairway
