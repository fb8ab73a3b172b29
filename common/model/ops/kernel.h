// How a kernel is declared, and which of its builds runs. A kernel file is compiled once for each instruction set
// (fairway_kernels in cmake/Fairway.cmake), each time into a namespace of that name; FAIRWAY_KERNEL declares them all and a
// constant that points to the one for this processor. Kernels take raw pointers and a range of rows, and start no threads: the
// caller divides the rows.
#pragma once

#include <cstdint>

#if defined(__aarch64__) && !defined(FAIRWAY_TARGET)
#include <sys/auxv.h>
#endif

namespace fairway {

// Rows first … last - 1.
struct Rows {
  int64_t first, last;
  int64_t count() const { return last - first; }
};

#if defined(FAIRWAY_TARGET)

// Inside a kernel file: its own build alone, and no code that another one could be linked against.
#define FAIRWAY_KERNEL(name, ...)                      \
  namespace FAIRWAY_TARGET {                           \
  void name(__VA_ARGS__);                              \
  }

#elif defined(__x86_64__)

template <class Kernel>
Kernel* ForThisProcessor(Kernel* v4_bf16, Kernel* v4, Kernel* v3, Kernel* baseline) {
  // Static objects may be set up before the compiler's own table is.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
    return __builtin_cpu_supports("avx512bf16") ? v4_bf16 : v4;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) return v3;
  return baseline;
}

#define FAIRWAY_KERNEL(name, ...)                                                                 \
  namespace x86_64_v4_bf16 { void name(__VA_ARGS__); }                                            \
  namespace x86_64_v4 { void name(__VA_ARGS__); }                                                 \
  namespace x86_64_v3 { void name(__VA_ARGS__); }                                                 \
  namespace baseline { void name(__VA_ARGS__); }                                                  \
  inline void (*const name)(__VA_ARGS__) =                                                        \
      ForThisProcessor(&x86_64_v4_bf16::name, &x86_64_v4::name, &x86_64_v3::name, &baseline::name)

#elif defined(__aarch64__)

// Every arm64 processor has NEON, which the baseline uses; Armv8.6 has NEON's products of bfloat16 besides.
template <class Kernel>
Kernel* ForThisProcessor(Kernel* armv8_bf16, Kernel* baseline) {
  constexpr unsigned long kBFloat16 = 1ul << 14;  // HWCAP2_BF16 of Linux' asm/hwcap.h
  return (getauxval(AT_HWCAP2) & kBFloat16) != 0 ? armv8_bf16 : baseline;
}

#define FAIRWAY_KERNEL(name, ...)                   \
  namespace armv8_bf16 { void name(__VA_ARGS__); }  \
  namespace baseline { void name(__VA_ARGS__); }    \
  inline void (*const name)(__VA_ARGS__) = ForThisProcessor(&armv8_bf16::name, &baseline::name)

#else

#define FAIRWAY_KERNEL(name, ...)                 \
  namespace baseline { void name(__VA_ARGS__); }  \
  inline void (*const name)(__VA_ARGS__) = &baseline::name

#endif

}  // namespace fairway
