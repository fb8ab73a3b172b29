// Muon's update of one matrix (specification 1, section 4), by one thread: what it is, and its application, which may be elsewhere.
//
//   buf = m buf + f g;  g' = f g + m buf;  X = bf16(g') / (|g'| + 1e-7), transposed where rows > columns;  five times
//   A = X X^T;  X = 3.4445 X + (-4.7750 A + (2.0315 A) A) X;  u = sqrt(max(1, rows / columns)) X;  g = 0
//   p = p (1 - lr decay) - lr u
//
// Momentum and weights are float32. From g' on every result is rounded to bfloat16, at the places where the published script's
// tensors are; products sum in float32. A is symmetric: one triangle is computed and mirrored.
#pragma once

#include "common/model/ops/element.h"
#include "common/model/ops/kernel.h"

namespace fairway {

struct MuonStep {
  int64_t rows, columns;
  float momentum, gradient_factor, learning_rate, weight_decay;
  int64_t iterations;
  // The square (2.0315 A) A is computed by its triangle too. Its first factor's rounding makes it not quite symmetric, so the published
  // script's results, to the rounding, come from the whole square only.
  bool square_by_triangle = true;
};

// Bytes of scratch memory that a call needs.
int64_t MuonScratchBytes(int64_t rows, int64_t columns);

// gradient, momentum: float32 [rows, columns]; update, u: bfloat16 of that shape.
FAIRWAY_KERNEL(MuonUpdate, const MuonStep& step, float* gradient, float* momentum, BFloat16* update, void* scratch);
// Elements `range` of a matrix: p -= … u.
FAIRWAY_KERNEL(MuonApply, const MuonStep& step, const BFloat16* update, float* parameter, Rows range);

}  // namespace fairway
