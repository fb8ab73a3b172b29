// One matrix onto its grid, by row, with a search for the clip that errs least (pull request 531).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "common/quantise/grid.h"

namespace fairway {

// Quantiles of |row| that int6 tries as its clip, in this order; 1 is the maximum.
inline constexpr std::array<double, 5> kClipPercentiles = {0.9990, 0.9995, 0.9999, 0.99999, 1.0};

struct QuantisedMatrix {
  std::vector<int8_t> codes;     // [rows * columns], row-major
  std::vector<uint16_t> scales;  // [rows], float16 as stored
  // How many rows each of kClipPercentiles won; zeros where the grid knows no search. With published_quirks one percentile serves
  // the whole matrix, and all its rows count.
  std::array<int64_t, kClipPercentiles.size()> wins = {};
  double squared_error = 0;  // sum of (weight - code * scale)^2
};

// `weights` is [rows, columns], finite. With `published_quirks` as published: steps of at least 1/31 (int6) and 1/127 (int8), and
// one percentile per matrix (a quirk of pull request 531). The result does not depend on `threads`. A row so large that
// its scale overflows float16 gets an infinite scale; the caller decides what to say about it.
QuantisedMatrix QuantiseMatrix(std::span<const float> weights, int64_t rows, const Grid& grid, bool published_quirks,
                               int threads);

// The p-quantile of ascending values, as PyTorch computes it in float32: rank float32(p) * (n - 1) in float32, and one
// fused multiply-add between the neighbours. REQUIRES: `ascending` is not empty.
float Quantile(std::span<const float> ascending, double p);

// Bits a code, were each coded at its own frequency in `codes` (entropy of order 0).
double EntropyBits(std::span<const int8_t> codes);

}  // namespace fairway
