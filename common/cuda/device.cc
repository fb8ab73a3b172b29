#include "common/cuda/device.h"

#include <dlfcn.h>

#include <filesystem>

#include "common/base/error.h"
#include "common/base/machine.h"

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

}  // namespace fairway
