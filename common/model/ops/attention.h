// Causal grouped-query attention in blocks, the scores of a block of queries and keys at a time (pull request 531; the running
// maximum is Dao et al., FlashAttention, arXiv 2205.14135, and so is the backward pass; in bfloat16 it is an earlier one until that
// is exceeded by 2^8).
//
//   S_ij = gain_h / sqrt(d) q^_i . k^_j for j <= i;  P = softmax(S);  y_i = sum_j P_ij v_j;  lse_i = log(sum_j e^S_ij)
//   dP_ij = dy_i . v_j;  dS_ij = P_ij (dP_ij - dy_i . y_i);  dv_j = sum_i P_ij dy_i
//   dk^_j = gain_h / sqrt(d) sum_i dS_ij q^_i;  dq^_i = 1 / sqrt(d) sum_j dS_ij k^_j   (the gain is left to qk.h)
//
// qkv, dqkv: elements [N, (H + 2 Hkv) d] as in qk.h; y, dy: elements [N, H d]; lse: float32, [H, T] of the sequence that begins at row
// `row` from row * H on. Scores and softmax are float32; P and dS are elements where they enter a product.
// A call does one sequence, shape.T rows from `row` on, and one key/value head with all its query heads.
#pragma once

#include "common/model/ops/qk.h"

namespace fairway {

// Queries and keys of a block, and its queries whose scores are made and used up at a time, so that they stay in the first cache.
constexpr int64_t kAttentionQueries = 96, kAttentionKeys = 128, kAttentionStrip = 24;
// Keys from row to row of a block's pairs: a power of two would put every row into the same few places of the cache.
constexpr int64_t kAttentionPairs = kAttentionKeys + 16;

// Bytes of scratch memory that a call below needs.
inline int64_t AttentionScratchBytes(const QkShape& shape) {
  const int64_t columns = (shape.d + 15) / 16 * 16, positions = (shape.T + 63) / 64 * 64;
  // Of four bytes at most: eight packed or summed copies of a head, a number per position, three strips of scores, two blocks of
  // pairs, and what each of these 14 pieces loses before its cache line.
  return static_cast<int64_t>(sizeof(float)) * (8 * positions * columns + positions + 3 * kAttentionStrip * kAttentionKeys +
                                                2 * kAttentionQueries * kAttentionPairs + 14 * 16);
}

// Computes the rows from position `first` on.
FAIRWAY_KERNEL(AttentionForward, const QkShape& shape, const float* gain, Elements qkv, int64_t row, int64_t kv, int64_t first,
               void* scratch, Elements y, float* lse);

// Sets the query and key heads of dqkv; sets its value heads, or adds to them where `add_dv` says so.
FAIRWAY_KERNEL(AttentionBackward, const QkShape& shape, const float* gain, Elements qkv, Elements y, const float* lse,
               Elements dy, int64_t row, int64_t kv, bool add_dv, void* scratch, Elements dqkv);

}  // namespace fairway
