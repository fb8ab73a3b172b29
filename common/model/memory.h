// How much of the host's memory the CPU engine takes. The device's engine: cuda/memory.h.
#pragma once

#include "common/settings/settings.h"

namespace fairway {

// Bytes that a program holds which links LibTorch and has done nothing yet, with a margin for what the library keeps for itself.
inline constexpr double kLibTorchBytes = 300e6;

// Bytes that CpuEngine works in while it trains or scores up to `sequences` sequences of train_seq_len at a time, or as many tokens in
// shorter segments, at most: a chunk's activations, and the weights packed for products. (cpu_engine.cc)
double EngineBytes(const Settings& settings, int64_t sequences, bool training);

}  // namespace fairway
