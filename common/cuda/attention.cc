#include "common/cuda/attention.h"

#include <ATen/Context.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>

namespace fairway::cuda {
namespace {

constexpr double kNoDropout = 0;
constexpr bool kCausal = true;

// Flash attention takes grouped heads; the other kernels take as many key/value heads as query heads.
bool TakesGroups(const at::Tensor& q) { return q.is_cuda() && q.scalar_type() == at::kBFloat16; }

at::Tensor Repeated(const at::Tensor& kv, int64_t heads) {
  const int64_t B = kv.size(0), Hkv = kv.size(1), T = kv.size(2), d = kv.size(3);
  return kv.unsqueeze(2).expand({B, Hkv, heads / Hkv, T, d}).reshape({B, heads, T, d});
}

at::Tensor SumOfGroups(const at::Tensor& gradient, int64_t Hkv) {
  const int64_t B = gradient.size(0), H = gradient.size(1), T = gradient.size(2), d = gradient.size(3);
  return H == Hkv ? gradient : gradient.reshape({B, Hkv, H / Hkv, T, d}).sum(2);
}

// The library's kernels add up in one order while this is there, so that a run repeats itself bit for bit.
class InOneOrder {
 public:
  InOneOrder() {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  ~InOneOrder() { at::globalContext().setDeterministicAlgorithms(false, /*warn_only=*/false); }
};

// [B, H, T, d] -> [B T, H d]
at::Tensor AsRows(const at::Tensor& heads) {
  return heads.transpose(1, 2).contiguous().view({heads.size(0) * heads.size(2), heads.size(1) * heads.size(3)});
}

}  // namespace

AttentionOutput Attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  if (TakesGroups(q)) {
    const auto [y, lse, cumulative_q, cumulative_k, max_q, max_k, random_state, unused, mask] =
        at::_scaled_dot_product_flash_attention(q, k, v, kNoDropout, kCausal);
    return {y, lse, random_state, unused};
  }
  const at::Tensor keys = Repeated(k, q.size(1)), values = Repeated(v, q.size(1));
  if (q.is_cuda()) {
    const auto [y, lse, seed, offset] =
        at::_scaled_dot_product_efficient_attention(q, keys, values, {}, /*compute_log_sumexp=*/true, kNoDropout, kCausal);
    return {y, lse, seed, offset};
  }
  const auto [y, lse] = at::_scaled_dot_product_flash_attention_for_cpu(q, keys, values, kNoDropout, kCausal);
  return {y, lse, {}, {}};
}

AttentionGradients AttendBackward(const AttentionOutput& attended, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const at::Tensor& dy) {
  const auto& [y, lse, random_state, unused] = attended;
  const InOneOrder in_one_order;
  if (TakesGroups(q)) {
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_backward(
        dy, q, k, v, y, lse, {}, {}, q.size(2), k.size(2), kNoDropout, kCausal, random_state, unused);
    return {AsRows(dq), AsRows(dk), AsRows(dv)};
  }
  const at::Tensor keys = Repeated(k, q.size(1)), values = Repeated(v, q.size(1));
  at::Tensor dq, dk, dv;
  if (q.is_cuda()) {
    std::tie(dq, dk, dv, std::ignore) = at::_scaled_dot_product_efficient_attention_backward(
        dy, q, keys, values, {}, y, lse, random_state, unused, kNoDropout, {true, true, true, false}, kCausal);
  } else {
    std::tie(dq, dk, dv) =
        at::_scaled_dot_product_flash_attention_for_cpu_backward(dy, q, keys, values, y, lse, kNoDropout, kCausal);
  }
  return {AsRows(dq), AsRows(SumOfGroups(dk, k.size(1))), AsRows(SumOfGroups(dv, v.size(1)))};
}

}  // namespace fairway::cuda
