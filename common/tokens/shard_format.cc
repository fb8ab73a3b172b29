#include "common/tokens/shard_format.h"

#include <cstring>

#include "common/base/error.h"
#include "common/base/text.h"

namespace fairway {
namespace {

constexpr int32_t kMagic = 20240520, kVersion = 1;

}  // namespace

std::string ShardName(const std::string& split, int64_t index) {
  return StringPrintf("fineweb_%s_%06ld.bin", split.c_str(), index);
}

bool IsShardName(std::string_view name, std::string_view split) {
  const std::string prefix = "fineweb_" + std::string(split) + "_";
  return name.size() > prefix.size() + 4 && name.starts_with(prefix) && name.ends_with(".bin");
}

std::string UnfinishedName(const std::string& split) { return ".fineweb_" + split + ".unfinished"; }

std::string ShardHeader(int64_t tokens) {
  const int32_t fields[3] = {kMagic, kVersion, static_cast<int32_t>(tokens)};
  std::string header(kShardHeaderBytes, '\0');
  std::memcpy(header.data(), fields, sizeof fields);
  return header;
}

int64_t CheckShardHeader(std::span<const std::byte> header, uint64_t file_bytes, const std::string& path) {
  if (header.size() < kShardHeaderBytes)
    throw InputError(path,
                     StringPrintf("is %zu bytes long, shorter than the header of a token shard (1024)", header.size()));
  int32_t fields[3];
  std::memcpy(fields, header.data(), sizeof fields);
  const auto [magic, version, tokens] = fields;
  if (magic != kMagic)
    throw InputError(path, StringPrintf("is not a token shard: its magic is %d, not %d", magic, kMagic));
  if (version != kVersion)
    throw InputError(path,
                     StringPrintf("is a token shard of version %d; this program reads version %d", version, kVersion));
  if (tokens <= 0) throw InputError(path, StringPrintf("says that it holds %d tokens", tokens));
  const uint64_t expected = kShardHeaderBytes + 2 * static_cast<uint64_t>(tokens);
  if (file_bytes != expected)
    throw InputError(
        path, StringPrintf("is %lu bytes long, but its header's %d tokens make %lu", file_bytes, tokens, expected));
  return tokens;
}

}  // namespace fairway
