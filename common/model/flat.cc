#include "common/model/flat.h"

#include <ATen/ops/zeros.h>

namespace fairway {
namespace {

constexpr int64_t kCacheLine = 16;  // float32
constexpr size_t kGroups = 4;

}  // namespace

FlatLayout::FlatLayout(const Settings& settings) {
  for (const ParameterSpec& spec : ParameterSpecs(settings)) {
    entries_.push_back({.spec = spec, .range = {}});
    if (spec.group == Group::kEmbeddings) embeddings_dtype_ = spec.dtype;
  }
  int64_t end = 0;
  for (size_t group = 0; group < kGroups; ++group) {
    begins_.push_back(end);
    for (Entry& entry : entries_) {
      if (static_cast<size_t>(entry.spec.group) != group) continue;
      entry.range.first = end;
      end += c10::multiply_integers(entry.spec.shape);
      entry.range.last = end;
    }
    end = (end + kCacheLine - 1) / kCacheLine * kCacheLine;
  }
  begins_.push_back(end);
}

FlatTensors::FlatTensors(const FlatLayout& layout, at::ScalarType embeddings, Group first, Group last, at::Device device)
    : first_(static_cast<size_t>(first)) {
  const auto dtype_of = [&](size_t group) { return group == 0 ? embeddings : at::kFloat; };
  const auto range_of = [&](size_t group) { return layout.range(static_cast<Group>(group)); };
  // Neighbours of one dtype share a buffer.
  for (size_t group = first_; group <= static_cast<size_t>(last);) {
    size_t end = group + 1;
    while (end <= static_cast<size_t>(last) && dtype_of(end) == dtype_of(group)) ++end;
    const int64_t begin = range_of(group).first;
    buffers_.push_back(at::zeros({range_of(end - 1).last - begin}, at::TensorOptions().dtype(dtype_of(group)).device(device)));
    for (; group < end; ++group)
      groups_.push_back(buffers_.back().narrow(0, range_of(group).first - begin, range_of(group).size()));
  }
  for (const FlatLayout::Entry& entry : layout.entries()) {
    if (entry.spec.group < first || entry.spec.group > last) continue;
    const int64_t offset = entry.range.first - layout.range(entry.spec.group).first;
    tensors_.emplace_back(entry.spec.name, group(entry.spec.group).narrow(0, offset, entry.range.size()).view(entry.spec.shape));
  }
}

Elements ElementsOf(const at::Tensor& tensor) {
  return {tensor.data_ptr(), tensor.scalar_type() == at::kBFloat16 ? Precision::kBFloat16 : Precision::kFloat32};
}

}  // namespace fairway
