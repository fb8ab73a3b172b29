// The artifact: the one file of weights that counts (docs/formats.md).
//
// A QUANTISED checkpoint without counters and lineage, packed (common/checkpoint/packed.h), in one or two zstd frames that declare
// their content sizes, then one zstd skippable frame with the SHA-256 of the frames before. `zstd -d` reads it; so does
// OpenWeights, which checks everything before it uses it.
#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/file.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/packed.h"

namespace fairway {

// The zstd levels that artifacts are packed at. Middle levels are worse on symbols.
inline constexpr std::array<int, 3> kShippedLevels = {1, 19, 22};

// What codes are compressed by: zstd, or the arithmetic coder (common/checkpoint/coder.h). All else is compressed by zstd.
enum class Coder { kZstd, kArithmetic };
// Of settings.coder.
Coder CoderNamed(std::string_view name);

struct Artifact {
  std::string bytes;           // the whole file
  std::string digest;          // SHA-256 of these bytes, hexadecimal
  std::string identity;        // of the checkpoint inside: the same as of what was packed
  int level = 0;               // zstd level that gave the fewest bytes
  uint64_t content_bytes = 0;  // packed, before compression
};

// Packs a QUANTISED checkpoint at each of zstd's `levels`, as many of them side by side as there are threads, and keeps the
// smallest result, the first one on ties. Equal settings and tensors give equal bytes, whatever the counters, lineage and threads.
// The result has been unpacked again and compared. REQUIRES: `levels` is not empty. Throws InputError where the content is beyond
// what OpenWeights takes.
Artifact PackArtifact(const CheckpointReader& quantised, std::span<const int> levels, int threads = 1, Coder coder = Coder::kArithmetic);

// An artifact is checked and unpacked, a plain checkpoint is opened as it is. Throws InputError for anything that is
// neither or is damaged.
CheckpointReader OpenWeights(InputFile file);
inline CheckpointReader OpenWeights(const std::string& path) {
  return OpenWeights(InputFile(path));
}

// The bytes of the artifact that PackArtifact makes of `quantised`, without the artifact.
uint64_t ArtifactBytes(const TensorSource& quantised, std::span<const int> levels, int threads, Coder coder);

// The names of the tensors of scales, by row and by column, of all codes in a checkpoint.
std::set<std::string> ScaleNames(const CheckpointReader& checkpoint);

// Those, and the names of the factors of low-rank corrections: all that is no weight by itself.
std::set<std::string> PartNames(const CheckpointReader& checkpoint);

// The weights behind codes: code * scale[row], with factors of columns code * (scale[row] * factor[column]), with a correction of low
// rank that plus the product of its factors; float32 [rows * columns]. `codes` must carry a Quantisation.
// Throws InputError where scales are missing, of another shape or not finite, or a code is outside its grid.
std::vector<float> Dequantise(const CheckpointReader& checkpoint, const TensorInfo& codes);

}  // namespace fairway
