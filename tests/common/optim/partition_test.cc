#include "common/optim/partition.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "tests/common/model/shapes.h"

namespace fairway {
namespace {

int64_t BlockOf(const FlatLayout& layout, FlatRange range) {
  for (const FlatLayout::Entry& entry : layout.entries()) {
    if (entry.range.first != range.first || entry.spec.group != Group::kMatrices) continue;
    return entry.spec.name.starts_with("blocks.") ? std::stoll(entry.spec.name.substr(7)) : -1;
  }
  return -1;
}

void ExpectAllDealtOnce(const Settings& settings, int64_t world_size) {
  SCOPED_TRACE(world_size);
  const FlatLayout layout(settings);
  const Partition partition(layout, world_size);
  std::vector<int> covered(layout.size());
  std::vector<int64_t> slices(world_size);  // elements that a rank sums beside matrices
  std::map<int64_t, int64_t> ranks;         // of each matrix, by its first element
  int64_t before = INT64_MAX;
  for (const Partition::Bucket& bucket : partition.buckets()) {
    EXPECT_LT(bucket.block, before);  // in the order in which a backward pass gets there
    before = bucket.block;
    for (const Partition::Shard& shard : bucket.shards) {
      ASSERT_LT(shard.rank, world_size);
      if (shard.range.first < partition.others().last) slices[shard.rank] += shard.range.size();
      else ranks[shard.range.first] = shard.rank;
      // A block's matrices wait for that block, and for no earlier one.
      if (const int64_t block = BlockOf(layout, shard.range); block >= 0) EXPECT_GE(block, bucket.block);
      else EXPECT_EQ(bucket.block, -1);
      for (int64_t i = shard.range.first; i < shard.range.last; ++i) ++covered[i];
    }
  }
  EXPECT_EQ(before, -1);
  for (int64_t rank = 0; rank < world_size; ++rank)
    EXPECT_NEAR(static_cast<double>(slices[rank]), static_cast<double>(partition.others().last) / static_cast<double>(world_size), 1) << rank;
  for (const Partition::Shard& matrix : partition.matrices()) EXPECT_EQ(ranks.at(matrix.range.first), matrix.rank);
  // What lies between groups as well: it is 0 everywhere.
  EXPECT_TRUE(std::all_of(covered.begin(), covered.begin() + layout.range(Group::kMatrices).first, [](int n) { return n == 1; }));
  size_t matrix = 0;
  for (const FlatLayout::Entry& entry : layout.entries()) {
    if (entry.spec.group != Group::kMatrices) continue;
    const FlatRange range = partition.matrices()[matrix++].range;
    EXPECT_EQ(range.first, entry.range.first);
    EXPECT_EQ(range.last, entry.range.last);
    EXPECT_TRUE(std::all_of(covered.begin() + range.first, covered.begin() + range.last, [](int n) { return n == 1; })) << entry.spec.name;
  }
  EXPECT_EQ(matrix, partition.matrices().size());
}

TEST(Partition, EveryGradientIsSummedOnce) {
  for (int64_t world_size : {1, 2, 3, 8, 64}) {
    ExpectAllDealtOnce(Shape({}), world_size);
    ExpectAllDealtOnce(Shape({{"tie_embeddings", "0"}, {"bigram_vocab_size", "0"}, {"num_layers", "12"}}), world_size);
    ExpectAllDealtOnce(Settings(), world_size);  // the record's shape
  }
}

TEST(Balance, GoesByTheWork) {
  EXPECT_EQ(Balance({1, 1, 5, 1, 1, 1}, 2), (std::vector<int64_t>{1, 1, 0, 1, 1, 1}));
  EXPECT_EQ(Balance({3, 3, 2, 2, 2}, 2), (std::vector<int64_t>{0, 1, 0, 1, 0}));
}

TEST(Partition, TheRecordsShapeOverlapsAndIsBalanced) {
  const Settings settings;
  const FlatLayout layout(settings);
  const Partition partition(layout, 8);
  // A block is more than a bucket needs: each goes on its way alone.
  ASSERT_EQ(partition.buckets().size(), static_cast<size_t>(settings.num_layers) + 1);
  for (int64_t i = 0; i < settings.num_layers; ++i) EXPECT_EQ(partition.buckets()[i].block, settings.num_layers - 1 - i);
  std::vector<double> work(8);
  for (const Partition::Shard& shard : partition.matrices()) {
    const auto entry = std::find_if(layout.entries().begin(), layout.entries().end(),
                                    [&](const FlatLayout::Entry& e) { return e.range.first == shard.range.first && e.spec.group == Group::kMatrices; });
    const auto& shape = entry->spec.shape;
    work[shard.rank] += static_cast<double>(shard.range.size()) * static_cast<double>(std::min(shape[0], shape[1]));
  }
  const double mean = std::accumulate(work.begin(), work.end(), 0.0) / 8;
  EXPECT_LT(*std::max_element(work.begin(), work.end()), 1.1 * mean);
}

}  // namespace
}  // namespace fairway
