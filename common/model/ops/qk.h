// Norm and rotation of queries and keys (QK norm and rotary embedding), in place in the projections' output.
//
//   q^ = rotate(q / sqrt(mean(q^2) + eps)) for each query head of size d, the same for each key head
//   rotate(x1, x2) = (x1 cos + x2 sin, x2 cos - x1 sin), x1 and x2 the halves of the head's first `rotated` dimensions;
//   the dimensions behind them are only normalised
//
// q_gain is no part of it: a gain on the query is a gain on the scores, and attention.h applies it there.
// qkv, dqkv: elements [N, (H + 2 Hkv) d], query heads, key heads, value heads. positions: int32 [N], rows of cos and sin, float32
// [positions, rotated / 2].
#pragma once

#include "common/model/ops/element.h"
#include "common/model/ops/kernel.h"

namespace fairway {

struct QkShape {
  int64_t T, H, Hkv, d, rotated;  // T: positions of a sequence that attend to each other (attention.h)
  const float* cos;
  const float* sin;
  const int32_t* positions;
  int64_t stride() const { return (H + 2 * Hkv) * d; }
};

// Normalises and rotates the query and key heads of qkv. inverse_norms: float32 [N, H + Hkv], kept for the backward pass.
FAIRWAY_KERNEL(QkForward, const QkShape& shape, Elements qkv, float* inverse_norms, Rows rows);

// qkv as the forward pass left it; dqkv holds the gradients of q^ *before* the gain (attention.h), of k^ and of v. Queries'
// gradients are multiplied by gain [H] here, dgain [H] += dq^ . q^; then both go back through rotation and norm, in place.
FAIRWAY_KERNEL(QkBackward, const QkShape& shape, Elements qkv, const float* inverse_norms, const float* gain, Elements dqkv,
               float* dgain, Rows rows);

}  // namespace fairway
