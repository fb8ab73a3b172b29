// Causal grouped-query attention by the library's fused kernels: flash attention for bfloat16 on a GPU, memory-efficient
// attention for float32 there, and the library's CPU kernel, by which tests run what surrounds it.
#pragma once

#include <ATen/core/Tensor.h>

namespace fairway::cuda {

// What the way back needs of the way there.
struct AttentionOutput {
  at::Tensor y;  // [B, H, T, d], T before H in memory: as rows [B T, H d] it is contiguous
  at::Tensor lse, random_state, unused;
};

// q: [B, H, T, d], its gain included; k, v: [B, Hkv, T, d]; any strides with neighbours in d. Scores are scaled by 1 / sqrt(d).
AttentionOutput Attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// Gradients as contiguous rows: dq [B T, H d], dk and dv [B T, Hkv d].
struct AttentionGradients {
  at::Tensor dq, dk, dv;
};
AttentionGradients AttendBackward(const AttentionOutput& attended, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const at::Tensor& dy);

}  // namespace fairway::cuda
