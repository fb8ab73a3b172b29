#include "common/checkpoint/format.h"

#include <algorithm>

#include "common/base/text.h"

namespace fairway::format {
namespace {

struct Canonical {
  void Number(uint64_t value) {
    std::string bytes;
    AppendFixed64(bytes, value);
    sha.Update(bytes);
  }
  void Text(std::string_view text) {
    Number(text.size());
    sha.Update(text);
  }

  Sha256 sha;
};

}  // namespace

void AppendVarint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void AppendFixed64(std::string& out, uint64_t value) {
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(value >> 8 * i));
}

uint64_t Fixed64At(std::string_view bytes, uint64_t position) {
  uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[position + i])) << 8 * i;
  return value;
}

bool IsTensorName(std::string_view name) {
  return !name.empty() && name.size() <= 255 &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > 32 && c < 127; });
}

void Identity::Add(const TensorInfo& info, std::span<const std::byte> data) {
  Canonical canonical;
  canonical.Text(info.name);
  canonical.Number(static_cast<uint64_t>(info.dtype));
  canonical.Number(info.shape.size());
  for (const int64_t size : info.shape) canonical.Number(size);
  const auto form = [](const Quantisation& quantisation) {
    if (quantisation.group > 0 || !quantisation.low_rank_left.empty() || !quantisation.low_rank_right.empty()) return 3;
    return quantisation.column_scale.empty() ? 1 : 2;
  };
  const int64_t of = info.quantisation ? form(*info.quantisation) : 0;
  canonical.Number(of);
  if (info.quantisation) {
    canonical.Text(info.quantisation->grid);
    canonical.Number(static_cast<int64_t>(info.quantisation->code_min));
    canonical.Number(static_cast<int64_t>(info.quantisation->code_max));
    canonical.Text(info.quantisation->scale);
    if (of >= 2) canonical.Text(info.quantisation->column_scale);
    if (of == 3) {
      canonical.Number(info.quantisation->group);
      canonical.Text(info.quantisation->low_rank_left);
      canonical.Text(info.quantisation->low_rank_right);
    }
  }
  canonical.Number(data.size());
  canonical.sha.Update(data);
  tensors_[info.name] = canonical.sha.Finish();
}

std::string Identity::Finish() const {
  Canonical canonical;
  canonical.Number(static_cast<uint64_t>(kind_));
  SettingValues settings = settings_;
  std::sort(settings.begin(), settings.end());
  canonical.Number(settings.size());
  for (const auto& [name, value] : settings) {
    canonical.Text(name);
    canonical.Text(value);
  }
  canonical.Number(tensors_.size());
  for (const auto& [name, digest] : tensors_) canonical.sha.Update(digest);
  return ToHex(canonical.sha.Finish());
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::vector<std::string> sizes;
  for (size_t i = 0; i < std::min(shape.size(), TensorInfo::kMaxDimensions); ++i) sizes.push_back(std::to_string(shape[i]));
  if (shape.size() > sizes.size()) sizes.push_back(StringPrintf("… (%zu sizes)", shape.size()));
  return "[" + Join(sizes, ", ") + "]";
}

std::string ShapeError(const TensorInfo& info, uint64_t payload_bytes) {
  const std::string shape = StringPrintf("tensor %s has shape %s of %s, ", info.name.c_str(), ShapeText(info.shape).c_str(),
                                         DTypeName(info.dtype).data());
  if (info.shape.size() > TensorInfo::kMaxDimensions)
    return shape + StringPrintf("which is more than %zu dimensions", TensorInfo::kMaxDimensions);
  if (PayloadBytes(info) != payload_bytes)
    return shape + StringPrintf("which disagrees with its payload of %ju bytes", payload_bytes);
  return "";
}

std::optional<uint64_t> PayloadBytes(const TensorInfo& info) {
  // Sizes of zero are left out until the end: an overflow is one whether or not a zero follows it.
  int64_t product = 1, bytes;
  bool empty = false;
  for (const int64_t size : info.shape) {
    if (size < 0) return std::nullopt;
    if (size == 0)
      empty = true;
    else if (__builtin_mul_overflow(product, size, &product))
      return std::nullopt;
  }
  if (__builtin_mul_overflow(product, static_cast<int64_t>(DTypeSize(info.dtype)), &bytes)) return std::nullopt;
  return empty ? 0 : bytes;
}

}  // namespace fairway::format
