#include "common/tokens/shuffled_windows.h"

#include <algorithm>
#include <numeric>

#include "common/base/error.h"
#include "common/base/text.h"

namespace fairway {

ShuffledWindows::ShuffledWindows(const ShardSet& shards, int64_t length, uint64_t seed, int64_t stride)
    : split_(shards.Part(0, shards.tokens())), length_(length), random_(seed) {
  const std::vector<ShardSet::Range> all = shards.ranges();
  for (size_t i = 0; i < all.size(); i += static_cast<size_t>(stride)) shards_.push_back(all[i]);
  const bool some = std::ranges::any_of(shards_, [&](const ShardSet::Range& shard) { return shard.tokens > length; });
  if (!some) throw InputError(shards.files().front(), StringPrintf("no shard holds a calibration window of %jd tokens and its last target", length));
  left_.resize(shards_.size());
  for (size_t i = 0; i < shards_.size(); ++i) Fill(i);
}

void ShuffledWindows::Fill(size_t shard) {
  const int64_t tokens = shards_[shard].tokens, phases = std::min(length_ - 1, std::max<int64_t>(0, tokens - length_ - 1));
  const int64_t phase = phases > 0 ? random_.Below(static_cast<uint32_t>(phases + 1)) : 0;
  left_[shard] = random_.Permutation(std::max<int64_t>((tokens - 1 - phase) / length_, 0));
  for (int64_t& start : left_[shard]) start = phase + start * length_;
}

ShuffledWindows::Window ShuffledWindows::Next() {
  const auto counts = [&] {
    std::vector<double> counts;
    for (const std::vector<int64_t>& starts : left_) counts.push_back(static_cast<double>(starts.size()));
    return counts;
  };
  std::vector<double> shares = counts();
  double all = std::accumulate(shares.begin(), shares.end(), 0.0);
  if (all == 0) {
    for (size_t i = 0; i < shards_.size(); ++i) Fill(i);
    shares = counts();
    all = std::accumulate(shares.begin(), shares.end(), 0.0);
  }
  for (double& share : shares) share /= all;
  const size_t shard = random_.Choice(shares);
  const int64_t start = left_[shard].back();
  left_[shard].pop_back();
  return {static_cast<int64_t>(shard), start};
}

std::vector<uint16_t> ShuffledWindows::Take() {
  const Window window = Next();
  std::vector<uint16_t> tokens(length_);
  split_.Read(shards_[window.shard].begin + window.start, length_, tokens.data());
  return tokens;
}

}  // namespace fairway
