// A checkpoint laid out for a compressor: format versions 3, 5 and 6, which CheckpointReader reads like any other. The data of
// tensors follow each other without gaps, numbers are split into their bytes, and codes of similar statistics are adjacent, because
// a compressor has one table of frequencies per block. docs/formats.md gives the bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/checkpoint/checkpoint.h"

namespace fairway {

// The order of a matrix's codes. It follows from the scales, which are stored anyway, so no order is stored.
enum class CodeOrder : uint32_t {
  kAsTheyStand = 0,     // row-major
  kRowsByScale = 1,     // row after row, those of larger scales first, equal ones in their order
  kColumnsByScale = 2,  // column after column, likewise by their factors; in their order where there are none
  kCoded = 3,           // in a stream of the arithmetic coder (coder.h)
};

struct PackedTensor {
  std::string name;
  CodeOrder order = CodeOrder::kAsTheyStand;
  int stream = 0;  // coded matrices that follow one another with the same number share a stream
};

// A file has at most so many streams: each costs its reader a model.
inline constexpr int kMostStreams = 64;

// What a file of `bytes` may unpack to. zstd's literals take at least a bit each, an eightfold gain; only repeats and codes that
// are all alike gain more, and trained weights hold few. Eight times that, and a megabyte for tiny files, suffices for a model half
// of whose weights are zero, while memory stays in proportion to the size of the file.
constexpr uint64_t MaxContentBytes(uint64_t bytes) {
  return 64 * bytes + (1 << 20);
}

// Whether the arithmetic coder takes these codes: a matrix of int8, not empty, whose scales and factors are float16 of its size.
bool CanBeCoded(const TensorSource& checkpoint, const TensorInfo& codes);

// The codes of `codes` in this order. Nothing where they cannot lie in it: they are no matrix, it is empty, or its scales are
// no float16 of its size.
std::optional<std::string> OrderedCodes(const TensorSource& checkpoint, const TensorInfo& codes, CodeOrder order);

// The whole of `checkpoint`, counters and lineage left out, its tensors in the order given; the streams of coded ones come last. Of
// version 6 where there are any, else 5. REQUIRES: each is named once, codes can lie in their order, and there are at most
// kMostStreams. The bytes do not depend on `threads`. `data_end` receives where the data of the other tensors end, and the streams
// begin.
std::string PackCheckpoint(const TensorSource& checkpoint, std::span<const PackedTensor> tensors, int threads = 1,
                           size_t* data_end = nullptr);

}  // namespace fairway
