// How much memory scoring takes: of the host or, on a GPU, of the GPU. `settings` are as Settings::ForEvaluation gives them.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

#include "common/model/memory.h"
#include "common/settings/settings.h"

namespace fairway {

// Bytes that EvaluatePlain and EvaluateSliding take at most of the engine (EngineBytes, DeviceEngineBytes), and what they keep of a
// batch.
double ScoringBytes(const Settings& settings, at::Device device = at::kCPU);

// Bytes that EvaluateDocuments takes at most besides the weights, of a split of so many targets and documents (below 0: not known):
// tokens, adapters with their moments, and what a group's widest chunk, or a phase's pass, records for its gradients.
double DocumentTttBytes(const Settings& settings, int64_t documents, int64_t targets);

// Bytes that eval-sliding takes at most, before DocumentTttBytes and NgramMixture::Bytes, for a file of `file_bytes` that unpacks to
// `content_bytes` (0 where it does not).
double EstimateScoring(const Settings& settings, double file_bytes, double content_bytes, at::Device device = at::kCPU);

}  // namespace fairway
