#include "common/base/hardware.h"

#include <dlfcn.h>

#include <fstream>

#include "common/base/text.h"

namespace fairway {

std::string CpuName() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.starts_with("model name") && line.find(':') != std::string::npos)
      return Trim(line.substr(line.find(':') + 1));
  }
  return "unknown";
}

bool BuiltWithCuda() { return FAIRWAY_CUDA; }
bool BuiltWithMpi() { return FAIRWAY_MPI; }

namespace {

struct Gpus {
  int count = 0;
  std::string trouble;
};

// Asks the driver itself, so that a program needs neither CUDA's headers nor its libraries to find out.
const Gpus& AskDriver() {
  static const Gpus gpus = [] {
    Gpus found;
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver == nullptr) return found;
    const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
    const auto get_count = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
    const auto describe = reinterpret_cast<int (*)(int, const char**)>(dlsym(driver, "cuGetErrorString"));
    if (init == nullptr || get_count == nullptr) {
      found.trouble = "libcuda.so.1 is no CUDA driver";
      return found;
    }
    int error = init(0);
    if (error == 0) error = get_count(&found.count);
    constexpr int kStub = 34, kNoDevice = 100;  // CUDA_ERROR_STUB_LIBRARY, CUDA_ERROR_NO_DEVICE: there is simply none
    if (error == 0 || error == kStub || error == kNoDevice) return found;
    const char* text = nullptr;
    if (describe == nullptr || describe(error, &text) != 0 || text == nullptr) text = "of no name";
    return Gpus{0, "the CUDA driver does not start: error " + std::to_string(error) + ", " + text};
  }();
  return gpus;
}

}  // namespace

int GpuCount() { return AskDriver().count; }
std::string GpuTrouble() { return AskDriver().trouble; }

}  // namespace fairway
