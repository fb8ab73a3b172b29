#include "common/optim/exchange.h"

#include <ATen/ops/empty.h>

namespace fairway {
namespace {

constexpr int64_t kElement = sizeof(float);

}  // namespace

GradientExchange::GradientExchange(const Partition& partition, FlatTensors gradients, Communicator& communicator)
    : partition_(partition), gradients_(gradients.buffers().front()), communicator_(communicator) {
  int64_t elements = 0;
  for (const Partition::Bucket& bucket : partition_.buckets()) {
    received_at_.push_back(elements);
    for (const Partition::Shard& shard : bucket.shards)
      if (shard.rank == communicator.rank()) elements += shard.range.size() * (communicator.world_size() - 1);
  }
  received_ = at::empty({elements}, gradients_.options());
}

void GradientExchange::BlocksFrom(int64_t block) {
  const std::vector<Partition::Bucket>& buckets = partition_.buckets();
  for (; started_ < buckets.size() && buckets[started_].block >= block; ++started_) Start(buckets[started_]);
  communicator_.Progress();
}

void GradientExchange::Start(const Partition::Bucket& bucket) {
  const int64_t me = communicator_.rank(), world_size = communicator_.world_size();
  std::vector<Message> sends, receives;
  float* to = received_.mutable_data_ptr<float>() + received_at_[&bucket - partition_.buckets().data()];
  for (const Partition::Shard& shard : bucket.shards) {
    const int64_t bytes = shard.range.size() * kElement;
    if (shard.rank != me) {
      sends.push_back({gradients_.mutable_data_ptr<float>() + shard.range.first, bytes, shard.rank});
      continue;
    }
    for (int64_t rank = 0; rank < world_size; ++rank) {
      if (rank == me) continue;
      receives.push_back({to, bytes, rank});
      to += shard.range.size();
    }
  }
  transfers_.push_back(communicator_.Exchange(sends, receives));
}

void GradientExchange::Sum(const Partition::Bucket& bucket, int64_t received_at) {
  const int64_t me = communicator_.rank(), others = communicator_.world_size() - 1;
  for (const Partition::Shard& shard : bucket.shards) {
    if (shard.rank != me) continue;
    const at::Tensor own = gradients_.narrow(0, shard.range.first, shard.range.size());
    const at::Tensor theirs = received_.narrow(0, received_at, others * shard.range.size()).view({others, shard.range.size()});
    received_at += theirs.numel();
    // ((rank 0 + rank 1) + rank 2) …, in the memory of what came from rank 0.
    at::Tensor sum = me == 0 ? own : theirs[0];
    for (int64_t rank = 1; rank <= others; ++rank) sum.add_(rank == me ? own : theirs[rank < me ? rank : rank - 1]);
    if (me != 0) own.copy_(sum);
  }
}

void GradientExchange::Finish() {
  BlocksFrom(-1);
  for (size_t i = 0; i < transfers_.size(); ++i) {
    communicator_.Wait(std::move(transfers_[i]));
    Sum(partition_.buckets()[i], received_at_[i]);
  }
  transfers_.clear();
  started_ = 0;
  // What all ranks step alike comes back to them.
  std::vector<Message> sums;
  for (const Partition::Bucket& bucket : partition_.buckets()) {
    for (const Partition::Shard& shard : bucket.shards) {
      if (shard.range.first >= partition_.others().last) continue;
      sums.push_back({gradients_.mutable_data_ptr<float>() + shard.range.first, shard.range.size() * kElement, shard.rank});
    }
  }
  communicator_.Wait(communicator_.Broadcast(sums));
}

}  // namespace fairway
