#include "common/base/machine.h"

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

}  // namespace fairway
