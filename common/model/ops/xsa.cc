#include "common/model/ops/xsa.h"

#include "common/model/ops/formulas.h"

namespace fairway::FAIRWAY_TARGET {
namespace {

float Dot(const float* __restrict a, const float* __restrict b, int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

float NormOf(const float* v, int64_t d) { return __builtin_sqrtf(Dot(v, v, d)); }

}  // namespace

void XsaForward(const QkShape& shape, const float* qkv, const float* y, float* out, Rows rows) {
  const int64_t d = shape.d, group = shape.H / shape.Hkv;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    for (int64_t kv = 0; kv < shape.Hkv; ++kv) {
      const float* __restrict v = qkv + row * shape.stride() + (shape.H + shape.Hkv + kv) * d;
      const float norm = NormOf(v, d), inverse = 1.0f / (norm > formula::kXsaEpsilon ? norm : formula::kXsaEpsilon);
      for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
        const float* __restrict from = y + (row * shape.H + head) * d;
        float* __restrict to = out + (row * shape.H + head) * d;
        const float along = Dot(from, v, d) * inverse;
#pragma omp simd
        for (int64_t i = 0; i < d; ++i) to[i] = formula::Exclude(from[i], along, v[i] * inverse);
      }
    }
  }
}

// With c = y . n: dy = g - (g . n) n, dn = -(c g + (g . n) y), dv = (dn - (dn . n) n) / |v|; below the least norm n is linear
// in v, and the bracket's second term falls away.
void XsaBackward(const QkShape& shape, const float* qkv, const float* y, float* out, float* dout, float* dqkv, Rows rows) {
  const int64_t d = shape.d, group = shape.H / shape.Hkv;
  float dn[d];
  for (int64_t row = rows.first; row < rows.last; ++row) {
    for (int64_t kv = 0; kv < shape.Hkv; ++kv) {
      const int64_t value = row * shape.stride() + (shape.H + shape.Hkv + kv) * d;
      const float* __restrict v = qkv + value;
      const float norm = NormOf(v, d);
      const bool tiny = !(norm > formula::kXsaEpsilon);
      const float inverse = 1.0f / (tiny ? formula::kXsaEpsilon : norm);
      for (int64_t i = 0; i < d; ++i) dn[i] = 0;
      for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
        const int64_t at = (row * shape.H + head) * d;
        const float* __restrict from = y + at;
        float* __restrict to = out + at;
        float* __restrict g = dout + at;
        const float along = Dot(from, v, d) * inverse, g_along = Dot(g, v, d) * inverse;
#pragma omp simd
        for (int64_t i = 0; i < d; ++i) {
          const float n = v[i] * inverse;
          dn[i] -= along * g[i] + g_along * from[i];
          to[i] = formula::Exclude(from[i], along, n);
          g[i] = formula::Exclude(g[i], g_along, n);
        }
      }
      const float dn_along = tiny ? 0.0f : Dot(dn, v, d) * inverse;
      float* __restrict dv = dqkv + value;
#pragma omp simd
      for (int64_t i = 0; i < d; ++i) dv[i] = formula::Exclude(dn[i], dn_along, v[i] * inverse) * inverse;
    }
  }
}

}  // namespace fairway::FAIRWAY_TARGET
