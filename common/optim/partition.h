// Which rank sums which gradients and steps which parameters. A function of the model and the number of ranks alone.
//
//   - Muon's matrices are assigned whole, by the work that Newton-Schulz has with them: their gradients are summed by the rank that
//     steps them, and what comes back to all is the update, in bfloat16.
//   - All other gradients are summed in equal slices, one per rank, and the sums come back to all, who step them alike.
//
// So a step moves, over all ranks together, (world size - 1) * (8 A + 6 M) bytes, for A elements of other parameters and M of
// matrices (docs/scaling.md); the published all-reduce of gradients and sum of updates move 8 A + 12 M.
#pragma once

#include <vector>

#include "common/model/flat.h"

namespace fairway {

// Assigns tasks to ranks, the largest first, each to the rank with the least work so far. Returns the rank of each task.
std::vector<int64_t> Balance(const std::vector<int64_t>& work, int64_t world_size);

class Partition {
 public:
  // Elements of the layout that one rank sums.
  struct Shard {
    FlatRange range;
    int64_t rank;
  };
  // What is exchanged at a time, as soon as a backward pass has come to it.
  struct Bucket {
    std::vector<Shard> shards;
    int64_t block;  // the last block of which a backward pass is done before it; -1: all of it
  };

  Partition(const FlatLayout& layout, int64_t world_size);

  // In the order in which a backward pass makes them: from the last block to the first, then everything that is in none.
  const std::vector<Bucket>& buckets() const { return buckets_; }
  // Muon's matrices among them, in the order of the layout's entries, of which each is a whole shard.
  const std::vector<Shard>& matrices() const { return matrices_; }
  // All that is no matrix of Muon's.
  FlatRange others() const { return others_; }

 private:
  std::vector<Bucket> buckets_;
  std::vector<Shard> matrices_;
  FlatRange others_;
};

}  // namespace fairway
