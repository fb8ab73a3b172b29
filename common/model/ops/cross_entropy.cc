#include "common/model/ops/cross_entropy.h"

#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {
namespace {

// Caps the row in place; returns its largest entry.
float CapRow(int64_t V, float cap, float* __restrict z) {
  float largest = -__builtin_inff();
#pragma omp simd reduction(max : largest)
  for (int64_t v = 0; v < V; ++v) {
    z[v] = formula::Softcap(z[v], cap);
    largest = z[v] > largest ? z[v] : largest;
  }
  return largest;
}

}  // namespace

void CrossEntropyForward(int64_t V, float cap, float* logits, const int32_t* targets, float* losses, Rows rows) {
  for (int64_t row = rows.first; row < rows.last; ++row) {
    float* __restrict z = logits + (row - rows.first) * V;
    const float largest = CapRow(V, cap, z);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t v = 0; v < V; ++v) sum += formula::Exp(z[v] - largest);
    losses[row] = __builtin_logf(sum) + largest - z[targets[row]];
  }
}

void CrossEntropyBackward(int64_t V, float cap, float share, float* logits, const int32_t* targets, float* losses,
                          Elements dlogits, int64_t stride, Rows rows) {
  const Scratch values(V);
  float* const e = values.data();
  for (int64_t row = rows.first; row < rows.last; ++row) {
    float* __restrict z = logits + (row - rows.first) * V;
    const float largest = CapRow(V, cap, z);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t v = 0; v < V; ++v) {
      e[v] = formula::Exp(z[v] - largest);
      sum += e[v];
    }
    const int32_t target = targets[row];
    const float capped = z[target], factor = share / sum, probability = e[target] / sum;
    losses[row] = __builtin_logf(sum) + largest - capped;
#pragma omp simd
    for (int64_t v = 0; v < V; ++v) e[v] = e[v] * factor * formula::SoftcapSlope(z[v], cap);
    e[target] = share * (probability - 1.0f) * formula::SoftcapSlope(capped, cap);
    With(dlogits + (row - rows.first) * stride, [&](auto* to) {
#pragma omp simd
      for (int64_t v = 0; v < V; ++v) Put(e[v], to + v);
      for (int64_t v = V; v < stride; ++v) Put(0, to + v);
    });
  }
}

}  // namespace fairway::FAIRWAY_TARGET
