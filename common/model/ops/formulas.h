// The scalar formulas of the fused operations, for one element each. CPU kernels and CUDA kernels both call them, so that what
// the CPU's tests prove is what a GPU computes. Everything is float32; loops over them vectorise (no calls, no branches).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define FAIRWAY_FORMULA static __host__ __device__ __forceinline__
#else
// static: each build of a kernel file keeps its own (kernel.h).
#define FAIRWAY_FORMULA static inline __attribute__((always_inline, unused))
#endif

namespace fairway::formula {

// Epsilon of every RMS norm: 2^-23 (pull request 531).
constexpr float kRmsEpsilon = 1.1920928955078125e-07f;
// The least norm that exclusive self attention divides by.
constexpr float kXsaEpsilon = 1e-12f;

// From `from` towards `to` by `t`, as torch.lerp computes it.
FAIRWAY_FORMULA float Lerp(float from, float to, float t) {
  return t < 0.5f ? from + t * (to - from) : to - (to - from) * (1.0f - t);
}

// e^x within 2 units in the last place; 0 below -87, infinity never (above 88 the last finite power of two times the rest).
// Cody and Waite's reduction x = n ln 2 + r, a polynomial in r, and 2^n put into the exponent's bits.
FAIRWAY_FORMULA float Exp(float x) {
  x = x > 88.0f ? 88.0f : x;
  const float clamped = x < -87.0f ? -87.0f : x;
  // 1.5 * 2^23 leaves no bits behind the point: the integer n is in the lowest bits of `shifted`.
  const float shifted = clamped * 1.44269504088896341f + 12582912.0f, n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float mantissa = (p * r) * r + r + 1.0f;
  uint32_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127u) << 23;
  float power;
  memcpy(&power, &bits, sizeof power);
  return x < -87.0f ? 0.0f : mantissa * power;
}

FAIRWAY_FORMULA float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

FAIRWAY_FORMULA float Tanh(float x) {
  const float magnitude = x < 0 ? -x : x;
  // Near 0 the quotient below cancels; the series up to x^11 is exact to a rounding there.
  const float s = x * x;
  float series = -1382.0f / 155925.0f;
  series = series * s + 62.0f / 2835.0f;
  series = series * s - 17.0f / 315.0f;
  series = series * s + 2.0f / 15.0f;
  series = series * s - 1.0f / 3.0f;
  series = series * s * x + x;
  const float e = Exp(-2.0f * magnitude);
  const float quotient = (1.0f - e) / (1.0f + e);
  return magnitude < 0.25f ? series : (x < 0 ? -quotient : quotient);
}

// z = cap tanh(l / cap), and dz/dl from z.
FAIRWAY_FORMULA float Softcap(float logit, float cap) { return cap * Tanh(logit / cap); }
FAIRWAY_FORMULA float SoftcapSlope(float capped, float cap) { return 1.0f - (capped / cap) * (capped / cap); }

// relu(h)^2, and its slope; the ReLU has slope `negative` below 0.
FAIRWAY_FORMULA float Relu2(float h, float negative) {
  const float relu = h > 0 ? h : negative * h;
  return relu * relu;
}
FAIRWAY_FORMULA float Relu2Slope(float h, float negative) { return 2.0f * (h > 0 ? h : negative * negative * h); }

// Row of the bigram table for a token and the one before it (pull request 531): 32-bit wrap-around arithmetic, the
// remainder non-negative. The last row, rows - 1, is for the first position.
FAIRWAY_FORMULA int32_t BigramRow(int32_t token, int32_t previous, int32_t rows) {
  const int32_t mixed = static_cast<int32_t>((36313u * static_cast<uint32_t>(token)) ^ (27191u * static_cast<uint32_t>(previous)));
  const int32_t remainder = mixed % (rows - 1);
  return remainder < 0 ? remainder + (rows - 1) : remainder;
}

// What one position's smear gate does: (1 - g) x + g before (pull request 531).
FAIRWAY_FORMULA float Smear(float gate, float x, float before) { return (1.0f - gate) * x + gate * before; }

// An RMS norm's input gradient, from its output u = x r and the mean of du u (r = 1 / sqrt(mean(x^2) + eps)).
FAIRWAY_FORMULA float RmsGradient(float du, float u, float r, float mean_du_u) { return r * (du - u * mean_du_u); }

// Exclusive self attention: removes the part of y along the unit vector n (pull request 531).
FAIRWAY_FORMULA float Exclude(float y, float along, float n) { return y - along * n; }

// A bfloat16's bits as float32, and the bfloat16 nearest to x, halves to even; infinities stay, and so do the NaNs that arithmetic
// makes.
FAIRWAY_FORMULA float FromBFloat16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
FAIRWAY_FORMULA uint16_t ToBFloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + (0x7fffu + ((bits >> 16) & 1u))) >> 16);
}

// x rounded to the nearest integer, halves to the even one, and clamped to [low, high], integers below 2^22.
FAIRWAY_FORMULA float RoundToGrid(float x, float low, float high) {
  const float clamped = x < low ? low : (x > high ? high : x);
  return (clamped + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23 leaves no bits behind the point
}

// The float16 nearest to x, 0 <= x < 65520, halves to even.
FAIRWAY_FORMULA float RoundToHalf(float x) {
  if (x < 6.103515625e-05f) return (x + 0.5f) - 0.5f;  // subnormal: multiples of 2^-24, as floats have them in [1/2, 1)
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu;
  float rounded;
  memcpy(&rounded, &bits, sizeof rounded);
  return rounded;
}

// A row's steps on a grid (fake_quantise.h) from its largest magnitude: what codes are counted in, and what they are multiplied by.
struct Steps {
  float codes, values;
};
FAIRWAY_FORMULA Steps GridSteps(float largest, float q_max, float least, bool stored, bool exact_codes) {
  const float exact = largest / q_max > least ? largest / q_max : least;
  const float values = stored ? RoundToHalf(exact) : exact;
  return {exact_codes ? exact : values, values};
}
FAIRWAY_FORMULA float OnGrid(float w, Steps steps, float q_min, float q_max) {
  return RoundToGrid(w / steps.codes, q_min, q_max) * steps.values;
}

}  // namespace fairway::formula
