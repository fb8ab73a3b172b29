#include <filesystem>

#include "common/tokens/byte_table.h"

namespace fairway {

std::string ByteTable::Find(const Settings& settings) {
  if (!settings.byte_table.empty()) return settings.byte_table;
  const std::filesystem::path beside_shards = std::filesystem::path(settings.data_path) / "byte_table.pb";
  return std::filesystem::exists(beside_shards) ? beside_shards.string() : settings.tokenizer_path;
}

}  // namespace fairway
