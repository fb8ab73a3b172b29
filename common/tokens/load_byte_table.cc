#include <filesystem>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/tokens/byte_table.h"

namespace fairway {
namespace {

std::string Find(const Settings& settings) {
  if (!settings.byte_table.empty()) return settings.byte_table;
  const std::filesystem::path beside_shards = std::filesystem::path(settings.data_path) / "byte_table.pb";
  return std::filesystem::exists(beside_shards) ? beside_shards.string() : settings.tokenizer_path;
}

}  // namespace

ByteTable ByteTable::Load(const Settings& settings) {
  const std::string path = Find(settings);
  ByteTable table = Read(path);
  if (table.size() != settings.vocab_size) {
    throw InputError(path, StringPrintf("has %jd pieces where vocab_size is %jd", table.size(), settings.vocab_size));
  }
  return table;
}

}  // namespace fairway
