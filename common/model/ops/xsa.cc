#include "common/model/ops/xsa.h"

#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {
namespace {

template <class E>
float NormOf(const E* v, int64_t d) {
  return __builtin_sqrtf(Dot(v, v, d));
}

template <class E>
void Forward(const QkShape& shape, const E* qkv, const E* y, E* out, Rows rows) {
  const int64_t d = shape.d, group = shape.H / shape.Hkv;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    for (int64_t kv = 0; kv < shape.Hkv; ++kv) {
      const E* __restrict v = qkv + row * shape.stride() + (shape.H + shape.Hkv + kv) * d;
      const float norm = NormOf(v, d), inverse = 1.0f / (norm > formula::kXsaEpsilon ? norm : formula::kXsaEpsilon);
      for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
        const E* __restrict from = y + (row * shape.H + head) * d;
        E* __restrict to = out + (row * shape.H + head) * d;
        const float along = Dot(from, v, d) * inverse;
#pragma omp simd
        for (int64_t i = 0; i < d; ++i) Put(formula::Exclude(Get(from[i]), along, Get(v[i]) * inverse), to + i);
      }
    }
  }
}

// With c = y . n: dy = g - (g . n) n, dn = -(c g + (g . n) y), dv = (dn - (dn . n) n) / |v|; below the least norm n is linear
// in v, and the bracket's second term falls away.
template <class E>
void Backward(const QkShape& shape, const E* qkv, const E* y, E* out, E* dout, E* dqkv, Rows rows) {
  const int64_t d = shape.d, group = shape.H / shape.Hkv;
  const Scratch gradient_of_n(d);
  float* __restrict dn = gradient_of_n.data();
  for (int64_t row = rows.first; row < rows.last; ++row) {
    for (int64_t kv = 0; kv < shape.Hkv; ++kv) {
      const int64_t value = row * shape.stride() + (shape.H + shape.Hkv + kv) * d;
      const E* __restrict v = qkv + value;
      const float norm = NormOf(v, d);
      const bool tiny = !(norm > formula::kXsaEpsilon);
      const float inverse = 1.0f / (tiny ? formula::kXsaEpsilon : norm);
      for (int64_t i = 0; i < d; ++i) dn[i] = 0;
      for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
        const int64_t at = (row * shape.H + head) * d;
        const E* __restrict from = y + at;
        E* __restrict to = out + at;
        E* __restrict g = dout + at;
        const float along = Dot(from, v, d) * inverse, g_along = Dot(g, v, d) * inverse;
#pragma omp simd
        for (int64_t i = 0; i < d; ++i) {
          const float n = Get(v[i]) * inverse, gradient = Get(g[i]), y_i = Get(from[i]);
          dn[i] -= along * gradient + g_along * y_i;
          Put(formula::Exclude(y_i, along, n), to + i);
          Put(formula::Exclude(gradient, g_along, n), g + i);
        }
      }
      const float dn_along = tiny ? 0.0f : Dot(dn, v, d) * inverse;
      E* __restrict dv = dqkv + value;
#pragma omp simd
      for (int64_t i = 0; i < d; ++i) Put(formula::Exclude(dn[i], dn_along, Get(v[i]) * inverse) * inverse, dv + i);
    }
  }
}

}  // namespace

void XsaForward(const QkShape& shape, Elements qkv, Elements y, Elements out, Rows rows) {
  With(qkv, [&](auto* all) {
    using E = decltype(all);
    Forward(shape, all, static_cast<E>(y.data), static_cast<E>(out.data), rows);
  });
}

void XsaBackward(const QkShape& shape, Elements qkv, Elements y, Elements out, Elements dout, Elements dqkv, Rows rows) {
  With(qkv, [&](auto* all) {
    using E = decltype(all);
    Backward(shape, all, static_cast<E>(y.data), static_cast<E>(out.data), static_cast<E>(dout.data), static_cast<E>(dqkv.data), rows);
  });
}

}  // namespace fairway::FAIRWAY_TARGET
