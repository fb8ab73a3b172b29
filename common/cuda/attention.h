// Causal grouped-query attention by the library's fused kernels: flash attention for bfloat16 on a GPU, memory-efficient
// attention for float32 there, and the library's CPU kernel, by which tests run what surrounds it.
#pragma once

#include <ATen/core/Tensor.h>

namespace fairway::cuda {

// What sees what: B sequences of T positions each; or, where `starts` is defined, one row of segments.
struct Span {
  int64_t B, T;
  at::Tensor starts = {};  // int32 [segments + 1]: the first row of each segment; behind the last one, empty ones at the row's end
  int64_t longest = 0;     // rows of a segment, at most
};

// What the backward pass needs of the forward pass.
struct AttentionOutput {
  at::Tensor y;  // [B, H, T, d], of segments [1, H, N, d]; T before H in memory: as rows [N, H d] it is contiguous
  at::Tensor lse, random_state, unused;
};

// q: rows [N, H, d], its gain included; k, v: [N, Hkv, d]; any strides with neighbours in d. Scores are scaled by 1 / sqrt(d).
AttentionOutput Attend(const Span& span, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// Gradients as contiguous rows: dq [N, H d], dk and dv [N, Hkv d]. dy: [N, H, d].
struct AttentionGradients {
  at::Tensor dq, dk, dv;
};
AttentionGradients AttendBackward(const Span& span, const AttentionOutput& attended, const at::Tensor& q, const at::Tensor& k,
                                  const at::Tensor& v, const at::Tensor& dy);

}  // namespace fairway::cuda
