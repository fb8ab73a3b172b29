// A checkpoint laid out for a compressor: format version 3, which CheckpointReader reads like any other. Nothing stands between the
// data of one tensor and the next, numbers are taken apart into their bytes, and codes of like statistics lie together, because a
// compressor has one table of frequencies for a stretch. docs/formats.md gives the bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/checkpoint/checkpoint.h"

namespace fairway {

// How the codes of a matrix lie. What orders them is stored anyway: no order is stored.
enum class CodeOrder : uint32_t {
  kAsTheyStand = 0,     // row-major
  kRowsByScale = 1,     // row after row, those of larger scales first, equal ones as they stand
  kColumnsByScale = 2,  // column after column, likewise by their factors; as they stand where there are none
};

struct PackedTensor {
  std::string name;
  CodeOrder order = CodeOrder::kAsTheyStand;
};

// The codes of `codes` in this order. Nothing where they cannot lie in it: they are no matrix, it is empty, or its scales are
// no float16 of its size.
std::optional<std::string> OrderedCodes(const CheckpointReader& checkpoint, const TensorInfo& codes, CodeOrder order);

// What stands behind the data.
inline constexpr size_t kPackedTailBytes = 9;

// The whole of `checkpoint`, counters and lineage left out, its tensors in the order given. REQUIRES: each is named once, and codes
// can lie in their order.
std::string PackCheckpoint(const CheckpointReader& checkpoint, std::span<const PackedTensor> tensors);

}  // namespace fairway
