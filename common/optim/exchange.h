// Sums gradients over ranks.
//
// Each shard (partition.h) travels from every rank to the one that sums it, and is summed there in the order of the ranks: a given
// number of ranks gives one result, bit for bit, whatever the order of arrival.
#pragma once

#include <memory>
#include <vector>

#include "common/optim/partition.h"
#include "common/parallel/communicator.h"

namespace fairway {

class GradientExchange {
 public:
  // Works on the memory of `gradients`, all groups of the layout in one buffer.
  GradientExchange(const Partition& partition, FlatTensors gradients, Communicator& communicator);

  // The gradients of the matrices in blocks `block` and later are complete in this step. Starts to send them, a bucket at a time.
  // Does not wait.
  void BlocksFrom(int64_t block);
  // All gradients are complete; waits for all transfers. Afterwards those of the matrices that this rank steps, and those of
  // everything but matrices, are sums over the ranks; other matrices' are still this rank's share.
  void Finish();

 private:
  void Start(const Partition::Bucket& bucket);
  void Sum(const Partition::Bucket& bucket, int64_t received_at);

  const Partition partition_;
  const at::Tensor gradients_;
  Communicator& communicator_;
  at::Tensor received_;  // of every shard that is summed here, from each other rank, in the order of the ranks
  std::vector<int64_t> received_at_;  // of each bucket, where its shards begin in there
  size_t started_ = 0;                // buckets
  std::vector<std::unique_ptr<Communicator::Transfer>> transfers_;
};

}  // namespace fairway
