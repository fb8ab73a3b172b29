// What a program can say about its build and the machine it runs on.
#pragma once

#include <string>

namespace fairway {

// The processor's name as the system gives it, "AMD EPYC 9B45"; "unknown" where it gives none.
std::string CpuName();

// Whether this build has kernels for GPUs.
bool BuiltWithCuda();

// Whether this build can run as several processes by MPI.
bool BuiltWithMpi();

// The GPUs that the CUDA driver offers this process (CUDA_VISIBLE_DEVICES counts); 0 without a driver.
int GpuCount();
// Why a driver that is there offers none; empty where it offers some, knows of none, or is not there.
std::string GpuTrouble();

}  // namespace fairway
