// Parameters, gradients, moments and averages as contiguous memory: what walks over all of them is one pass, and what is
// exchanged between processes is a range.
//
// One order for all: the groups of plan.h in their order, and within a group the plan's order: AdamW trains the embeddings, Adam an
// untied output layer, AdamW vectors, scalars and control matrices, Muon all other matrices. So a block's c_q, c_k and c_v, where
// all are Muon's, are one matrix [D + 2 Hkv d, D].
#pragma once

#include <vector>

#include "common/model/ops/element.h"
#include "common/model/transformer.h"

namespace fairway {

// Elements first … last - 1 of a layout.
struct FlatRange {
  int64_t first, last;
  int64_t size() const { return last - first; }
};

class FlatLayout {
 public:
  struct Entry {
    ParameterSpec spec;
    FlatRange range;
  };

  explicit FlatLayout(const Settings& settings);

  const std::vector<Entry>& entries() const { return entries_; }  // in the plan's order
  // A group's elements. Groups begin at cache lines (of float32); what is between them belongs to the group before, and is 0.
  FlatRange range(Group group) const { return {begins_[static_cast<size_t>(group)], begins_[static_cast<size_t>(group) + 1]}; }
  int64_t size() const { return begins_.back(); }
  at::ScalarType embeddings_dtype() const { return embeddings_dtype_; }  // as the model stores them

 private:
  std::vector<Entry> entries_;
  std::vector<int64_t> begins_;  // of each group, and the end
  at::ScalarType embeddings_dtype_;
};

// Memory for one value an element of the groups first … last of a layout: float32, the embeddings `embeddings`. Zeros at first.
// Copies share their memory.
class FlatTensors {
 public:
  FlatTensors(const FlatLayout& layout, at::ScalarType embeddings, Group first = Group::kEmbeddings,
              Group last = Group::kMatrices, at::Device device = at::kCPU);

  // The tensors of these groups, in the plan's order, as views.
  const NamedTensors& tensors() const { return tensors_; }
  // A group's elements, [range(group).size()], as a view.
  const at::Tensor& group(Group group) const { return groups_.at(static_cast<size_t>(group) - first_); }
  at::Device device() const { return buffers_.front().device(); }
  // The memory itself: one buffer, or the embeddings' and another one where their dtype is its own.
  const std::vector<at::Tensor>& buffers() const { return buffers_; }

 private:
  size_t first_;
  NamedTensors tensors_;
  std::vector<at::Tensor> groups_, buffers_;
};

// A contiguous tensor's memory, float32 or bfloat16.
Elements ElementsOf(const at::Tensor& tensor);

}  // namespace fairway
