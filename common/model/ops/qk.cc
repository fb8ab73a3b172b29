#include "common/model/ops/qk.h"

#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {

namespace {

template <class E>
void Forward(const QkShape& shape, E* qkv, float* inverse_norms, Rows rows) {
  const int64_t d = shape.d, half = shape.rotated / 2, heads = shape.H + shape.Hkv;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict cos = shape.cos + shape.positions[row] * half;
    const float* __restrict sin = shape.sin + shape.positions[row] * half;
    for (int64_t head = 0; head < heads; ++head) {
      E* __restrict x = qkv + row * shape.stride() + head * d;
      float squares = 0;
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < d; ++i) squares += Get(x[i]) * Get(x[i]);
      const float r = 1.0f / __builtin_sqrtf(squares / static_cast<float>(d) + formula::kRmsEpsilon);
      inverse_norms[row * heads + head] = r;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float x1 = Get(x[i]) * r, x2 = Get(x[half + i]) * r;
        Put(x1 * cos[i] + x2 * sin[i], x + i);
        Put(x2 * cos[i] - x1 * sin[i], x + half + i);
      }
#pragma omp simd
      for (int64_t i = 2 * half; i < d; ++i) Put(Get(x[i]) * r, x + i);
    }
  }
}

template <class E>
void Backward(const QkShape& shape, const E* qkv, const float* inverse_norms, const float* gain, E* dqkv, float* dgain, Rows rows) {
  const int64_t d = shape.d, half = shape.rotated / 2, heads = shape.H + shape.Hkv;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict cos = shape.cos + shape.positions[row] * half;
    const float* __restrict sin = shape.sin + shape.positions[row] * half;
    for (int64_t head = 0; head < heads; ++head) {
      const E* __restrict x = qkv + row * shape.stride() + head * d;
      E* __restrict dx = dqkv + row * shape.stride() + head * d;
      // The norm's correction needs the product of gradient and output, which a rotation of both leaves as it is.
      float product = 0;
#pragma omp simd reduction(+ : product)
      for (int64_t i = 0; i < d; ++i) product += Get(dx[i]) * Get(x[i]);
      float g = 1;
      if (head < shape.H) {
        g = gain[head];
        dgain[head] += product;
      }
      const float mean = g * product / static_cast<float>(d), r = inverse_norms[row * heads + head];
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float d1 = formula::RmsGradient(g * Get(dx[i]), Get(x[i]), r, mean);
        const float d2 = formula::RmsGradient(g * Get(dx[half + i]), Get(x[half + i]), r, mean);
        Put(d1 * cos[i] - d2 * sin[i], dx + i);
        Put(d1 * sin[i] + d2 * cos[i], dx + half + i);
      }
#pragma omp simd
      for (int64_t i = 2 * half; i < d; ++i) Put(formula::RmsGradient(g * Get(dx[i]), Get(x[i]), r, mean), dx + i);
    }
  }
}

}  // namespace

void QkForward(const QkShape& shape, Elements qkv, float* inverse_norms, Rows rows) {
  With(qkv, [&](auto* all) { Forward(shape, all, inverse_norms, rows); });
}

void QkBackward(const QkShape& shape, Elements qkv, const float* inverse_norms, const float* gain, Elements dqkv, float* dgain,
                Rows rows) {
  With(qkv, [&](auto* all) { Backward(shape, all, inverse_norms, gain, static_cast<decltype(all)>(dqkv.data), dgain, rows); });
}

}  // namespace fairway::FAIRWAY_TARGET
