// The micro-batches of training: which tokens of the split each step of each rank takes, and what attention sees of them.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/model/positions.h"
#include "common/settings/settings.h"
#include "common/tokens/segments.h"
#include "common/tokens/shards.h"

namespace fairway {

struct MicroBatch {
  std::vector<uint16_t> tokens;
  std::vector<Segment> segments;  // of `tokens`, in order
};

// The sequences of T inputs and a last target that a training split holds, each once per pass, in an order that the seed and the pass
// draw. A pass begins at a phase of its own, so that the text is cut at other places each time.
class ShuffledSequences {
 public:
  // REQUIRES: tokens > T.
  ShuffledSequences(int64_t tokens, int64_t T, int64_t seed);
  // The token at which the index-th sequence begins; indices count through all passes.
  int64_t Begin(int64_t index);

 private:
  const int64_t T_, seed_;
  const int64_t per_pass_, phases_;  // sequences; phases to draw from, at most T
  int64_t pass_ = -1, phase_ = 0;
  std::vector<int64_t> order_;  // of pass_
};

// With packed_documents a micro-batch is one row of documents; else it is sequences of train_seq_len: consecutive ones
// (data_order = sequential), or those of ShuffledSequences (shuffled). Ranks take theirs side by side.
class Batches {
 public:
  // Throws InputError where the split holds no sequence or no row.
  Batches(const Settings& settings, ShardSet train, int64_t rank, int64_t world_size);

  // This rank's next micro-batch.
  MicroBatch Take();
  // Where all ranks are after the last one taken, in tokens since the beginning of the first pass; Seek puts them there.
  int64_t position() const { return stream_ ? stream_->position() : position_; }
  void Seek(int64_t position);

  double wait_seconds() const { return stream_ ? stream_->wait_seconds() : wait_seconds_; }  // spent waiting for data
  const ShardSet& shards() const { return shards_; }

 private:
  MicroBatch TakeConsecutive();
  MicroBatch TakeShuffled();

  const int64_t T_, inputs_;  // tokens of a sequence; of a micro-batch
  const int64_t rank_, world_size_;
  const ShardSet shards_;
  std::optional<TokenStream> stream_;  // unless shuffled
  std::optional<PackedSpans> spans_;   // with packed_documents
  std::optional<ShuffledSequences> shuffled_;
  int64_t position_ = 0;      // of shuffled sequences
  double wait_seconds_ = 0;
};

}  // namespace fairway
