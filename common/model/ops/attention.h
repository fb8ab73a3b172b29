// Causal grouped-query attention in blocks, the scores of a block of queries and keys at a time (specification 1, section 3;
// the running maximum is Dao et al., FlashAttention, arXiv 2205.14135, and so is the way back).
//
//   S_ij = gain_h / sqrt(d) q^_i . k^_j for j <= i;  P = softmax(S);  y_i = sum_j P_ij v_j;  lse_i = log(sum_j e^S_ij)
//   dP_ij = dy_i . v_j;  dS_ij = P_ij (dP_ij - dy_i . y_i);  dv_j = sum_i P_ij dy_i
//   dk^_j = gain_h / sqrt(d) sum_i dS_ij q^_i;  dq^_i = 1 / sqrt(d) sum_j dS_ij k^_j   (the gain is left to qk.h)
//
// qkv, dqkv: float32 [B T, (H + 2 Hkv) d] as in qk.h; y, dy: float32 [B T, H d]; lse: float32 [B, H, T].
// A call does one sequence and one key/value head with all its query heads.
#pragma once

#include "common/model/ops/qk.h"

namespace fairway {

// Floats of scratch memory that a call below needs.
inline int64_t AttentionScratch(const QkShape& shape) {
  const int64_t columns = (shape.d + 15) / 16 * 16, positions = (shape.T + 63) / 64 * 64;
  return 9 * positions * columns + 2 * 48 * 256 + 2 * positions;
}

// Computes the rows from position `first` on.
FAIRWAY_KERNEL(AttentionForward, const QkShape& shape, const float* gain, const float* qkv, int64_t sequence, int64_t kv,
               int64_t first, float* scratch, float* y, float* lse);

// Sets the query and key heads of dqkv; sets its value heads, or adds to them where `add_dv` says so.
FAIRWAY_KERNEL(AttentionBackward, const QkShape& shape, const float* gain, const float* qkv, const float* y, const float* lse,
               const float* dy, int64_t sequence, int64_t kv, bool add_dv, float* scratch, float* dqkv);

}  // namespace fairway
