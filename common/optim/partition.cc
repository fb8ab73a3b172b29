#include "common/optim/partition.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "common/base/text.h"

namespace fairway {
namespace {

// A bucket ends with the block that fills it: smaller ones would wait for each other more than for the wire.
constexpr int64_t kBucketElements = 1 << 20;

// 3 of blocks.3.attn.proj.weight; -1 of what is in no block.
int64_t BlockOf(const std::string& name) {
  constexpr std::string_view kPrefix = "blocks.";
  int64_t block = -1;
  if (name.starts_with(kPrefix)) std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), block);
  return block;
}

}  // namespace

std::vector<int64_t> Balance(const std::vector<int64_t>& work, int64_t world_size) {
  std::vector<size_t> order(work.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return work[a] > work[b]; });
  std::vector<int64_t> load(world_size), ranks(work.size());
  for (const size_t i : order) {
    const auto least = std::min_element(load.begin(), load.end());
    ranks[i] = least - load.begin();
    *least += work[i];
  }
  return ranks;
}

Partition::Partition(const FlatLayout& layout, int64_t world_size) : others_{0, layout.range(Group::kMatrices).first} {
  std::vector<const FlatLayout::Entry*> matrices;
  for (const FlatLayout::Entry& entry : layout.entries())
    if (entry.group == Group::kMatrices) matrices.push_back(&entry);
  std::vector<int64_t> work;
  for (const FlatLayout::Entry* entry : matrices)
    work.push_back(entry->range.size() * std::min(entry->spec.shape[0], entry->spec.shape[1]));
  const std::vector<int64_t> ranks = Balance(work, world_size);
  for (size_t i = 0; i < matrices.size(); ++i) matrices_.push_back({matrices[i]->range, ranks[i]});

  // Entries of one block are neighbours, and blocks follow each other.
  Bucket bucket{.shards = {}, .block = 0};
  int64_t elements = 0;
  const auto close = [&](int64_t block) {
    bucket.block = block;
    if (!bucket.shards.empty()) buckets_.push_back(std::move(bucket));
    bucket = {};
    elements = 0;
  };
  for (size_t i = matrices.size(); i-- > 0;) {
    const int64_t block = BlockOf(matrices[i]->spec.name);
    if (block < 0) break;
    bucket.shards.push_back(matrices_[i]);
    elements += matrices_[i].range.size();
    const bool ends = i == 0 || BlockOf(matrices[i - 1]->spec.name) != block;
    if (ends && elements >= kBucketElements) close(block);
  }
  for (size_t i = 0; i < matrices.size(); ++i)
    if (BlockOf(matrices[i]->spec.name) < 0) bucket.shards.push_back(matrices_[i]);
  for (int64_t rank = 0; rank < world_size; ++rank) {
    const FlatRange slice{others_.last * rank / world_size, others_.last * (rank + 1) / world_size};
    if (slice.size() > 0) bucket.shards.push_back({slice, rank});
  }
  close(-1);
}

}  // namespace fairway
