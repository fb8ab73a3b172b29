// What a program can say about the machine it runs on.
#pragma once

#include <string>

namespace fairway {

// The processor's name as the system gives it, "AMD EPYC 9B45"; "unknown" where it gives none.
std::string CpuName();

}  // namespace fairway
