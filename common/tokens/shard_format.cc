#include "common/tokens/shard_format.h"

#include <cstring>

#include "common/base/error.h"
#include "common/base/text.h"

namespace fairway {
namespace {

constexpr int32_t kMagic = 20240520, kVersion = 1;
constexpr std::string_view kSuffix = ".bin";
constexpr size_t kMostDigits = 9;

}  // namespace

std::string ShardName(const std::string& split, int64_t index) {
  return StringPrintf("fineweb_%s_%06jd.bin", split.c_str(), index);
}

std::string SidecarName(const std::string& split, int64_t index) {
  return ShardName(split + "_bytes", index);
}

ShardFile ShardFileOf(std::string_view name, std::string_view split) {
  const std::string prefix = "fineweb_" + std::string(split) + "_";
  if (!name.starts_with(prefix) || !name.ends_with(kSuffix) || name.size() < prefix.size() + kSuffix.size())
    return ShardFile::kNone;
  std::string_view rest = name.substr(prefix.size(), name.size() - prefix.size() - kSuffix.size());
  const bool bytes = rest.starts_with("bytes_");
  if (bytes) rest.remove_prefix(6);
  const bool number = !rest.empty() && rest.size() <= kMostDigits && rest.find_first_not_of("0123456789") == rest.npos;
  return !number ? ShardFile::kOther : bytes ? ShardFile::kBytes : ShardFile::kTokens;
}

int64_t ShardNumber(std::string_view name) {
  const size_t begin = name.rfind('_') + 1;
  int64_t number = 0;
  ParseInt(name.substr(begin, name.size() - kSuffix.size() - begin), &number);
  return number;
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
        path, StringPrintf("is %ju bytes long, but its header's %d tokens make %ju", file_bytes, tokens, expected));
  return tokens;
}

}  // namespace fairway
