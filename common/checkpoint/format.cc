#include "common/checkpoint/format.h"

#include <algorithm>

#include "common/base/text.h"

namespace fairway::format {

void AppendVarint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void AppendFixed64(std::string& out, uint64_t value) {
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(value >> 8 * i));
}

uint64_t Hash(std::string_view bytes) {
  Xxh3 hash;
  hash.Update(bytes);
  return hash.Digest();
}

bool IsTensorName(std::string_view name) {
  return !name.empty() && name.size() <= 255 &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > 32 && c < 127; });
}

Identity::Identity(Kind kind, const SettingValues& settings) {
  Number(static_cast<uint64_t>(kind));
  Number(settings.size());
  for (const auto& [name, value] : settings) {
    Text(name);
    Text(value);
  }
}

void Identity::Add(const TensorInfo& info, std::span<const std::byte> data) {
  Text(info.name);
  Number(static_cast<uint64_t>(info.dtype));
  Number(info.shape.size());
  for (const int64_t size : info.shape) Number(size);
  Number(info.quantisation.has_value());
  if (info.quantisation) {
    Text(info.quantisation->grid);
    Number(static_cast<int64_t>(info.quantisation->code_min));
    Number(static_cast<int64_t>(info.quantisation->code_max));
    Text(info.quantisation->scale);
  }
  Number(data.size());
  sha_.Update(data);
}

std::string Identity::Finish() {
  return ToHex(sha_.Finish());
}

void Identity::Number(uint64_t value) {
  std::string bytes;
  AppendFixed64(bytes, value);
  sha_.Update(bytes);
}

void Identity::Text(std::string_view text) {
  Number(text.size());
  sha_.Update(text);
}

}  // namespace fairway::format
