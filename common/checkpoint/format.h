// What writer and reader of checkpoints must agree on. Only for .cc files of this module: it shows protobuf types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint.pb.h"
#include "common/base/digest.h"
#include "common/checkpoint/checkpoint.h"

namespace fairway::format {

// Version 2 brought scales of columns, version 4 scales of groups and corrections of low rank; files of earlier versions have none
// and are read as they are. Versions 3 and 5 are versions 2 and 4 packed (packed.h), and version 6 is version 4 packed with codes
// in streams of the arithmetic coder (coder.h).
inline constexpr uint32_t kVersion = 4, kOldestVersion = 1, kPackedVersion = 5, kCodedVersion = 6;
constexpr bool IsPacked(uint32_t version) { return version == 3 || version >= kPackedVersion; }
inline constexpr uint64_t kAlignment = 64;

// The first nine bytes of every file: the tag of `magic` and its value.
inline constexpr std::string_view kMagic = "\tfairway\n";

// Tags of the fields that are written by hand: number << 3 | wire type (1: eight bytes, 2: length and bytes).
inline constexpr char kHeaderTag = 2 << 3 | 2, kTensorTag = 3 << 3 | 2, kPackedTag = 4 << 3 | 2,
                      kPackedHashTag = 5 << 3 | 1, kPaddingTag = 14 << 3 | 2, kFooterTag = 15 << 3 | 2, kDataTag = 15 << 3 | 2, kFooterHashTag = 6 << 3 | 1,
                      kFooterOffsetTag = 15 << 3 | 1;

// The footer ends with its hash and its offset, nine bytes each.
inline constexpr uint64_t kFixedFieldBytes = 9, kFooterTailBytes = 2 * kFixedFieldBytes;

void AppendVarint(std::string& out, uint64_t value);
void AppendFixed64(std::string& out, uint64_t value);
uint64_t Fixed64At(std::string_view bytes, uint64_t position);

// 1 to 255 printable ASCII characters without blanks: names travel into error lines, tables and other formats.
bool IsTensorName(std::string_view name);

// Bytes of a tensor of this shape; nothing where a size is negative or the product overflows.
std::optional<uint64_t> PayloadBytes(const TensorInfo& info);

// A file's beginning: the magic number and the header.
std::string Start(uint32_t version, Kind kind, const SettingValues& settings);

// The description of a tensor: its Tensor message without data.
pb::Tensor Describe(const TensorInfo& info);

// How the data of a tensor lie in a packed checkpoint. stream: see pb::Tensor.
struct Layout {
  uint32_t order = 0;
  uint64_t stream = 0;
  bool coded = false;  // in a stream
};

// The data of `tensors`, each as row-major as it is used, from the `packed` data of a checkpoint. REQUIRES: the tensors are valid,
// and the bytes of streams and of tensors outside of them are as many as those of `packed`. Throws InputError, for the file `name`,
// where codes lie in an order that does not fit them or a stream is not that of its codes.
std::vector<std::string> Unpack(const std::vector<TensorInfo>& tensors, const std::vector<Layout>& layouts, std::string_view packed,
                                const std::string& name);

std::string ShapeText(const std::vector<int64_t>& shape);  // "[2, 512]"; of more than kMaxDimensions the first ones

// What is wrong with a tensor of this shape and a payload of so many bytes; empty where nothing is.
std::string ShapeError(const TensorInfo& info, uint64_t payload_bytes);

// The SHA-256 of what a checkpoint says, whatever the order and the bytes it is laid out in. Numbers go in as 8 bytes,
// little-endian; texts and data as their length and their bytes. A tensor has a digest of its own, over name, dtype, number of
// dimensions and each of them, 0, (1, grid, code_min, code_max, scale), (2, the same, column_scale) or (3, the same, group,
// low_rank_left, low_rank_right), and data. The identity is over kind, number of settings, name and value of each by name, number
// of tensors, and their digests by name.
class Identity {
 public:
  Identity(Kind kind, const SettingValues& settings) : kind_(kind), settings_(settings) {}
  void Add(const TensorInfo& info, std::span<const std::byte> data);
  std::string Finish() const;  // hexadecimal

 private:
  Kind kind_;
  SettingValues settings_;
  std::map<std::string, std::string> tensors_;  // digests by name
};

}  // namespace fairway::format
