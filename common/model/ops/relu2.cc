#include "common/model/ops/relu2.h"

#include "common/model/ops/formulas.h"

namespace fairway::FAIRWAY_TARGET {

void Relu2Forward(int64_t F, const float* __restrict h, float* __restrict a, Rows rows) {
#pragma omp simd
  for (int64_t i = rows.first * F; i < rows.last * F; ++i) a[i] = formula::Relu2(h[i]);
}

void Relu2Backward(int64_t F, const float* __restrict h, float* __restrict a, float* __restrict da, Rows rows) {
#pragma omp simd
  for (int64_t i = rows.first * F; i < rows.last * F; ++i) {
    a[i] = formula::Relu2(h[i]);
    da[i] *= formula::Relu2Slope(h[i]);
  }
}

}  // namespace fairway::FAIRWAY_TARGET
