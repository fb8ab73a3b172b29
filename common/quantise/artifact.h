// The artifact: the one file of weights that counts (specification 2, section 4).
//
// A QUANTISED checkpoint without lineage, compressed by zstd, then one zstd skippable frame with the SHA-256 of the
// compressed bytes. `zstd -d` reads it; so does OpenArtifact, which trusts nothing that it has not checked.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/checkpoint/checkpoint.h"

namespace fairway {

// Reads `path`: an artifact is checked and unpacked, a plain checkpoint is opened as it is ("-": standard input, either).
// Throws IoError, or InputError for anything that is neither or is damaged.
CheckpointReader OpenWeights(const std::string& path);

// The weights behind codes: code * scale[row], float32 [rows * columns]. `codes` must carry a Quantisation.
std::vector<float> Dequantise(const CheckpointReader& checkpoint, const TensorInfo& codes);

}  // namespace fairway
