#include "common/model/ops/smear_gate.h"

#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {
namespace {

const float* Before(const SmearGate& smear, int64_t row) {
  if (!smear.joined[row]) return nullptr;
  return row > 0 ? smear.e + (row - 1) * smear.D : smear.before;
}

}  // namespace

void SmearGateForward(const SmearGate& smear, float* x0, float* gates, float* inverse_norms, Rows rows) {
  const int64_t D = smear.D;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict e = smear.e + row * D;
    const float* __restrict before = Before(smear, row);
    float* __restrict out = x0 + row * D;
    float gate = 0;
    if (before != nullptr) {
      float logit = 0;
      for (int64_t j = 0; j < smear.window; ++j) logit += smear.w[j] * e[j];
      gate = formula::Sigmoid(logit);
    }
    gates[row] = gate;
    const float c = smear.lambda * gate;
    float squares = 0;
    if (before != nullptr) {
#pragma omp simd reduction(+ : squares)
      for (int64_t j = 0; j < D; ++j) {
        out[j] = e[j] + c * before[j];
        squares += out[j] * out[j];
      }
    } else {
#pragma omp simd reduction(+ : squares)
      for (int64_t j = 0; j < D; ++j) {
        out[j] = e[j];
        squares += out[j] * out[j];
      }
    }
    const float r = 1.0f / __builtin_sqrtf(squares / static_cast<float>(D) + formula::kRmsEpsilon);
    inverse_norms[row] = r;
#pragma omp simd
    for (int64_t j = 0; j < D; ++j) out[j] *= r;
  }
}

void SmearGateBackward(const SmearGate& smear, const float* x0, const float* gates, const float* inverse_norms, float* dx0,
                       float* dlogits, float* dw, float* dlambda, Rows rows) {
  const int64_t D = smear.D;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict x = x0 + row * D;
    float* __restrict d = dx0 + row * D;
    float product = 0;
#pragma omp simd reduction(+ : product)
    for (int64_t j = 0; j < D; ++j) product += d[j] * x[j];
    const float mean = product / static_cast<float>(D), r = inverse_norms[row];
#pragma omp simd
    for (int64_t j = 0; j < D; ++j) d[j] = formula::RmsGradient(d[j], x[j], r, mean);
    dlogits[row] = 0;
    const float* __restrict before = Before(smear, row);
    if (before == nullptr) continue;
    float dc = 0;
#pragma omp simd reduction(+ : dc)
    for (int64_t j = 0; j < D; ++j) dc += d[j] * before[j];
    const float gate = gates[row];
    *dlambda += dc * gate;
    dlogits[row] = dc * smear.lambda * gate * (1.0f - gate);
    for (int64_t j = 0; j < smear.window; ++j) dw[j] += dlogits[row] * smear.e[row * D + j];
  }
}

void SmearGateInputs(const SmearGate& smear, const float* gates, const float* ds, const float* dlogits, float* de, int64_t N,
                     Rows rows) {
  const int64_t D = smear.D;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict d = ds + row * D;
    float* __restrict out = de + row * D;
    if (row + 1 < N && smear.joined[row + 1]) {
      const float c = smear.lambda * gates[row + 1];
      const float* __restrict after = d + D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) out[j] = d[j] + c * after[j];
    } else {
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) out[j] = d[j];
    }
    for (int64_t j = 0; j < smear.window; ++j) out[j] += dlogits[row] * smear.w[j];
  }
}

}  // namespace fairway::FAIRWAY_TARGET
