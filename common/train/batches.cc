#include "common/train/batches.h"

#include <algorithm>
#include <chrono>

#include "common/base/error.h"
#include "common/base/pcg64.h"
#include "common/base/text.h"

namespace fairway {

ShuffledSequences::ShuffledSequences(int64_t tokens, int64_t T, int64_t seed)
    : T_(T), seed_(seed), per_pass_(std::max<int64_t>((tokens - T) / T, 1)), phases_(std::min(T, tokens - per_pass_ * T)) {}

int64_t ShuffledSequences::Begin(int64_t index) {
  if (const int64_t pass = index / per_pass_; pass != pass_) {
    // With seed + pass, seed 1's second pass would be seed 2's first.
    Pcg64 random(static_cast<uint64_t>(seed_) + static_cast<uint64_t>(pass) * 0x9e3779b97f4a7c15u);
    phase_ = random.Below(static_cast<uint32_t>(phases_));
    order_ = random.Permutation(per_pass_);
    pass_ = pass;
  }
  return phase_ + order_[index % per_pass_] * T_;
}

Batches::Batches(const Settings& settings, ShardSet train, int64_t rank, int64_t world_size)
    : T_(settings.train_seq_len),
      inputs_(settings.train_batch_tokens / settings.grad_micro_steps),
      rank_(rank),
      world_size_(world_size),
      shards_(std::move(train)) {
  if (const int64_t held = shards_.tokens(); held <= T_) {
    throw InputError(shards_.files().front(),
                     StringPrintf("the training split holds %jd tokens where at least %jd are needed", held, T_ + 1));
  }
  if (settings.packed_documents) spans_.emplace(shards_, world_size * (inputs_ + 1));
  if (settings.data_order == "shuffled") shuffled_.emplace(shards_.tokens(), T_, settings.seed);
  else stream_.emplace(shards_.Part(0, shards_.tokens()));
}

void Batches::Seek(int64_t position) {
  if (stream_) stream_->Seek(position);
  else position_ = position;
}

MicroBatch Batches::Take() { return shuffled_ ? TakeShuffled() : TakeConsecutive(); }

MicroBatch Batches::TakeConsecutive() {
  MicroBatch batch;
  // One token more than there are targets; the next span starts after it, as published.
  const int64_t span = inputs_ + 1;
  if (spans_) stream_->Skip(spans_->Next(stream_->position()) - stream_->position());
  stream_->Skip(rank_ * span);
  batch.tokens = stream_->Take(span);
  stream_->Skip((world_size_ - 1 - rank_) * span);
  if (spans_) batch.segments = PackedSegments(batch.tokens.data(), inputs_, T_);
  else
    for (int64_t first = 0; first < inputs_; first += T_) batch.segments.push_back({.tokens = batch.tokens.data() + first, .length = T_});
  return batch;
}

MicroBatch Batches::TakeShuffled() {
  const auto start = std::chrono::steady_clock::now();
  const int64_t sequences = inputs_ / T_, first = position_ / T_ + rank_ * sequences;
  MicroBatch batch;
  batch.tokens.resize(sequences * (T_ + 1));
  for (int64_t i = 0; i < sequences; ++i) {
    const int64_t begin = shuffled_->Begin(first + i);
    uint16_t* tokens = batch.tokens.data() + i * (T_ + 1);
    shards_.Read(begin, T_ + 1, tokens);
    batch.segments.push_back({.tokens = tokens, .length = T_});
  }
  position_ += world_size_ * inputs_;
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return batch;
}

}  // namespace fairway
