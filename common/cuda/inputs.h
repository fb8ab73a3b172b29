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

// Views of one block for sequences B of T tokens, N = B T.
struct Inputs {
  // memory: Size(…) integers; null: sizes alone.
  Inputs(const Settings& settings, int64_t B, int64_t T, int32_t* memory);
  static int64_t Size(const Settings& settings, int64_t B, int64_t T) { return Inputs(settings, B, T, nullptr).size; }

  // B segments of T positions. On the host.
  void Fill(const Settings& settings, std::span<const Segment> segments);

  int64_t B, T, N;
  int32_t* targets;  // [N]
  int32_t* joined;   // [N]: 1 where the position before is seen (reset_at_bos), else 0
  TableInputs tokens, bigrams;  // bigrams: no pieces without a bigram part
  int64_t size;
};

}  // namespace fairway::cuda
