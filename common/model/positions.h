// What the model sees of text, position by position.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/model/ops/formulas.h"
#include "common/settings/settings.h"
#include "common/tokens/segments.h"
#include "common/tokens/shard_format.h"

namespace fairway {

// Consecutive positions that attend to each other and to no others: a sequence, a document, or a part of one.
struct Segment {
  const uint16_t* tokens;  // length + 1 of them: inputs and, one later, targets
  int64_t length;
  int64_t position = 0;    // of its first token, for the rotary embedding
  bool continues = false;  // tokens[-1] is the token before it, which smear_gate_enabled sees
};

// Sequences of T + 1 tokens as segments.
inline std::vector<Segment> SegmentsOf(std::span<const uint16_t* const> sequences, int64_t T) {
  std::vector<Segment> segments;
  for (const uint16_t* sequence : sequences) segments.push_back({.tokens = sequence, .length = T});
  return segments;
}

// A row of packed documents: `count` inputs and a target more, in segments that begin at each BOS and are at most `longest` long;
// rotary positions and the smear run through the row.
inline std::vector<Segment> PackedSegments(const uint16_t* tokens, int64_t count, int64_t longest) {
  const std::vector<int32_t> starts = SegmentStarts({tokens, static_cast<size_t>(count)}, longest);
  std::vector<Segment> segments;
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : count;
    segments.push_back({.tokens = tokens + starts[i], .length = end - starts[i], .position = starts[i], .continues = i > 0});
  }
  return segments;
}

inline int64_t PositionsIn(std::span<const Segment> segments) {
  int64_t positions = 0;
  for (const Segment& segment : segments) positions += segment.length;
  return positions;
}

struct Position {
  int32_t id, target;  // a token and the one after it
  int32_t position;    // for the rotary embedding
  bool joined;         // to the position before, which the smear and the bigram see
  int32_t bigram_row;  // of the bigram table, where there is one
};

// Calls put(n, position) for all positions of the segments in their order, n = 0, 1, …
template <class Put>
void EachPosition(const Settings& settings, std::span<const Segment> segments, Put put) {
  const int32_t rows = static_cast<int32_t>(settings.bigram_vocab_size);
  const bool reset = settings.reset_at_bos || settings.smear_gate_enabled;
  int64_t n = 0;
  for (const Segment& segment : segments) {
    const bool sees_before = segment.continues && settings.smear_gate_enabled;
    for (int64_t t = 0; t < segment.length; ++t, ++n) {
      const uint16_t* token = segment.tokens + t;
      const bool joined = (t > 0 || sees_before) && !(reset && token[0] == kBos);
      put(n, Position{.id = token[0],
                      .target = token[1],
                      .position = static_cast<int32_t>(segment.position + t),
                      .joined = joined,
                      .bigram_row = joined && rows > 0 ? formula::BigramRow(token[0], token[-1], rows) : rows - 1});
    }
  }
}

}  // namespace fairway
