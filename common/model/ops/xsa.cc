#include "common/model/ops/xsa.h"

#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {
namespace {

float NormOf(const float* v, int64_t d) { return __builtin_sqrtf(Dot(v, v, d)); }

template <class E>
void Forward(const QkShape& shape, const E* qkv, const E* y, E* out, Rows rows) {
  const int64_t d = shape.d, group = shape.H / shape.Hkv, width = shape.H * d, kv_width = shape.Hkv * d;
  const Scratch values_copy(kv_width), from_copy(width), to_copy(width);
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* const values = AsFloats(qkv + row * shape.stride() + width + kv_width, kv_width, values_copy.data());
    const float* const from_all = AsFloats(y + row * width, width, from_copy.data());
    float* const to_all = Made(out + row * width, to_copy.data());
    for (int64_t kv = 0; kv < shape.Hkv; ++kv) {
      const float* __restrict v = values + kv * d;
      const float norm = NormOf(v, d), inverse = 1.0f / (norm > formula::kXsaEpsilon ? norm : formula::kXsaEpsilon);
      for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
        const float* __restrict from = from_all + head * d;
        float* __restrict to = to_all + head * d;
        const float along = Dot(from, v, d) * inverse;
#pragma omp simd
        for (int64_t i = 0; i < d; ++i) to[i] = formula::Exclude(from[i], along, v[i] * inverse);
      }
    }
    PutFloats(to_all, width, out + row * width);
  }
}

// With c = y . n: dy = g - (g . n) n, dn = -(c g + (g . n) y), dv = (dn - (dn . n) n) / |v|; below the least norm n is linear
// in v, and the bracket's second term falls away.
template <class E>
void Backward(const QkShape& shape, const E* qkv, const E* y, E* out, E* dout, E* dqkv, Rows rows) {
  const int64_t d = shape.d, group = shape.H / shape.Hkv, width = shape.H * d, kv_width = shape.Hkv * d;
  const Scratch gradient_of_n(d), values_copy(kv_width), from_copy(width), to_copy(width), dout_copy(width), dvalues_copy(kv_width);
  float* __restrict dn = gradient_of_n.data();
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const int64_t value = row * shape.stride() + width + kv_width;
    const float* const values = AsFloats(qkv + value, kv_width, values_copy.data());
    const float* const from_all = AsFloats(y + row * width, width, from_copy.data());
    float* const dout_all = AsFloats(dout + row * width, width, dout_copy.data());
    float* const to_all = Made(out + row * width, to_copy.data());
    float* const dvalues = Made(dqkv + value, dvalues_copy.data());
    for (int64_t kv = 0; kv < shape.Hkv; ++kv) {
      const float* __restrict v = values + kv * d;
      const float norm = NormOf(v, d);
      const bool tiny = !(norm > formula::kXsaEpsilon);
      const float inverse = 1.0f / (tiny ? formula::kXsaEpsilon : norm);
      for (int64_t i = 0; i < d; ++i) dn[i] = 0;
      for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
        const float* __restrict from = from_all + head * d;
        float* __restrict to = to_all + head * d;
        float* __restrict g = dout_all + head * d;
        const float along = Dot(from, v, d) * inverse, g_along = Dot(g, v, d) * inverse;
#pragma omp simd
        for (int64_t i = 0; i < d; ++i) {
          const float n = v[i] * inverse, gradient = g[i], y_i = from[i];
          dn[i] -= along * gradient + g_along * y_i;
          to[i] = formula::Exclude(y_i, along, n);
          g[i] = formula::Exclude(gradient, g_along, n);
        }
      }
      const float dn_along = tiny ? 0.0f : Dot(dn, v, d) * inverse;
      float* __restrict dv = dvalues + kv * d;
#pragma omp simd
      for (int64_t i = 0; i < d; ++i) dv[i] = formula::Exclude(dn[i], dn_along, v[i] * inverse) * inverse;
    }
    PutFloats(to_all, width, out + row * width);
    PutFloats(dout_all, width, dout + row * width);
    PutFloats(dvalues, kv_width, dqkv + value);
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
