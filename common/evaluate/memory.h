// How much memory scoring takes.
#pragma once

#include "common/model/memory.h"
#include "common/settings/settings.h"

namespace fairway {

// Bytes that EvaluatePlain and EvaluateSliding take at most of the engine (EngineBytes), and what they keep of a batch.
double ScoringBytes(const Settings& settings);

// Bytes that eval-sliding takes at most for a file of `file_bytes` that unpacks to `content_bytes` (0 where it does
// not).
double EstimateScoring(const Settings& settings, double file_bytes, double content_bytes);

}  // namespace fairway
