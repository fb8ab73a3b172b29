#include "common/tokens/segments.h"

#include <algorithm>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/tokens/shard_format.h"

namespace fairway {

std::vector<int32_t> SegmentStarts(std::span<const uint16_t> tokens, int64_t longest) {
  std::vector<int32_t> starts;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool full = longest > 0 && !starts.empty() && static_cast<int64_t>(i) - starts.back() == longest;
    if (i == 0 || tokens[i] == kBos || full) starts.push_back(static_cast<int32_t>(i));
  }
  return starts;
}

PackedSpans::PackedSpans(const ShardSet& shards, int64_t span) : span_(span), tokens_(shards.tokens()) {
  std::vector<uint16_t> part;
  for (const ShardSet::Range& shard : shards.ranges()) {
    if (shard.tokens < span) continue;
    const int64_t end = shard.begin + shard.tokens;
    int64_t bos = shard.begin;
    for (bool found = false; !found && bos < end;) {
      constexpr int64_t kPart = 1 << 16;
      part.resize(std::min(kPart, end - bos));
      shards.Read(bos, static_cast<int64_t>(part.size()), part.data());
      const auto at = std::find(part.begin(), part.end(), kBos);
      bos += at - part.begin();
      found = at != part.end();
    }
    if (bos == end)
      throw InputError(shard.file, StringPrintf("holds no token %jd, which begins a document; PACKED_DOCUMENTS=0 trains without", kBos));
    if (bos + span <= end) shards_.push_back({bos, end});
  }
  if (shards_.empty())
    throw InputError(shards.files().front(),
                     StringPrintf("no shard of the split holds %jd tokens from its first document on, which a step's micro-batch of all "
                                  "ranks takes from one shard; set a smaller train_batch_tokens or more grad_micro_steps", span));
}

int64_t PackedSpans::Next(int64_t position) const {
  const int64_t pass = position / tokens_ * tokens_, place = position - pass;
  for (const Shard& shard : shards_) {
    const int64_t first = std::max(place, shard.first_bos);
    if (first + span_ <= shard.end) return pass + first;
  }
  return pass + tokens_ + shards_.front().first_bos;
}

}  // namespace fairway
