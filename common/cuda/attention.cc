#include "common/cuda/attention.h"

#include <ATen/Context.h>
#include <ATen/ops/_efficient_attention_backward.h>
#include <ATen/ops/_efficient_attention_forward.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/cat.h>

#include <vector>

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

// Rows [N, H, d] as [B, H, T, d].
at::Tensor AsHeads(const Span& span, const at::Tensor& rows) {
  return rows.unflatten(0, {span.B, span.T}).transpose(1, 2);
}

// Key/value heads of rows, repeated for the query heads: [1, N, H, d].
at::Tensor RepeatedRows(const at::Tensor& kv, int64_t heads) {
  const int64_t N = kv.size(0), Hkv = kv.size(1), d = kv.size(2);
  return kv.unsqueeze(2).expand({N, Hkv, heads / Hkv, d}).reshape({1, N, heads, d});
}
at::Tensor SumOfRows(const at::Tensor& gradient, int64_t Hkv) {  // [1, N, H, d] -> [N, Hkv d]
  const int64_t N = gradient.size(1), H = gradient.size(2), d = gradient.size(3);
  return (H == Hkv ? gradient : gradient.reshape({N, Hkv, H / Hkv, d}).sum(2)).reshape({N, Hkv * d});
}

constexpr int64_t kCausalFromTopLeft = 1;  // memory-efficient attention's number for a causal mask

// Calls work(first, length) for each segment; the starts are in this memory.
template <class Work>
void EachSegment(const Span& span, Work work) {
  const int32_t* starts = span.starts.const_data_ptr<int32_t>();
  for (int64_t i = 0; i + 1 < span.starts.numel(); ++i)
    if (starts[i + 1] > starts[i]) work(starts[i], starts[i + 1] - starts[i]);
}

AttentionOutput AttendSegments(const Span& span, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  if (TakesGroups(q)) {
    const auto [y, lse, random_state, unused, mask] =
        at::_flash_attention_forward(q, k, v, span.starts, span.starts, span.longest, span.longest, kNoDropout, kCausal,
                                     /*return_debug_mask=*/false);
    return {y.unsqueeze(0).transpose(1, 2), lse, random_state, unused};
  }
  const int64_t H = q.size(1);
  if (q.is_cuda()) {
    const auto result = at::_efficient_attention_forward(q.unsqueeze(0), RepeatedRows(k, H), RepeatedRows(v, H), {}, span.starts, span.starts,
                                                         span.longest, span.longest, kNoDropout, kCausalFromTopLeft, /*compute_log_sumexp=*/true);
    return {std::get<0>(result).transpose(1, 2), std::get<1>(result), std::get<2>(result), std::get<3>(result)};
  }
  std::vector<at::Tensor> ys, lses;
  EachSegment(span, [&](int64_t first, int64_t length) {
    const Span one{.B = 1, .T = length};
    const AttentionOutput part = Attend(one, q.narrow(0, first, length), k.narrow(0, first, length), v.narrow(0, first, length));
    ys.push_back(part.y.transpose(1, 2));
    lses.push_back(part.lse);
  });
  return {at::cat(ys, 1).transpose(1, 2), at::cat(lses, 2), {}, {}};
}

AttentionGradients AttendSegmentsBackward(const Span& span, const AttentionOutput& attended, const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v, const at::Tensor& dy) {
  const auto& [y, lse, random_state, unused] = attended;
  const int64_t N = q.size(0), H = q.size(1), Hkv = k.size(1), d = q.size(2);
  if (TakesGroups(q)) {
    const auto [dq, dk, dv] = at::_flash_attention_backward(dy, q, k, v, y.transpose(1, 2).squeeze(0), lse, span.starts, span.starts,
                                                            span.longest, span.longest, kNoDropout, kCausal, random_state, unused);
    return {dq.reshape({N, H * d}), dk.reshape({N, Hkv * d}), dv.reshape({N, Hkv * d})};
  }
  if (q.is_cuda()) {
    const auto [dq, dk, dv, dbias] = at::_efficient_attention_backward(
        dy.unsqueeze(0), q.unsqueeze(0), RepeatedRows(k, H), RepeatedRows(v, H), {}, y.transpose(1, 2), span.starts, span.starts,
        span.longest, span.longest, lse, kNoDropout, random_state, unused, kCausalFromTopLeft, /*bias_requires_grad=*/false);
    return {dq.reshape({N, H * d}), SumOfRows(dk, Hkv), SumOfRows(dv, Hkv)};
  }
  std::vector<at::Tensor> dqs, dks, dvs;
  EachSegment(span, [&](int64_t first, int64_t length) {
    const auto part = [&](const at::Tensor& rows) { return rows.narrow(0, first, length); };
    const Span one{.B = 1, .T = length};
    const AttentionOutput own{y.narrow(2, first, length), lse.narrow(2, first, length).contiguous(), {}, {}};
    const AttentionGradients gradients = AttendBackward(one, own, part(q), part(k), part(v), part(dy));
    dqs.push_back(gradients.dq);
    dks.push_back(gradients.dk);
    dvs.push_back(gradients.dv);
  });
  return {at::cat(dqs, 0), at::cat(dks, 0), at::cat(dvs, 0)};
}

}  // namespace

AttentionOutput Attend(const Span& span, const at::Tensor& q_rows, const at::Tensor& k_rows, const at::Tensor& v_rows) {
  if (span.starts.defined()) return AttendSegments(span, q_rows, k_rows, v_rows);
  const at::Tensor q = AsHeads(span, q_rows), k = AsHeads(span, k_rows), v = AsHeads(span, v_rows);
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

AttentionGradients AttendBackward(const Span& span, const AttentionOutput& attended, const at::Tensor& q_rows, const at::Tensor& k_rows,
                                  const at::Tensor& v_rows, const at::Tensor& dy_rows) {
  const auto& [y, lse, random_state, unused] = attended;
  const InOneOrder in_one_order;
  if (span.starts.defined()) return AttendSegmentsBackward(span, attended, q_rows, k_rows, v_rows, dy_rows);
  const at::Tensor q = AsHeads(span, q_rows), k = AsHeads(span, k_rows), v = AsHeads(span, v_rows), dy = AsHeads(span, dy_rows);
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
