// What the model sees of sequences of tokens, position by position (specification 1, section 3).
#pragma once

#include <cstdint>
#include <span>

#include "common/model/ops/formulas.h"
#include "common/settings/settings.h"
#include "common/tokens/shard_format.h"

namespace fairway {

struct Position {
  int32_t id, target;  // a token and the one after it
  bool joined;         // to the position before: neither the first of its sequence nor, with reset_at_bos, of its document
  int32_t bigram_row;  // of the bigram table, where there is one
};

// Calls put(b T + t, position) for the first T tokens of every sequence b, in this order. REQUIRES: T + 1 tokens in each.
template <class Put>
void EachPosition(const Settings& settings, std::span<const uint16_t* const> sequences, int64_t T, Put put) {
  const int32_t rows = static_cast<int32_t>(settings.bigram_vocab_size);
  int64_t n = 0;
  for (const uint16_t* sequence : sequences) {
    for (int64_t t = 0; t < T; ++t, ++n) {
      const uint16_t* token = sequence + t;
      const bool joined = t > 0 && !(settings.reset_at_bos && token[0] == kBos);
      put(n, Position{token[0], token[1], joined, joined && rows > 0 ? formula::BigramRow(token[0], token[-1], rows) : rows - 1});
    }
  }
}

}  // namespace fairway
