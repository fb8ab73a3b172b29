// The bytes of a token shard (docs/formats.md): a header of 256 little-endian int32, then N little-endian
// uint16.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace fairway {

inline constexpr int64_t kBos = 1;  // begins every document
inline constexpr size_t kShardHeaderBytes = 1024;
inline constexpr int64_t kMaxShardTokens = INT32_MAX;

// fineweb_SPLIT_NNNNNN.bin.
std::string ShardName(const std::string& split, int64_t index);
// fineweb_SPLIT_bytes_NNNNNN.bin: the byte sidecar of a shard, for each of its tokens the number of bytes of text.
std::string SidecarName(const std::string& split, int64_t index);
// What a file in a shard folder is to a split, by its name: fineweb_SPLIT_<digits>.bin,
// fineweb_SPLIT_bytes_<digits>.bin, another fineweb_SPLIT_*.bin (a copy, for instance), or none of the split's.
enum class ShardFile { kNone, kTokens, kBytes, kOther };
ShardFile ShardFileOf(std::string_view name, std::string_view split);
// The number in the name of a shard or sidecar. REQUIRES: ShardFileOf is kTokens or kBytes.
int64_t ShardNumber(std::string_view name);
// A file of this name is in a folder while the split is replaced by another, and after a program was killed during that.
std::string UnfinishedName(const std::string& split);

std::string ShardHeader(int64_t tokens);
// Returns the number of tokens. `header` is the file's beginning, `file_bytes` its whole size. InputError naming
// `path`: shorter than a header, wrong magic, another version, no tokens, a size that disagrees.
int64_t CheckShardHeader(std::span<const std::byte> header, uint64_t file_bytes, const std::string& path);

}  // namespace fairway
