// Rows of packed documents (openai/parameter-golf pull request 1855): a micro-batch is one row of consecutive tokens, and attention
// stays inside a segment of it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/tokens/shards.h"

namespace fairway {

// The first positions of the segments of a row of input tokens, ascending: 0, every BOS, and every `longest` positions after the last
// of these. longest = 0: no limit. Positions of one segment attend to those before them in the same segment and to nothing else.
std::vector<int32_t> SegmentStarts(std::span<const uint16_t> tokens, int64_t longest);

// Where spans of `span` tokens begin in a training split: each shard is read from its first BOS, span after span, as long as a whole
// one fits; the rest of the shard is left out.
class PackedSpans {
 public:
  // Looks for the first BOS of each shard of the split that holds a span. Throws InputError where one has none, and where no shard
  // holds a span.
  PackedSpans(const ShardSet& shards, int64_t span);

  // The beginning of the next span, `position` being that of a TokenStream over the same split: 0, or behind the span before.
  // Positions count through all passes over the split.
  int64_t Next(int64_t position) const;

 private:
  struct Shard {
    int64_t first_bos, end;  // tokens from the beginning of the split
  };
  const int64_t span_, tokens_;
  std::vector<Shard> shards_;  // those that hold a span
};

}  // namespace fairway
