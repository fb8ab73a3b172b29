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

// Asks the driver itself, so that a program needs neither CUDA's headers nor its libraries to find out.
int GpuCount() {
  static const int count = [] {
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver == nullptr) return 0;
    const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
    const auto get_count = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
    int found = 0;
    return init != nullptr && get_count != nullptr && init(0) == 0 && get_count(&found) == 0 ? found : 0;
  }();
  return count;
}

}  // namespace fairway
