#include "common/model/ops/qk.h"

#include "common/model/ops/formulas.h"

namespace fairway::FAIRWAY_TARGET {

void QkForward(const QkShape& shape, float* qkv, float* inverse_norms, Rows rows) {
  const int64_t d = shape.d, half = d / 2, heads = shape.H + shape.Hkv;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict cos = shape.cos + row % shape.T * half;
    const float* __restrict sin = shape.sin + row % shape.T * half;
    for (int64_t head = 0; head < heads; ++head) {
      float* __restrict x = qkv + row * shape.stride() + head * d;
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
    }
  }
}

void QkBackward(const QkShape& shape, const float* qkv, const float* inverse_norms, const float* gain, float* dqkv, float* dgain,
                Rows rows) {
  const int64_t d = shape.d, half = d / 2, heads = shape.H + shape.Hkv;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict cos = shape.cos + row % shape.T * half;
    const float* __restrict sin = shape.sin + row % shape.T * half;
    for (int64_t head = 0; head < heads; ++head) {
      const float* __restrict x = qkv + row * shape.stride() + head * d;
      float* __restrict dx = dqkv + row * shape.stride() + head * d;
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
    }
  }
}

}  // namespace fairway::FAIRWAY_TARGET
