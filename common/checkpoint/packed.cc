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
#include "common/base/threads.h"
#include "common/checkpoint/coder.h"
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

// The bits of the float16 tensor `scale`. Nothing where that is no tensor of so many.
std::optional<std::vector<uint16_t>> Scales(const Found& scale, int64_t size) {
  if (scale.info == nullptr || scale.info->dtype != DType::kFloat16 || scale.info->shape != std::vector<int64_t>{size})
    return std::nullopt;
  std::vector<uint16_t> values(size);
  if (size > 0) std::memcpy(values.data(), scale.data, 2 * size);
  return values;
}

// 0 to size - 1 by falling values of the scales, read as whole numbers (of positive ones the same), equal ones in their order.
std::optional<std::vector<uint32_t>> FallingScales(const Found& scale, int64_t size) {
  const auto values = Scales(scale, size);
  if (!values) return std::nullopt;
  std::vector<uint32_t> places(size);
  std::iota(places.begin(), places.end(), 0);
  std::ranges::stable_sort(places, [&](uint32_t a, uint32_t b) { return (*values)[a] > (*values)[b]; });
  return places;
}

bool IsMatrixOfCodes(const TensorInfo& info) {
  return info.quantisation && info.dtype == DType::kInt8 && info.shape.size() == 2 && info.bytes() > 0;
}

// What the arithmetic coder sees of a matrix.
struct Coded {
  std::vector<uint16_t> scales, factors;
  CodeMatrix At(const TensorInfo& codes, char* data) const {
    return {codes.shape[0], codes.shape[1], scales, factors, reinterpret_cast<int8_t*>(data)};
  }
};

// Nothing where the coder does not take it.
std::optional<Coded> CodedOf(const TensorInfo& codes, const Find& find) {
  if (!IsMatrixOfCodes(codes)) return std::nullopt;
  const std::string& column_scale = codes.quantisation->column_scale;
  auto scales = Scales(find(codes.quantisation->scale), codes.shape[0]);
  auto factors = column_scale.empty() ? std::vector<uint16_t>() : Scales(find(column_scale), codes.shape[1]);
  if (!scales || !factors) return std::nullopt;
  return Coded{*std::move(scales), *std::move(factors)};
}

// The rows or columns of a matrix of codes, in the order in which they lie one after another.
struct Lines {
  bool by_row;
  size_t rows, columns;
  std::vector<uint32_t> falling;

  // Calls move(place, at) for each code: the one at `at` of the row-major matrix lies at `place`.
  template <typename Move>
  void ForEach(Move move) const {
    constexpr size_t kTile = 64;  // of a column's codes: their neighbours stay in cache for the next columns
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
  if (!IsMatrixOfCodes(codes) || (order != CodeOrder::kRowsByScale && order != CodeOrder::kColumnsByScale)) return std::nullopt;
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
// that follow one another give their highest bytes first, then the next, down to their lowest. Coded ones are skipped.
void VisitPlanes(const std::vector<TensorInfo>& tensors, const std::function<bool(size_t)>& coded,
                 const std::function<void(size_t, size_t)>& visit) {
  std::vector<size_t> places;
  for (size_t i = 0; i < tensors.size(); ++i)
    if (!coded(i)) places.push_back(i);
  const auto dtype = [&](size_t place) { return tensors[places[place]].dtype; };
  for (size_t first = 0, last; first < places.size(); first = last) {
    for (last = first; last < places.size() && dtype(last) == dtype(first);) ++last;
    for (size_t byte = DTypeSize(dtype(first)); byte-- > 0;)
      for (size_t i = first; i < last; ++i) visit(places[i], byte);
  }
}

Find In(const TensorSource& checkpoint) {
  return [&](const std::string& name) -> Found {
    if (!checkpoint.Has(name)) return {};
    return {&checkpoint.Find(name), reinterpret_cast<const char*>(checkpoint.Data(name).data())};
  };
}

}  // namespace

std::optional<std::string> OrderedCodes(const TensorSource& checkpoint, const TensorInfo& codes, CodeOrder order) {
  const std::span<const std::byte> data = checkpoint.Data(codes.name);
  const char* const stand = reinterpret_cast<const char*>(data.data());
  std::string ordered(stand, data.size());
  if (order == CodeOrder::kAsTheyStand) return ordered;
  const auto lines = LinesOf(codes, order, In(checkpoint));
  if (!lines) return std::nullopt;
  lines->ForEach([&](size_t place, size_t at) { ordered[place] = stand[at]; });
  return ordered;
}

bool CanBeCoded(const TensorSource& checkpoint, const TensorInfo& codes) { return CodedOf(codes, In(checkpoint)).has_value(); }

std::string PackCheckpoint(const TensorSource& checkpoint, std::span<const PackedTensor> tensors, int threads,
                           size_t* data_end) {
  std::vector<TensorInfo> infos;
  std::vector<std::vector<size_t>> members;  // of each stream
  uint64_t data_bytes = 0;
  const auto coded = [&](size_t i) { return tensors[i].order == CodeOrder::kCoded; };
  for (size_t i = 0, last = 0; i < tensors.size(); ++i) {
    infos.push_back(checkpoint.Find(tensors[i].name));
    if (!coded(i)) {
      data_bytes += infos.back().bytes();
      continue;
    }
    if (members.empty() || tensors[i].stream != tensors[last].stream) members.emplace_back();
    members.back().push_back(last = i);
  }
  std::vector<std::string> streams(members.size());
  ParallelFor(static_cast<int64_t>(streams.size()), 1, threads, [&](int64_t stream, int64_t) {
    std::vector<Coded> scales;
    std::vector<std::string> codes;
    std::vector<CodeMatrix> matrices;
    for (const size_t i : members[stream]) {
      const std::span<const std::byte> data = checkpoint.Data(infos[i].name);
      codes.emplace_back(reinterpret_cast<const char*>(data.data()), data.size());
      scales.push_back(CodedOf(infos[i], In(checkpoint)).value());
    }
    for (size_t i = 0; i < codes.size(); ++i) matrices.push_back(scales[i].At(infos[members[stream][i]], codes[i].data()));
    streams[stream] = EncodeCodes(matrices);
  });

  std::string bytes = Start(streams.empty() ? kPackedVersion : kCodedVersion, checkpoint.kind(), checkpoint.settings());
  for (size_t i = 0, stream = 0; i < tensors.size(); ++i) {
    pb::Tensor description = Describe(infos[i]);
    if (tensors[i].order != CodeOrder::kAsTheyStand) description.set_order(static_cast<uint32_t>(tensors[i].order));
    if (stream < streams.size() && members[stream].front() == i) {
      description.set_stream(streams[stream].size());
      data_bytes += streams[stream++].size();
    }
    const std::string body = description.SerializeAsString();
    bytes += kTensorTag;
    AppendVarint(bytes, body.size());
    bytes += body;
  }
  bytes += kPackedTag;
  AppendVarint(bytes, data_bytes);
  bytes.reserve(bytes.size() + data_bytes + kFixedFieldBytes);
  VisitPlanes(infos, coded, [&](size_t i, size_t byte) {
    if (tensors[i].order != CodeOrder::kAsTheyStand) {
      bytes += OrderedCodes(checkpoint, infos[i], tensors[i].order).value();
      return;
    }
    const std::span<const std::byte> data = checkpoint.Data(infos[i].name);
    const size_t size = DTypeSize(infos[i].dtype);
    for (size_t at = byte; at < data.size(); at += size) bytes += static_cast<char>(data[at]);
  });
  if (data_end != nullptr) *data_end = bytes.size();
  for (const std::string& stream : streams) bytes += stream;
  const uint64_t hash = Xxh3Of(bytes);
  bytes += kPackedHashTag;
  AppendFixed64(bytes, hash);
  return bytes;
}

std::vector<std::string> format::Unpack(const std::vector<TensorInfo>& tensors, const std::vector<Layout>& layouts,
                                        std::string_view packed, const std::string& name) {
  std::vector<std::string> data;
  std::map<std::string, size_t> index;
  for (const TensorInfo& info : tensors) {
    index[info.name] = data.size();
    data.emplace_back(info.bytes(), '\0');
  }
  const auto order = [&](size_t i) { return static_cast<CodeOrder>(layouts[i].order); };
  const auto coded = [&](size_t i) { return layouts[i].coded; };
  size_t position = 0;
  VisitPlanes(tensors, coded, [&](size_t i, size_t byte) {
    const size_t size = DTypeSize(tensors[i].dtype);
    for (size_t at = byte; at < data[i].size(); at += size) data[i][at] = packed[position++];
  });
  const Find find = [&](const std::string& tensor) -> Found {
    const auto found = index.find(tensor);
    if (found == index.end()) return {};
    return {&tensors[found->second], data[found->second].data()};
  };
  const auto refuse = [&](size_t i) {
    throw InputError(name, StringPrintf("tensor %s is said to lie in order %u, in which it cannot lie", tensors[i].name.c_str(), layouts[i].order));
  };
  struct Stream {
    size_t first;  // the tensor that it begins with
    std::string_view bytes;
    std::vector<CodeMatrix> matrices;
  };
  std::vector<Coded> scales(tensors.size());
  std::vector<Stream> streams;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (order(i) == CodeOrder::kAsTheyStand) continue;
    if (coded(i)) {
      auto found = CodedOf(tensors[i], find);
      if (!found) refuse(i);
      scales[i] = *std::move(found);
      if (layouts[i].stream > 0) {
        streams.push_back({i, packed.substr(position, layouts[i].stream), {}});
        position += layouts[i].stream;
      }
      streams.back().matrices.push_back(scales[i].At(tensors[i], data[i].data()));
      continue;
    }
    const auto lines = LinesOf(tensors[i], order(i), find);
    if (!lines) refuse(i);
    const std::string ordered = data[i];
    lines->ForEach([&, to = data[i].data()](size_t place, size_t at) { to[at] = ordered[place]; });
  }
  ParallelFor(static_cast<int64_t>(streams.size()), 1, ThreadsFor(0), [&](int64_t i, int64_t) {
    if (!DecodeCodes(streams[i].bytes, streams[i].matrices))
      throw InputError(name, "is damaged: the stream of tensor " + tensors[streams[i].first].name + " is longer or shorter than its codes");
  });
  return data;
}

}  // namespace fairway
