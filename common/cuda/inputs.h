// A micro-batch's tokens as the passes take them: one block of int32, filled on the host and copied to the device at once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/cuda/operations.h"
#include "common/model/positions.h"
#include "common/settings/settings.h"

namespace fairway::cuda {

// The positions of a micro-batch by the table row that they look up, cut into pieces (operations.h). Sizes depend on shapes
// alone, as a captured graph wants it; what is left over is empty.
struct TableInputs {
  int64_t pieces, joints;
  int32_t* row;    // [N]: of each position
  int32_t* order;  // [N]: positions sorted by row, in their order within one
  Piece* piece;    // [pieces]
  Piece* joint;    // [joints]
  // Partial sums that a scatter may leave: a row has several pieces where they are more than half full.
  int64_t partials() const { return 2 * joints; }
};

// The shape of a micro-batch: B sequences of T positions, from position 0 on; or one row of T positions (B = 1) in segments of
// several lengths.
struct BatchShape {
  int64_t B = 0, T = 0;
  int64_t segments = 0;   // of a row, at most; 0: sequences
  int64_t longest = 0;    // positions of a segment, at most
  int64_t positions = 0;  // of the rotary embedding, at most; 0: T

  int64_t N() const { return B * T; }
  int64_t rotary_positions() const { return positions > 0 ? positions : T; }
  bool operator==(const BatchShape&) const = default;
};
// That of these segments. What varies from row to row of packed documents is rounded up, so that one shape serves them all.
BatchShape BatchShapeOf(const Settings& settings, std::span<const Segment> segments);

constexpr int64_t kSegmentsAtATime = 64;  // a row's number of segments is rounded up to these

// Views of one block.
struct Inputs {
  // memory: Size(…) integers; null: sizes alone.
  Inputs(const Settings& settings, const BatchShape& shape, int32_t* memory);
  static int64_t Size(const Settings& settings, const BatchShape& shape) { return Inputs(settings, shape, nullptr).size; }

  // Segments of this shape. On the host.
  void Fill(const Settings& settings, std::span<const Segment> segments);

  BatchShape shape;
  int64_t N;
  int32_t* targets;    // [N]
  int32_t* joined;     // [N]: 1 where the position before is seen (reset_at_bos), else 0
  int32_t* positions;  // [N]
  int32_t* starts;     // [segments + 1]: the first row of each, N behind the last one; empty where there are sequences
  int32_t* before;     // [1]: the token before the first, where the first is joined to it
  TableInputs tokens, bigrams;  // bigrams: no pieces without a bigram part
  int64_t size;
};

}  // namespace fairway::cuda
