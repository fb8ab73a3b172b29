#include "common/cuda/device.h"

#include <dlfcn.h>

#include <filesystem>

#include "common/base/error.h"
#include "common/base/machine.h"
#include "common/cuda/optimizer.h"
#include "common/cuda/transformer.h"
#include "common/model/fused.h"

namespace fairway {
namespace {

cuda::MachineFunction* Load() {
  // Beside the program's folder, wherever the two are copied.
  const std::string path = std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / "lib/libfairway_cuda.so";
  // Global, so that LibTorch's CUDA libraries find each other; never unloaded.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  void* symbol = library == nullptr ? nullptr : dlsym(library, cuda::kMachineSymbol);
  if (symbol == nullptr) throw IoError(path, dlerror());
  return reinterpret_cast<cuda::MachineFunction*>(symbol);
}

}  // namespace

cuda::Machine* ChooseDevice(const Settings& settings) {
  if (settings.device == "cpu") return nullptr;
  const bool asked = settings.device == "cuda";
  if (asked && !BuiltWithCuda()) throw UsageError("DEVICE=cuda: this build is for CPUs only; it was made without nvcc");
  if (!BuiltWithCuda() || (!asked && GpuCount() == 0)) return nullptr;
  if (GpuCount() == 0) throw IoError("DEVICE=cuda", "no GPU: the CUDA driver is missing or offers none");
  cuda::MachineFunction* const machine = Load();
  try {
    return machine();
  } catch (const std::exception& error) {
    const std::string cause = error.what();  // LibTorch appends a stack trace
    throw IoError("DEVICE=" + settings.device, "CUDA does not start: " + cause.substr(0, cause.find('\n')));
  }
}

at::Device DeviceOf(const cuda::Machine* machine) { return machine != nullptr ? machine->device() : at::Device(at::kCPU); }

std::unique_ptr<Engine> MakeEngine(const Settings& settings, NamedTensors parameters, NamedTensors gradients,
                                   cuda::Machine* machine) {
  if (machine != nullptr) return cuda::MakeEngine(settings, std::move(parameters), std::move(gradients), *machine);
  return std::make_unique<FusedTransformer>(settings, std::move(parameters), std::move(gradients));
}

std::unique_ptr<Optimizer> MakeOptimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters,
                                         FlatTensors gradients, cuda::Machine* machine) {
  if (machine == nullptr) return std::make_unique<Optimizer>(settings, layout, std::move(parameters), std::move(gradients));
  return std::make_unique<cuda::DeviceOptimizer>(settings, layout, std::move(parameters), std::move(gradients), *machine);
}

}  // namespace fairway
