#include "common/model/ops/qk.h"

#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {

namespace {

template <class E>
void Forward(const QkShape& shape, E* qkv, float* inverse_norms, Rows rows) {
  const int64_t d = shape.d, half = shape.rotated / 2, heads = shape.H + shape.Hkv;
  const Scratch copy(heads * d);
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict cos = shape.cos + shape.positions[row] * half;
    const float* __restrict sin = shape.sin + shape.positions[row] * half;
    float* const all = AsFloats(qkv + row * shape.stride(), heads * d, copy.data());
    for (int64_t head = 0; head < heads; ++head) {
      float* __restrict x = all + head * d;
      float squares = 0;
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < d; ++i) squares += x[i] * x[i];
      const float r = 1.0f / __builtin_sqrtf(squares / static_cast<float>(d) + formula::kRmsEpsilon);
      inverse_norms[row * heads + head] = r;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float x1 = x[i] * r, x2 = x[half + i] * r;
        x[i] = x1 * cos[i] + x2 * sin[i];
        x[half + i] = x2 * cos[i] - x1 * sin[i];
      }
#pragma omp simd
      for (int64_t i = 2 * half; i < d; ++i) x[i] *= r;
    }
    PutFloats(all, heads * d, qkv + row * shape.stride());
  }
}

template <class E>
void Backward(const QkShape& shape, const E* qkv, const float* inverse_norms, const float* gain, E* dqkv, float* dgain, Rows rows) {
  const int64_t d = shape.d, half = shape.rotated / 2, heads = shape.H + shape.Hkv;
  const Scratch copy(heads * d), gradient(heads * d);
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict cos = shape.cos + shape.positions[row] * half;
    const float* __restrict sin = shape.sin + shape.positions[row] * half;
    const float* const all = AsFloats(qkv + row * shape.stride(), heads * d, copy.data());
    float* const dall = AsFloats(dqkv + row * shape.stride(), heads * d, gradient.data());
    for (int64_t head = 0; head < heads; ++head) {
      const float* __restrict x = all + head * d;
      float* __restrict dx = dall + head * d;
      // The norm's correction needs the product of gradient and output, which a rotation of both leaves as it is.
      float product = 0;
#pragma omp simd reduction(+ : product)
      for (int64_t i = 0; i < d; ++i) product += dx[i] * x[i];
      float g = 1;
      if (head < shape.H) {
        g = gain[head];
        dgain[head] += product;
      }
      const float mean = g * product / static_cast<float>(d), r = inverse_norms[row * heads + head];
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float d1 = formula::RmsGradient(g * dx[i], x[i], r, mean);
        const float d2 = formula::RmsGradient(g * dx[half + i], x[half + i], r, mean);
        dx[i] = d1 * cos[i] - d2 * sin[i];
        dx[half + i] = d1 * sin[i] + d2 * cos[i];
      }
#pragma omp simd
      for (int64_t i = 2 * half; i < d; ++i) dx[i] = formula::RmsGradient(g * dx[i], x[i], r, mean);
    }
    PutFloats(dall, heads * d, dqkv + row * shape.stride());
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
