// Windows of one length in random order, drawn as openai/parameter-golf pull request 1855 draws those that calibrate its quantiser.
#pragma once

#include <cstdint>
#include <vector>

#include "common/base/pcg64.h"
#include "common/tokens/shards.h"

namespace fairway {

// Of every shard, the windows of `length` tokens (and one more, the last target) that lie side by side from a random phase on, in
// random order; the shard of each window is drawn with a probability in proportion to the windows that it has left. When none is
// left, all shards begin again with another phase.
class ShuffledWindows {
 public:
  // Of the split's shards 0, stride, 2 * stride, …: what rank 0 of `stride` ranks takes. Throws InputError where they hold no window.
  ShuffledWindows(const ShardSet& shards, int64_t length, uint64_t seed, int64_t stride = 1);

  // The tokens of the next window.
  std::vector<uint16_t> Take();
  struct Window {
    int64_t shard, start;  // of those taken; tokens from its beginning
  };
  Window Next();

 private:
  void Fill(size_t shard);

  const ShardSet split_;
  const int64_t length_;
  std::vector<ShardSet::Range> shards_;
  Pcg64 random_;
  std::vector<std::vector<int64_t>> left_;  // of each shard, the starts of its windows; the last is next
};

}  // namespace fairway
