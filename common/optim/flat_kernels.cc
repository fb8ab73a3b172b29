#include "common/optim/flat_kernels.h"

#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {

void AddSquares(const float* x, double* sum, Rows range) {
  constexpr int64_t kBlock = 4096;
  for (int64_t first = range.first; first < range.last; first += kBlock) {
    const int64_t last = first + kBlock < range.last ? first + kBlock : range.last;
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = first; i < last; ++i) squares += x[i] * x[i];
    *sum += squares;
  }
}

void AdamUpdate(const AdamStep& step, Elements parameter, float* __restrict gradient, Elements m, Elements v, Rows range) {
  const float keep = 1 - step.learning_rate * step.weight_decay, rate = step.learning_rate / step.correction1;
  const float root = 1 / __builtin_sqrtf(step.correction2), factor = step.gradient_factor, eps = step.eps;
  const float beta1 = step.beta1, beta2 = step.beta2;
  With(parameter, [&](auto* __restrict p) {
    With(m, [&](auto* __restrict first) {
      auto* __restrict second = static_cast<decltype(first)>(v.data);
#pragma omp simd
      for (int64_t i = range.first; i < range.last; ++i) {
        const float g = factor * gradient[i];
        const float mean = beta1 * Get(first[i]) + (1 - beta1) * g, square = beta2 * Get(second[i]) + (1 - beta2) * g * g;
        gradient[i] = 0;
        Put(mean, first + i);
        Put(square, second + i);
        Put(Get(p[i]) * keep - rate * mean / (__builtin_sqrtf(square) * root + eps), p + i);
      }
    });
  });
}

void MovingAverage(float decay, Elements parameter, float* __restrict average, Rows range) {
  With(parameter, [&](auto* __restrict p) {
#pragma omp simd
    for (int64_t i = range.first; i < range.last; ++i) average[i] = decay * average[i] + (1 - decay) * Get(p[i]);
  });
}

void TakeSquares(float* x, int64_t columns, double* by_row, float* __restrict by_column, Rows rows) {
  for (int64_t j = 0; j < columns; ++j) by_column[j] = 0;
  for (int64_t i = rows.first; i < rows.last; ++i) {
    float* __restrict row = x + i * columns;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < columns; ++j) {
      const float square = row[j] * row[j];
      row[j] = 0;
      by_column[j] += square;
      sum += square;
    }
    by_row[i] = sum;
  }
}

}  // namespace fairway::FAIRWAY_TARGET
