#include "common/quantise/quantiser.h"

#include <algorithm>
#include <cmath>

#include "common/base/threads.h"
#include "common/quantise/grid.h"

namespace fairway {
namespace {

constexpr int64_t kRowsAtATime = 16;  // that a thread takes
constexpr size_t kMaxCandidates = kClipPercentiles.size();

// How the scales of a grid are found.
struct ScaleRule {
  std::span<const double> percentiles;  // of |row|: the clips tried
  float floor;                          // the least scale
  bool divide_by_stored;                // codes come from dividing by the scale as stored (float16), not as computed
};

constexpr double kMaximum[] = {1.0};
constexpr double kInt8Percentile[] = {0.9999984};

// The least positive float16: no stored scale is zero, and no row is coarser than it needs to be.
constexpr float kTinyScale = 0x1p-24f;

ScaleRule RuleOf(const Grid& grid, bool published_quirks) {
  if (grid == kInt5) return {kMaximum, published_quirks ? 1e-12f : kTinyScale, true};
  if (grid == kInt6) return {kClipPercentiles, published_quirks ? 1.0f / 31.0f : kTinyScale, true};
  return {kInt8Percentile, published_quirks ? 1.0f / 127.0f : kTinyScale, false};
}

// One way to quantise a row.
struct Candidate {
  float clip;
  float divisor;    // weights are divided by this
  uint16_t stored;  // and codes multiplied by this (float16)
};

// Clamping before rounding gives the same as after, the bounds being integers, and keeps infinities away from the
// rounding.
inline float Code(float weight, const Candidate& candidate, const Grid& grid) {
  const float clipped = std::clamp(weight, -candidate.clip, candidate.clip);
  // A stored scale of zero (published_quirks only): zeros are coded 0, all else saturates.
  const float ratio = clipped == 0 ? 0 : clipped / candidate.divisor;
  return RoundHalfEven(std::clamp(ratio, static_cast<float>(grid.q_min), static_cast<float>(grid.q_max)));
}

double SquaredError(std::span<const float> row, const Candidate& candidate, const Grid& grid) {
  const float scale = HalfToFloat(candidate.stored);
  double sum = 0;
  for (const float weight : row) {
    const double error = Code(weight, candidate, grid) * scale - weight;
    sum += error * error;
  }
  return sum;
}

// The candidates of one row and what each would cost.
struct RowSearch {
  std::array<Candidate, kMaxCandidates> candidates;
  std::array<double, kMaxCandidates> errors;
};

RowSearch Search(std::span<const float> row, const ScaleRule& rule, const Grid& grid, std::vector<float>& magnitudes) {
  magnitudes.resize(row.size());
  std::ranges::transform(row, magnitudes.begin(), [](float weight) { return std::fabs(weight); });
  std::ranges::sort(magnitudes);
  RowSearch search;
  for (size_t i = 0; i < rule.percentiles.size(); ++i) {
    const float clip = Quantile(magnitudes, rule.percentiles[i]);
    const float scale = std::max(clip / static_cast<float>(grid.q_max), rule.floor);
    const uint16_t stored = FloatToHalf(scale);
    search.candidates[i] = {clip, rule.divide_by_stored ? HalfToFloat(stored) : scale, stored};
    // int5 and int6 clip by the bounds of their codes alone, so that an equal scale means equal codes.
    if (rule.divide_by_stored) search.candidates[i].clip = INFINITY;
    const bool repeated = i > 0 && rule.divide_by_stored && stored == search.candidates[i - 1].stored;
    search.errors[i] = repeated ? search.errors[i - 1] : SquaredError(row, search.candidates[i], grid);
  }
  return search;
}

}  // namespace

float Quantile(std::span<const float> ascending, double p) {
  const float rank = static_cast<float>(p) * static_cast<float>(ascending.size() - 1);
  const float below = std::floor(rank);
  const float weight = rank - below;
  const float a = ascending[static_cast<size_t>(below)];
  const float b = ascending[static_cast<size_t>(std::ceil(rank))];
  return weight < 0.5f ? std::fma(weight, b - a, a) : std::fma(-(b - a), 1.0f - weight, b);
}

QuantisedMatrix QuantiseMatrix(std::span<const float> weights, int64_t rows, const Grid& grid, bool published_quirks,
                               int threads) {
  const int64_t columns = rows == 0 ? 0 : weights.size() / rows;
  const ScaleRule rule = RuleOf(grid, published_quirks);
  const size_t candidates = rule.percentiles.size();
  const auto row_of = [&](int64_t row) { return weights.subspan(row * columns, columns); };

  std::vector<RowSearch> searches(rows);
  ParallelFor(rows, kRowsAtATime, threads, [&](int64_t first, int64_t last) {
    std::vector<float> magnitudes;
    for (int64_t row = first; row < last; ++row) searches[row] = Search(row_of(row), rule, grid, magnitudes);
  });

  // The first of the least: of each row, or (published_quirks) of the sums over all rows.
  const auto best_of = [&](const std::array<double, kMaxCandidates>& errors) {
    return std::min_element(errors.begin(), errors.begin() + candidates) - errors.begin();
  };
  std::array<double, kMaxCandidates> matrix_errors = {};
  for (const RowSearch& search : searches) {
    for (size_t i = 0; i < candidates; ++i) matrix_errors[i] += search.errors[i];
  }
  const size_t matrix_best = best_of(matrix_errors);

  QuantisedMatrix result;
  result.codes.resize(weights.size());
  result.scales.resize(rows);
  std::vector<const Candidate*> chosen(rows);
  for (int64_t row = 0; row < rows; ++row) {
    const size_t best = published_quirks ? matrix_best : best_of(searches[row].errors);
    chosen[row] = &searches[row].candidates[best];
    result.scales[row] = chosen[row]->stored;
    result.squared_error += searches[row].errors[best];
    if (candidates > 1) ++result.wins[best];
  }
  ParallelFor(rows, kRowsAtATime, threads, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      std::ranges::transform(row_of(row), result.codes.begin() + row * columns,
                             [&](float weight) { return static_cast<int8_t>(Code(weight, *chosen[row], grid)); });
    }
  });
  return result;
}

double EntropyBits(std::span<const int8_t> codes) {
  std::array<int64_t, 256> counts = {};
  for (const int8_t code : codes) ++counts[static_cast<uint8_t>(code)];
  double bits = 0;
  for (const int64_t count : counts) {
    if (count > 0) bits -= count * std::log2(static_cast<double>(count) / codes.size());
  }
  return codes.empty() ? 0 : bits / codes.size();
}

}  // namespace fairway
