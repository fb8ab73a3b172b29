#include "common/optim/partition.h"

#include <algorithm>
#include <numeric>

namespace fairway {
namespace {

// A bucket ends with the block that fills it: smaller ones would wait for each other more than for the wire.
constexpr int64_t kBucketElements = 1 << 20;

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
    if (entry.spec.group == Group::kMatrices) matrices.push_back(&entry);
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
    const int64_t block = matrices[i]->spec.layer;
    if (block < 0) break;
    bucket.shards.push_back(matrices_[i]);
    elements += matrices_[i].range.size();
    const bool ends = i == 0 || matrices[i - 1]->spec.layer != block;
    if (ends && elements >= kBucketElements) close(block);
  }
  for (size_t i = 0; i < matrices.size(); ++i)
    if (matrices[i]->spec.layer < 0) bucket.shards.push_back(matrices_[i]);
  for (int64_t rank = 0; rank < world_size; ++rank) {
    const FlatRange slice{others_.last * rank / world_size, others_.last * (rank + 1) / world_size};
    if (slice.size() > 0) bucket.shards.push_back({slice, rank});
  }
  close(-1);
}

}  // namespace fairway
