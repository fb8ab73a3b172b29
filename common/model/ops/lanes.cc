#include "common/model/ops/lanes.h"

#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {

void LanesForward(const Lanes& in, float* out0, float* out1, Rows rows) {
  const float r0 = in.resid[0], r1 = in.resid[1], a0 = in.post[0], a1 = in.post[1], m0 = in.post[2], m1 = in.post[3];
  With(in.a, [&](auto* all_a) {
    const auto* __restrict a = all_a;
    const auto* __restrict m = static_cast<decltype(all_a)>(in.m.data);
#pragma omp simd
    for (int64_t i = rows.first * in.D; i < rows.last * in.D; ++i) {
      const float l0 = in.lane0[i], l1 = in.lane1[i];
      out0[i] = r0 * l0 + a0 * Get(a[i]) + m0 * Get(m[i]);
      out1[i] = r1 * l1 + a1 * Get(a[i]) + m1 * Get(m[i]);
    }
  });
}

void LanesBackward(const Lanes& in, float* d0, float* d1, Elements da, Elements dm, double* dresid, double* dpost, Rows rows) {
  const float r0 = in.resid[0], r1 = in.resid[1], a0 = in.post[0], a1 = in.post[1], m0 = in.post[2], m1 = in.post[3];
  With(in.a, [&](auto* all_a) {
    using E = decltype(all_a);
    for (int64_t row = rows.first; row < rows.last; ++row) {
      const int64_t at = row * in.D;
      const auto* __restrict a = all_a + at;
      const auto* __restrict m = static_cast<E>(in.m.data) + at;
      auto* __restrict to_a = static_cast<E>(da.data) + at;
      auto* __restrict to_m = static_cast<E>(dm.data) + at;
      const float* __restrict l0 = in.lane0 + at;
      const float* __restrict l1 = in.lane1 + at;
      float* __restrict g0 = d0 + at;
      float* __restrict g1 = d1 + at;
      float r0_sum = 0, r1_sum = 0, a0_sum = 0, a1_sum = 0, m0_sum = 0, m1_sum = 0;
#pragma omp simd reduction(+ : r0_sum, r1_sum, a0_sum, a1_sum, m0_sum, m1_sum)
      for (int64_t j = 0; j < in.D; ++j) {
        const float x0 = g0[j], x1 = g1[j], a_j = Get(a[j]), m_j = Get(m[j]);
        r0_sum += x0 * l0[j];
        r1_sum += x1 * l1[j];
        a0_sum += x0 * a_j;
        a1_sum += x1 * a_j;
        m0_sum += x0 * m_j;
        m1_sum += x1 * m_j;
        Put(a0 * x0 + a1 * x1, to_a + j);
        Put(m0 * x0 + m1 * x1, to_m + j);
        g0[j] = r0 * x0;
        g1[j] = r1 * x1;
      }
      dresid[0] += r0_sum;
      dresid[1] += r1_sum;
      dpost[0] += a0_sum;
      dpost[1] += a1_sum;
      dpost[2] += m0_sum;
      dpost[3] += m1_sum;
    }
  });
}

}  // namespace fairway::FAIRWAY_TARGET
