#include "common/cuda/memory.h"

#include <algorithm>
#include <vector>

#include "common/cuda/backend.h"
#include "common/cuda/inputs.h"
#include "common/cuda/operations.h"
#include "common/plan/plan.h"

namespace fairway {

double DeviceEngineBytes(const Settings& s, int64_t B, int64_t T, bool training, at::Device device) {
  constexpr int64_t kFloat = 4;
  const Plan plan(s);
  const bool bfloat16 = s.precision == "bfloat16";
  const int64_t element = bfloat16 ? 2 : kFloat, stream = s.residual_precision == "bfloat16" ? 2 : kFloat;
  const int64_t N = B * T, D = plan.D, H = plan.H, kv = plan.Hkv * plan.d, qkv = D + 2 * kv, F = plan.F, V = plan.V,
                bigram = plan.bigram_dim, rows = std::min(N, cuda::kHeadRows);
  const std::vector<Visit>& visits = plan.visits(plan.loops());
  const auto passes = static_cast<int64_t>(visits.size());
  const int64_t skips = std::count_if(visits.begin(), visits.end(), [](const Visit& visit) { return visit.input_is_skip; });
  const int64_t lane_visits = std::count_if(visits.begin(), visits.end(), [](const Visit& visit) { return visit.lanes; });
  const bool gated = plan.layers[0].attn_gate != kNone, lanes = lane_visits > 0, smears = plan.smear_window != kNone;
  // A row of documents, as many as there may be; the rotary embedding goes through it.
  const cuda::BatchShape shape = s.packed_documents ? cuda::BatchShape{.B = 1, .T = N, .segments = N, .longest = T, .positions = N}
                                                    : cuda::BatchShape{.B = B, .T = T};
  double bytes = 0;
  const auto up = [](int64_t count, int64_t to) { return (count + to - 1) / to * to; };
  const auto take = [&](int64_t count, int64_t size) { bytes += static_cast<double>(count) * static_cast<double>(size); };
  const auto linear = [&](const Linear& product) { take(product.rows * product.columns, element); };
  linear(plan.bigram_proj);
  if (!plan.tied) linear(plan.head);
  for (const LayerPlan& layer : plan.layers)
    for (const Linear* product : {&layer.qkv, &layer.attn_proj, &layer.mlp_fc, &layer.mlp_proj}) linear(*product);
  // The stream before and behind the visits; what a visit keeps, attention's output with its softmax's sums.
  take((passes + 1) * N * D, stream);
  const int64_t kept = training ? passes : 1;
  take(kept * N * (D + qkv + D + kv + D + 2 * F), element);
  take(kept * N, kFloat);
  const int64_t exclusive = std::count_if(visits.begin(), visits.end(), [&](const Visit& visit) { return plan.layers[visit.layer].exclusive; });
  take((gated ? kept : training ? exclusive : std::min<int64_t>(exclusive, 1)) * N * D, element);
  if (gated) take(kept * N * H, kFloat);
  if (lanes) {
    take((lane_visits - 1) * N * D, stream);
    take((training ? lane_visits : 1) * 2 * N * D, element);
    take((training ? lane_visits : 1) * N * D, stream);
  }
  take(passes * N * D, element);  // attention's output, which scoring keeps of each visit too
  if (device.is_cuda() && !bfloat16 && s.packed_documents)  // the kernel's sums are of segments of one length; twice as many as there are windows
    take(passes * up(2 * N / T, cuda::kSegmentsAtATime) * H * up(T, 32), kFloat);
  else
    take(passes * N * H, kFloat);
  take(2 * N * D, element);  // keys and values, repeated for the queries' heads where the library's kernel wants that
  // Of the current pass.
  if (!smears) take(N * D, stream);
  take((smears ? 3 : 2) * N + rows * V, kFloat);
  take(N * (bigram + D), element);
  take(shape.rotary_positions() * plan.rotated, kFloat);
  take(cuda::Inputs::Size(s, shape), 2 * kFloat);
  if (training) {
    take(N, kFloat);  // the output's norms
    take(rows * V + N * (F + D + qkv + bigram + kv), element);
    take((2 + skips) * N * D, stream);
    take(cuda::SlabsOf(N).slabs * cuda::PartialSums(plan, s.gate_window), kFloat);
    if (gated) take(N * H, kFloat);
    if (smears) take(N, kFloat);
    if (lanes) {
      take(N * D, stream);
      take(2 * N * D, element);
    }
    if (stream != element) take(N * D, element);  // the stream's gradient for products
    const cuda::Inputs sizes(s, shape, nullptr);
    take(std::max(sizes.tokens.partials() * D, sizes.bigrams.partials() * bigram), kFloat);
    take(2 * N * qkv, element);  // the gradients that attention gives, and once more side by side
  } else {
    take(N * 2 * D, stream);  // the scored rows of a last block
    if (lanes) take(N * 2 * D, stream);
  }
  if (training && device.is_cuda() && bfloat16) {
    // Flash attention's deterministic backward pass: sums of the queries' gradients in float32, as many times as keep all
    // multiprocessors (132 on an H100) busy, of sequences and heads rounded up; the softmax's sums again; keys' and values'
    // gradients of each query's head.
    constexpr int64_t kMultiprocessors = 160, kPositions = 128, kWidth = 32;
    const bool packed = s.packed_documents;
    const int64_t sequences = packed ? up(N, T) / T : B, splits = (kMultiprocessors + sequences * H - 1) / (sequences * H);
    const int64_t positions = packed ? N + kPositions * cuda::kSegmentsAtATime : B * up(T, kPositions);
    take(splits * positions * H * up(plan.d, kWidth), kFloat);
    take(positions * H, kFloat);
    if (plan.Hkv != H) take(2 * N * D, element);
  }
  if (device.is_cpu() && bfloat16) take(N * (D + std::max(F, qkv)) + V * D, kFloat);
  // Scalars, partial sums of the library's reductions; a caching allocator's rounding up to 512 bytes of some hundred tensors.
  return bytes + 256e3;
}

}  // namespace fairway
