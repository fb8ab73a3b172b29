// How much memory scoring takes.
#pragma once

#include "common/settings/settings.h"

namespace fairway {

// Bytes that a program holds which links LibTorch and has done nothing yet, with room for what the library keeps for
// itself.
inline constexpr double kLibTorchBytes = 300e6;

// Bytes that the engine works in while it trains or scores up to `sequences` sequences of train_seq_len at a time, at
// most: of a chunk's activations, and of the weights packed for products.
double EngineBytes(const Settings& settings, int64_t sequences, bool training);

// The same for EvaluatePlain and EvaluateSliding, and what they keep of a batch.
double ScoringBytes(const Settings& settings);

// Bytes that eval-sliding takes at most for a file of `file_bytes` that unpacks to `content_bytes` (0 where it does
// not).
double EstimateScoring(const Settings& settings, double file_bytes, double content_bytes);

}  // namespace fairway
