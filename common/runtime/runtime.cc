#include "common/runtime/runtime.h"

#include <ATen/Parallel.h>

#include <cstdlib>

#include "common/base/error.h"
#include "common/base/hardware.h"
#include "common/base/launch.h"
#include "common/base/log.h"
#include "common/base/plugin.h"
#include "common/base/text.h"
#include "common/base/threads.h"
#include "common/cuda/engine.h"
#include "common/cuda/optimizer.h"
#include "common/model/cpu_engine.h"
#include "common/model/products.h"
#include "common/optim/cpu_optimizer.h"

namespace fairway {

cuda::Device* ChooseDevice(const Settings& settings) {
  if (settings.device == "cpu") return nullptr;
  const bool asked = settings.device == "cuda";
  if (asked && !BuiltWithCuda()) throw UsageError("DEVICE=cuda: this build is for CPUs only; it was made without nvcc");
  if (!BuiltWithCuda()) return nullptr;
  const std::string trouble = GpuTrouble();
  if (!asked && GpuCount() == 0) {
    if (!trouble.empty()) LogLine("device: the CPU, because " + trouble);
    return nullptr;
  }
  if (GpuCount() == 0) throw IoError("DEVICE=cuda", "no GPU: " + (trouble.empty() ? "the CUDA driver is missing or offers none" : trouble));
  // Each rank of a host has its own GPU, or is shown no other one.
  const int64_t gpu = GpuCount() == 1 ? 0 : ReadLaunch().local_rank;
  if (gpu >= GpuCount())
    throw IoError("DEVICE=" + settings.device, StringPrintf("rank %jd of this host has no GPU: the driver offers %d", gpu, GpuCount()));
  const auto make = reinterpret_cast<cuda::DeviceFunction*>(LoadPlugin("libfairway_cuda.so", cuda::kDeviceSymbol));
  try {
    return make(static_cast<int>(gpu));
  } catch (const std::exception& error) {
    throw IoError("DEVICE=" + settings.device, "CUDA does not start: " + FirstLine(error.what()));
  }
}

void UseThreads(const Settings& settings) {
  const int threads = settings.ThreadCount();
  if (settings.threads > threads)
    Log("threads: %d of the %jd that THREADS asks for: OMP_THREAD_LIMIT = %s", threads, settings.threads, std::getenv("OMP_THREAD_LIMIT"));
  CheckThreadStacks();
  at::set_num_threads(threads);
}

Runtime::Runtime(const Settings& settings)
    : device(settings.backend == "mpi" && settings.device == "auto" ? nullptr : ChooseDevice(settings)),
      communicator(MakeCommunicator(settings, device != nullptr)) {
  UseThreads(settings);
}

void Runtime::CheckMemory(const Settings& settings, double bytes) const {
  settings.CheckMemory(bytes);
  const double free = device != nullptr ? device->free_bytes() : 0;
  if (free > 0 && bytes > free)
    throw UsageError(StringPrintf("%s has %.2f GB free, and about %.2f GB would be taken: MICRO_BATCH_SEQS=N computes N sequences at a time",
                                  device->name().c_str(), free / 1e9, bytes / 1e9));
}

int Runtime::threads() const { return at::get_num_threads(); }

std::string Runtime::processor() const { return device != nullptr ? device->name() : CpuName(); }

std::string Runtime::units() const {
  std::string units = device != nullptr ? device->name() : StringPrintf("%d threads", threads());
  if (communicator->world_size() > 1) units += StringPrintf(", %jd ranks", communicator->world_size());
  return units;
}

std::string Runtime::hardware() const { return (device != nullptr ? "" : CpuName() + ", ") + units(); }

at::Device TorchDevice(const cuda::Device* device) { return device != nullptr ? device->torch_device() : at::Device(at::kCPU); }

std::unique_ptr<Engine> MakeEngine(const Settings& settings, NamedTensors parameters, NamedTensors gradients,
                                   cuda::Device* device) {
  if (device != nullptr) return cuda::MakeEngine(settings, std::move(parameters), std::move(gradients), *device);
  ChooseProducts(settings);
  return std::make_unique<CpuEngine>(settings, std::move(parameters), std::move(gradients));
}

std::unique_ptr<Optimizer> MakeOptimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters,
                                         FlatTensors gradients, cuda::Device* device, Communicator& communicator) {
  if (device == nullptr)
    return std::make_unique<CpuOptimizer>(settings, layout, std::move(parameters), std::move(gradients), communicator);
  return std::make_unique<cuda::DeviceOptimizer>(settings, layout, std::move(parameters), std::move(gradients), *device,
                                                 communicator);
}

}  // namespace fairway
