// A matrix as codes and scales, by any quantiser: what the export writes.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/quantise/grid.h"

namespace fairway {

// Codes of a matrix, row-major. Scales are float16; each serves an equal run of consecutive codes: one per row, one for all, or one
// for a group of neighbours.
struct ScaledCodes {
  Grid grid;
  std::vector<int8_t> codes;
  std::vector<uint16_t> scales;

  // code * scale, float32.
  std::vector<float> Values() const;
};

// What is added to the matrix that the codes give: left [rows, rank] times right [rank, columns] (LQER, arXiv 2402.02446).
struct LowRankCorrection {
  int64_t rank = 0;
  ScaledCodes left, right;
};

struct CodedMatrix {
  ScaledCodes matrix;
  std::optional<LowRankCorrection> correction;
};
using CodedMatrices = std::map<std::string, CodedMatrix>;

// int2 to int8: codes of -(2^(bits - 1) - 1) to 2^(bits - 1) - 1. REQUIRES: 2 <= bits <= 8.
Grid SymmetricGrid(int64_t bits);

// Codes of `bits` bits by row: scale = float16(max(max |row|, 1e-10) / top), code = round(w / scale); where the scale is too small for
// float16, and so 0, codes are 0 or +-top: whatever they are, the row comes back as 0.
ScaledCodes QuantiseRowMaximum(const std::vector<float>& weights, int64_t rows, int64_t bits);

// The factors a [rows, rank] and b [rank, columns] of a correction as pull request 1855 stores them. With a group > 0 that divides
// rank * columns: a in codes of -2 to 1 with one scale float16(max |a| / 1.5), b in codes of -8 to 7 with one scale
// float16(max / 7.5) for each `group` neighbours. Else both by QuantiseRowMaximum in `bits` bits.
LowRankCorrection QuantiseFactors(const std::vector<float>& a, const std::vector<float>& b, int64_t rank, int64_t group, int64_t bits);

}  // namespace fairway
