#include "common/checkpoint/packed.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/checkpoint/format.h"

namespace fairway {
namespace {

using namespace format;

// A tensor and its data, row-major; null where there is none of that name.
struct Found {
  const TensorInfo* info = nullptr;
  const char* data = nullptr;
};
using Find = std::function<Found(const std::string& name)>;

// 0 to size - 1 by falling values of the float16 tensor `scale`, read as whole numbers (of positive ones the same), equal ones as
// they stand. Nothing where that is no tensor of so many.
std::optional<std::vector<uint32_t>> FallingScales(const Found& scale, int64_t size) {
  if (scale.info == nullptr || scale.info->dtype != DType::kFloat16 || scale.info->shape != std::vector<int64_t>{size})
    return std::nullopt;
  std::vector<uint16_t> values(size);
  if (size > 0) std::memcpy(values.data(), scale.data, 2 * size);
  std::vector<uint32_t> places(size);
  std::iota(places.begin(), places.end(), 0);
  std::ranges::stable_sort(places, [&](uint32_t a, uint32_t b) { return values[a] > values[b]; });
  return places;
}

// The rows or columns of a matrix of codes, in the order in which they lie one after another.
struct Lines {
  bool by_row;
  size_t rows, columns;
  std::vector<uint32_t> falling;

  // Calls move(place, at) for each code: the one at `at` of the row-major matrix lies at `place`.
  template <typename Move>
  void ForEach(Move move) const {
    constexpr size_t kTile = 64;  // of a column's codes: what they stand beside stays in cache for the next columns
    const size_t length = by_row ? columns : rows, tile = by_row ? length : kTile;
    for (size_t first = 0; first < length; first += tile) {
      const size_t last = std::min(first + tile, length);
      for (size_t line = 0; line < falling.size(); ++line)
        for (size_t i = first; i < last; ++i) move(line * length + i, by_row ? falling[line] * columns + i : i * columns + falling[line]);
    }
  }
};

// Nothing where the order is none that codes can lie in. Of an empty matrix one side may be of any size: it lies in no order.
std::optional<Lines> LinesOf(const TensorInfo& codes, CodeOrder order, const Find& find) {
  if (!codes.quantisation || codes.dtype != DType::kInt8 || codes.shape.size() != 2 || codes.bytes() == 0 ||
      (order != CodeOrder::kRowsByScale && order != CodeOrder::kColumnsByScale))
    return std::nullopt;
  const bool by_row = order == CodeOrder::kRowsByScale;
  const int64_t size = codes.shape[by_row ? 0 : 1];
  const std::string& scale = by_row ? codes.quantisation->scale : codes.quantisation->column_scale;
  std::optional<std::vector<uint32_t>> falling(std::in_place, size);
  if (!by_row && scale.empty())
    std::iota(falling->begin(), falling->end(), 0);
  else
    falling = FallingScales(find(scale), size);
  if (!falling) return std::nullopt;
  return Lines{by_row, static_cast<size_t>(codes.shape[0]), static_cast<size_t>(codes.shape[1]), *std::move(falling)};
}

// Calls visit(tensor, byte) for each byte of an element of each tensor, in the order in which they are packed: tensors of one dtype
// that follow one another give their highest bytes first, then the next, down to their lowest.
void VisitPlanes(const std::vector<TensorInfo>& tensors, const std::function<void(size_t, size_t)>& visit) {
  for (size_t first = 0, last; first < tensors.size(); first = last) {
    for (last = first; last < tensors.size() && tensors[last].dtype == tensors[first].dtype;) ++last;
    for (size_t byte = DTypeSize(tensors[first].dtype); byte-- > 0;)
      for (size_t i = first; i < last; ++i) visit(i, byte);
  }
}

Find In(const CheckpointReader& checkpoint) {
  return [&](const std::string& name) -> Found {
    if (!checkpoint.Has(name)) return {};
    return {&checkpoint.Find(name), reinterpret_cast<const char*>(checkpoint.Data(name).data())};
  };
}

}  // namespace

std::optional<std::string> OrderedCodes(const CheckpointReader& checkpoint, const TensorInfo& codes, CodeOrder order) {
  const std::span<const std::byte> data = checkpoint.Data(codes.name);
  const char* const stand = reinterpret_cast<const char*>(data.data());
  std::string ordered(stand, data.size());
  if (order == CodeOrder::kAsTheyStand) return ordered;
  const auto lines = LinesOf(codes, order, In(checkpoint));
  if (!lines) return std::nullopt;
  lines->ForEach([&](size_t place, size_t at) { ordered[place] = stand[at]; });
  return ordered;
}

std::string PackCheckpoint(const CheckpointReader& checkpoint, std::span<const PackedTensor> tensors) {
  std::string bytes = Start(kPackedVersion, checkpoint.kind(), checkpoint.settings());
  std::vector<TensorInfo> infos;
  uint64_t data_bytes = 0;
  for (const PackedTensor& tensor : tensors) {
    infos.push_back(checkpoint.Find(tensor.name));
    data_bytes += infos.back().bytes();
    pb::Tensor description = Describe(infos.back());
    if (tensor.order != CodeOrder::kAsTheyStand) description.set_order(static_cast<uint32_t>(tensor.order));
    const std::string body = description.SerializeAsString();
    bytes += kTensorTag;
    AppendVarint(bytes, body.size());
    bytes += body;
  }
  bytes += kPackedTag;
  AppendVarint(bytes, data_bytes);
  bytes.reserve(bytes.size() + data_bytes + kFixedFieldBytes);
  VisitPlanes(infos, [&](size_t i, size_t byte) {
    if (tensors[i].order != CodeOrder::kAsTheyStand) {
      bytes += OrderedCodes(checkpoint, infos[i], tensors[i].order).value();
      return;
    }
    const std::span<const std::byte> data = checkpoint.Data(infos[i].name);
    const size_t size = DTypeSize(infos[i].dtype);
    for (size_t at = byte; at < data.size(); at += size) bytes += static_cast<char>(data[at]);
  });
  const uint64_t hash = Hash(bytes);
  static_assert(kPackedTailBytes == kFixedFieldBytes);
  bytes += kPackedHashTag;
  AppendFixed64(bytes, hash);
  return bytes;
}

std::vector<std::string> format::Unpack(const std::vector<TensorInfo>& tensors, const std::vector<uint32_t>& orders,
                                        std::string_view packed, const std::string& name) {
  std::vector<std::string> data;
  std::map<std::string, size_t> index;
  for (const TensorInfo& info : tensors) {
    index[info.name] = data.size();
    data.emplace_back(info.bytes(), '\0');
  }
  size_t position = 0;
  VisitPlanes(tensors, [&](size_t i, size_t byte) {
    const size_t size = DTypeSize(tensors[i].dtype);
    for (size_t at = byte; at < data[i].size(); at += size) data[i][at] = packed[position++];
  });
  const Find find = [&](const std::string& tensor) -> Found {
    const auto found = index.find(tensor);
    if (found == index.end()) return {};
    return {&tensors[found->second], data[found->second].data()};
  };
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (orders[i] == static_cast<uint32_t>(CodeOrder::kAsTheyStand)) continue;
    const auto lines = LinesOf(tensors[i], static_cast<CodeOrder>(orders[i]), find);
    if (!lines)
      throw InputError(name, StringPrintf("tensor %s is said to lie in order %u, in which it cannot lie", tensors[i].name.c_str(), orders[i]));
    const std::string ordered = data[i];
    lines->ForEach([&, to = data[i].data()](size_t place, size_t at) { to[at] = ordered[place]; });
  }
  return data;
}

}  // namespace fairway
