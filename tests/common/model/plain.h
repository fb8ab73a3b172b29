// The fused operations (common/model/ops) one by one as plain LibTorch compositions, of any floating dtype, with autograd's gradients:
// operations_test.cc computes them in float64.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/round.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "common/model/ops/fake_quantise.h"

namespace fairway::plain {

inline at::Tensor Rms(const at::Tensor& x) { return at::rms_norm(x, {x.size(-1)}, {}, 0x1p-23); }

// [N, D], each row's the one before it; zeros where `joined` [N, 1] is false.
inline at::Tensor Before(const at::Tensor& x, const at::Tensor& joined) {
  const at::Tensor shifted = at::cat({at::zeros_like(x.narrow(0, 0, 1)), x.narrow(0, 0, x.size(0) - 1)});
  return shifted.masked_fill(joined.logical_not(), 0);
}

// ids, bigram_rows: int64 [N]; bigram_table undefined: no bigrams; gate [D], before its sigmoid.
inline at::Tensor EmbedSmear(const at::Tensor& ids, const at::Tensor& tok_emb, const at::Tensor& bigram_rows,
                             const at::Tensor& bigram_table, const at::Tensor& bigram_scale, const at::Tensor& gate,
                             const at::Tensor& joined) {
  at::Tensor x = at::embedding(tok_emb, ids);
  if (bigram_table.defined()) x = x + bigram_scale * at::embedding(bigram_table, bigram_rows);
  x = Rms(x);
  const at::Tensor g = at::sigmoid(gate);
  return (1 - g) * x + g * Before(x, joined);
}

// x and the weighted skip; skip undefined: x alone; gate [D], before its sigmoid, undefined: their sum.
inline at::Tensor AddSkip(const at::Tensor& x, const at::Tensor& skip, const at::Tensor& weight, const at::Tensor& gate) {
  if (!skip.defined()) return x;
  if (!gate.defined()) return x + weight * skip;
  const at::Tensor g = at::sigmoid(gate);
  return g * x + (1 - g) * weight * skip;
}
// What is normalised; x0 undefined: x itself.
inline at::Tensor Mix(const at::Tensor& x, const at::Tensor& x0, const at::Tensor& mix) {
  return x0.defined() ? mix[0] * x + mix[1] * x0 : x;
}

// Logits of gates that read the first dimensions of x [N, D]; w: [gates, window].
inline at::Tensor GateLogits(const at::Tensor& x, const at::Tensor& w) { return at::linear(x.narrow(-1, 0, w.size(-1)), w); }

// e [N, D] and the gated row before it, before their norm; logits [N, 1]; `before` [N, D] is 0 where a row is joined to none.
inline at::Tensor SmearByGate(const at::Tensor& e, const at::Tensor& before, const at::Tensor& logits, const at::Tensor& lambda) {
  return e + lambda * at::sigmoid(logits) * before;
}

// One of two residual lanes, from one and what attention and MLP add.
inline at::Tensor Lane(const at::Tensor& resid, const at::Tensor& lane, const at::Tensor& of_a, const at::Tensor& a, const at::Tensor& of_m,
                       const at::Tensor& m) {
  return resid * lane + of_a * a + of_m * m;
}

// Norm and rotation of heads [B, T, heads, d]; cos, sin: [T, rotated / 2], of the head's first `rotated` dimensions.
inline at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t half = cos.size(-1);
  const at::Tensor x1 = x.narrow(-1, 0, half), x2 = x.narrow(-1, half, half), rest = x.narrow(-1, 2 * half, x.size(-1) - 2 * half);
  const at::Tensor c = cos.unsqueeze(1), s = sin.unsqueeze(1);
  return at::cat({x1 * c + x2 * s, x2 * c - x1 * s, rest}, -1);
}
inline at::Tensor Qk(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) { return Rotate(Rms(x), cos, sin); }

// q [B, T, H, d], k and v [B, T, Hkv, d] -> [B, T, H, d].
inline at::Tensor Attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), {}, 0.0, /*is_causal=*/true,
                                          std::nullopt, /*enable_gqa=*/true)
      .transpose(1, 2);
}

// y [N, Hkv, H / Hkv, d] without its part along v [N, Hkv, 1, d].
inline at::Tensor Exclude(const at::Tensor& y, const at::Tensor& v) {
  const at::Tensor n = v / at::linalg_vector_norm(v, 2, {-1}, /*keepdim=*/true).clamp_min(1e-12);
  return y - (y * n).sum(-1, /*keepdim=*/true) * n;
}

// `negative`: the ReLU's slope below 0.
inline at::Tensor Mlp(const at::Tensor& u, const at::Tensor& fc, const at::Tensor& proj, double negative) {
  const at::Tensor hidden = at::leaky_relu(at::linear(u, fc), negative);
  return at::linear(hidden * hidden, proj);
}

// Losses [N] of logits [N, V] before their softcap.
inline at::Tensor CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, double cap) {
  return at::cross_entropy_loss(cap * at::tanh(logits / cap), targets, {}, at::Reduction::None);
}

inline at::Tensor FakeQuantise(const at::Tensor& w, const FakeGrid& grid) {
  const at::Tensor exact = (w.abs().amax(1, /*keepdim=*/true) / grid.q_max).clamp_min(grid.least);
  const at::Tensor stored = grid.stored ? exact.to(at::kHalf).to(w.scalar_type()) : exact;
  return at::clamp(at::round(w / (grid.exact_codes ? exact : stored)), grid.q_min, grid.q_max) * stored;
}

}  // namespace fairway::plain
