#include "common/model/ops/mix_norm.h"

#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {
namespace {

// Fills xin and xm for one row, both [D] (xin may be null), and returns 1 / sqrt(mean(xm^2) + eps).
float MixRow(const MixNorm& in, int64_t row, float* __restrict xin, float* __restrict xm) {
  const int64_t D = in.D;
  const float* __restrict x = in.x + row * D;
  float squares = 0;
  if (in.x0 == nullptr) {
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < D; ++j) {
      xm[j] = x[j];
      squares += x[j] * x[j];
    }
  } else {
    const float* __restrict x0 = in.x0 + row * D;
    const float* __restrict mix0 = in.mix;
    const float* __restrict mix1 = in.mix + D;
    if (in.skip == nullptr) {
#pragma omp simd reduction(+ : squares)
      for (int64_t j = 0; j < D; ++j) {
        xin[j] = x[j];
        xm[j] = mix0[j] * x[j] + mix1[j] * x0[j];
        squares += xm[j] * xm[j];
      }
    } else if (in.skip_gate != nullptr) {
      const float* __restrict skip = in.skip + row * D;
      const float* __restrict weight = in.skip_weight;
      const float* __restrict gate = in.skip_gate;
#pragma omp simd reduction(+ : squares)
      for (int64_t j = 0; j < D; ++j) {
        xin[j] = formula::Lerp(weight[j] * skip[j], x[j], gate[j]);
        xm[j] = mix0[j] * xin[j] + mix1[j] * x0[j];
        squares += xm[j] * xm[j];
      }
    } else {
      const float* __restrict skip = in.skip + row * D;
      const float* __restrict weight = in.skip_weight;
#pragma omp simd reduction(+ : squares)
      for (int64_t j = 0; j < D; ++j) {
        xin[j] = x[j] + weight[j] * skip[j];
        xm[j] = mix0[j] * xin[j] + mix1[j] * x0[j];
        squares += xm[j] * xm[j];
      }
    }
  }
  return 1.0f / __builtin_sqrtf(squares / static_cast<float>(D) + formula::kRmsEpsilon);
}

FAIRWAY_INLINE void AddRow(const float* __restrict from, int64_t D, float* __restrict to) {
#pragma omp simd
  for (int64_t j = 0; j < D; ++j) to[j] += from[j];
}

template <class E>
void Forward(const MixNorm& in, float* residual, E* u, Rows rows, Residual carries) {
  const int64_t D = in.D;
  const Scratch scratch(2 * D);
  for (int64_t row = rows.first; row < rows.last; ++row) {
    float* own = residual != nullptr ? residual + row * D : nullptr;
    float* __restrict xm = own != nullptr && carries == Residual::kMixed ? own : scratch.data() + D;
    const float r = MixRow(in, row, own != nullptr && carries == Residual::kInput ? own : scratch.data(), xm);
    E* __restrict out = u + row * D;
#pragma omp simd
    for (int64_t j = 0; j < D; ++j) Put(xm[j] * r, out + j);
  }
}

template <class E>
void Backward(const MixNorm& in, const MixNormGradients& out, const E* all_du, Rows rows) {
  const int64_t D = in.D;
  const Scratch scratch(2 * D);
  float* __restrict xin = scratch.data();
  float* __restrict xm = xin + D;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float r = MixRow(in, row, xin, xm);
    const E* __restrict du = all_du + row * D;
    float* __restrict dmixed = out.dresidual + row * D;
    float product = 0;
#pragma omp simd reduction(+ : product)
    for (int64_t j = 0; j < D; ++j) product += Get(du[j]) * xm[j];
    const float mean = product * r / static_cast<float>(D);
    if (out.carries == Residual::kInput) {
      const float* __restrict x0 = in.x0 + row * D;
      const float* __restrict mix0 = in.mix;
      const float* __restrict mix1 = in.mix + D;
      float* __restrict dx0 = out.dx0 + row * D;
      float* __restrict dmix0 = out.dmix;
      float* __restrict dmix1 = out.dmix + D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) {
        const float dxm = formula::RmsGradient(Get(du[j]), xm[j] * r, r, mean);
        dx0[j] += mix1[j] * dxm;
        dmix0[j] += dxm * xin[j];
        dmix1[j] += dxm * x0[j];
        dmixed[j] += mix0[j] * dxm;
      }
    } else {
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) dmixed[j] += formula::RmsGradient(Get(du[j]), xm[j] * r, r, mean);
    }
    if (in.x0 != nullptr && out.carries == Residual::kMixed) {
      const float* __restrict x0 = in.x0 + row * D;
      const float* __restrict mix0 = in.mix;
      const float* __restrict mix1 = in.mix + D;
      float* __restrict dx0 = out.dx0 + row * D;
      float* __restrict dmix0 = out.dmix;
      float* __restrict dmix1 = out.dmix + D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) {
        const float dxm = dmixed[j];
        dx0[j] += mix1[j] * dxm;
        dmix0[j] += dxm * xin[j];
        dmix1[j] += dxm * x0[j];
        dmixed[j] = mix0[j] * dxm;
      }
    }
    if (in.skip_gate != nullptr && in.skip != nullptr) {
      const float* __restrict x = in.x + row * D;
      const float* __restrict skip = in.skip + row * D;
      const float* __restrict weight = in.skip_weight;
      const float* __restrict gate = in.skip_gate;
      float* __restrict dskip = out.dskip + row * D;
      float* __restrict dweight = out.dskip_weight;
      float* __restrict dgate = out.dskip_gate;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) {
        const float dxin = dmixed[j], passed = (1.0f - gate[j]) * dxin;
        dgate[j] += dxin * (x[j] - weight[j] * skip[j]) * (gate[j] * (1.0f - gate[j]));
        dskip[j] = weight[j] * passed;
        dweight[j] += passed * skip[j];
        dmixed[j] = gate[j] * dxin;
      }
    } else if (in.skip != nullptr) {
      const float* __restrict skip = in.skip + row * D;
      const float* __restrict weight = in.skip_weight;
      float* __restrict dskip = out.dskip + row * D;
      float* __restrict dweight = out.dskip_weight;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) {
        dskip[j] = weight[j] * dmixed[j];
        dweight[j] += dmixed[j] * skip[j];
      }
    }
    if (out.extra != nullptr) AddRow(out.extra + row * D, D, dmixed);
    if (out.extra_lane != nullptr) AddRow(out.extra_lane + row * D, D, dmixed);
    if (out.dx.data != nullptr) {
      E* __restrict dx = static_cast<E*>(out.dx.data) + row * D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) Put(dmixed[j], dx + j);
    }
  }
}

}  // namespace

void MixNormForward(const MixNorm& in, float* residual, Elements u, Rows rows, Residual carries) {
  With(u, [&](auto* to) { Forward(in, residual, to, rows, carries); });
}

void MixNormBackward(const MixNorm& in, const MixNormGradients& out, Rows rows) {
  With(out.du, [&](auto* du) { Backward(in, out, du, rows); });
}

}  // namespace fairway::FAIRWAY_TARGET
