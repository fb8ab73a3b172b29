#include "common/quantise/coded.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "common/checkpoint/checkpoint.h"

namespace fairway {
namespace {

float LargestMagnitude(std::span<const float> values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  return largest;
}

// Codes on `grid` in `groups` equal runs, each with the scale float16(max(max |run|, 1e-10) / divisor).
ScaledCodes QuantiseRuns(std::span<const float> values, int64_t groups, const Grid& grid, float divisor) {
  ScaledCodes result{.grid = grid, .codes = std::vector<int8_t>(values.size()), .scales = {}};
  const size_t length = groups == 0 ? 0 : values.size() / static_cast<size_t>(groups);
  for (size_t first = 0; first < values.size(); first += length) {
    const std::span<const float> run = values.subspan(first, length);
    result.scales.push_back(FloatToHalf(std::max(LargestMagnitude(run), 1e-10f) / divisor));
    const float scale = HalfToFloat(result.scales.back());
    for (size_t i = 0; i < length; ++i) {
      if (run[i] == 0) continue;  // 0 / 0 where the scale is 0
      const float ratio = std::clamp(run[i] / scale, static_cast<float>(grid.q_min), static_cast<float>(grid.q_max));
      result.codes[first + i] = static_cast<int8_t>(RoundHalfEven(ratio));
    }
  }
  return result;
}

}  // namespace

std::vector<float> ScaledCodes::Values() const {
  std::vector<float> values(codes.size());
  const size_t length = scales.empty() ? 0 : codes.size() / scales.size();
  for (size_t i = 0; i < codes.size(); ++i) values[i] = static_cast<float>(codes[i]) * HalfToFloat(scales[i / length]);
  return values;
}

Grid SymmetricGrid(int64_t bits) {
  constexpr std::string_view kNames[] = {"int2", "int3", "int4", "int5", "int6", "int7", "int8"};
  const int32_t top = (1 << (bits - 1)) - 1;
  return {kNames[bits - 2], -top, top};
}

ScaledCodes QuantiseRowMaximum(const std::vector<float>& weights, int64_t rows, int64_t bits) {
  const Grid grid = SymmetricGrid(bits);
  return QuantiseRuns(weights, rows, grid, static_cast<float>(grid.q_max));
}

LowRankCorrection QuantiseFactors(const std::vector<float>& a, const std::vector<float>& b, int64_t rank, int64_t group, int64_t bits) {
  const auto size = static_cast<int64_t>(b.size());
  if (group > 0 && size % group == 0)
    return {rank, QuantiseRuns(a, 1, {"int2", -2, 1}, 1.5f), QuantiseRuns(b, size / group, {"int4", -8, 7}, 7.5f)};
  return {rank, QuantiseRowMaximum(a, static_cast<int64_t>(a.size()) / rank, bits), QuantiseRowMaximum(b, rank, bits)};
}

}  // namespace fairway
