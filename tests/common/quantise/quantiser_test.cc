#include "common/quantise/quantiser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace fairway {
namespace {

constexpr Grid kGrids[] = {kInt5, kInt6, kInt8};

// Rows of different sizes of weights, with an outlier here and there: clips matter.
std::vector<float> RandomMatrix(int64_t rows, int64_t columns, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> weights;
  for (int64_t row = 0; row < rows; ++row) {
    const float size = std::exp2(static_cast<float>(row % 9) - 8);
    for (int64_t i = 0; i < columns; ++i) weights.push_back(size * normal(random) * (random() % 200 == 0 ? 6 : 1));
  }
  return weights;
}

float FloatQuantile(std::vector<float> values, double p) {
  std::ranges::sort(values);
  return Quantile(values, p);
}

// What int6 makes of a row with this clip, by the words of the specification: the code and the squared error.
std::pair<std::vector<int>, double> Int6Row(std::span<const float> row, float clip, float floor) {
  const float scale = HalfToFloat(FloatToHalf(std::max(clip / 31.0f, floor)));
  std::vector<int> codes;
  double error = 0;
  for (const float weight : row) {
    codes.push_back(std::clamp(static_cast<int>(std::nearbyint(weight / scale)), -32, 31));
    error += std::pow(static_cast<double>(codes.back() * scale) - weight, 2);
  }
  return {codes, error};
}

std::vector<std::vector<float>> Rows(const std::vector<float>& weights, int64_t rows) {
  const int64_t columns = weights.size() / rows;
  std::vector<std::vector<float>> result;
  for (int64_t row = 0; row < rows; ++row) {
    result.emplace_back(weights.begin() + row * columns, weights.begin() + (row + 1) * columns);
  }
  return result;
}

std::vector<float> Magnitudes(std::vector<float> row) {
  for (float& weight : row) weight = std::fabs(weight);
  return row;
}

// torch.quantile of x_i = sqrt(float32(0.37) * i) + float32(0.001) * i, computed in float32 by PyTorch 2.11.
TEST(Quantile, EqualsPyTorch) {
  struct Case {
    int n;
    double p;
    float expected;
  };
  constexpr Case kCases[] = {{1, 0.999, 0},
                             {2, 0.9990, 0x1.37a3320000000p-1},
                             {2, 0.9999984, 0x1.37f2ee0000000p-1},
                             {2, 0.3, 0x1.7656de0000000p-3},
                             {3, 0.9999, 0x1.b96fe80000000p-1},
                             {97, 0.9990, 0x1.8360ca0000000p+2},
                             {97, 0.3, 0x1.a5836e0000000p+1},
                             {512, 0.9990, 0x1.c81fd00000000p+3},
                             {512, 0.9995, 0x1.c83e120000000p+3},
                             {512, 0.9999, 0x1.c8564a0000000p+3},
                             {512, 0.99999, 0x1.c85bbc0000000p+3},
                             {512, 0.9999984, 0x1.c85c400000000p+3},
                             {512, 1.0, 0x1.c85c580000000p+3},
                             {1536, 0.9995, 0x1.95c2760000000p+4},
                             {1536, 0.9999984, 0x1.95ddec0000000p+4},
                             {1536, 1.0, 0x1.95de020000000p+4},
                             {1536, 0.3, 0x1.b06fe60000000p+3}};
  for (const Case& expected : kCases) {
    std::vector<float> values;
    for (int i = 0; i < expected.n; ++i) {
      values.push_back(std::sqrt(static_cast<float>(i) * 0.37f) + 0.001f * static_cast<float>(i));
    }
    EXPECT_EQ(Quantile(values, expected.p), expected.expected) << expected.n << " values, p = " << expected.p;
  }
}

// Cubes lie so far apart that a product and a sum, each rounded, would end elsewhere than one fused multiply-add.
TEST(Quantile, FusesMultiplicationAndAddition) {
  const auto cubes = [](int n) {
    std::vector<float> values;
    for (float i = 0; i < n; ++i) values.push_back(0.37f * i * i * i);
    return values;
  };
  EXPECT_EQ(Quantile(cubes(7), 0.4), 0x1.7168760000000p+2f);
  EXPECT_EQ(Quantile(cubes(12), 0.3), 0x1.c31aa60000000p+3f);
  EXPECT_EQ(Quantile(cubes(10), 0.3), 0x1.f8624e0000000p+2f);
  EXPECT_EQ(Quantile(cubes(24), 0.2), 0x1.29c6a60000000p+5f);
}

// Against the textbook formula in float64. The rank in float32 is off by up to half a unit of its last place, n *
// 2^-24, and so is the result by as much of the gap between neighbours; the result itself is rounded twice.
TEST(Quantile, IsNearTheFormula) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<float> values(1 + random() % 2000);
    for (float& value : values) value = std::fabs(std::normal_distribution<float>()(random));
    std::ranges::sort(values);
    const double p = std::uniform_real_distribution<double>(0, 1)(random);
    const double rank = static_cast<double>(static_cast<float>(p)) * (values.size() - 1);
    const size_t below = static_cast<size_t>(rank), above = std::min(below + 1, values.size() - 1);
    const double expected = values[below] + (rank - below) * (values[above] - values[below]);
    // Where the rounded rank falls on the other side of an integer the next gap counts too.
    const size_t first = below == 0 ? 0 : below - 1, last = std::min(above + 1, values.size() - 1);
    const double tolerance = 0x1p-23 * (values.size() * (values[last] - values[first]) + values[last]);
    EXPECT_NEAR(Quantile(values, p), expected, tolerance) << values.size() << " values, p = " << p;
  }
}

TEST(Quantile, OfEqualValuesIsThatValue) {
  for (const double p : kClipPercentiles) EXPECT_EQ(FloatQuantile(std::vector<float>(512, 0.3f), p), 0.3f);
}

TEST(QuantiseMatrix, RoundsToTheNearestCode) {
  const int64_t rows = 18, columns = 300;
  const std::vector<float> weights = RandomMatrix(rows, columns, 4);
  for (const bool published_quirks : {false, true}) {
    for (const Grid& grid : kGrids) {
      SCOPED_TRACE(std::string(grid.name) + (published_quirks ? " published_quirks" : ""));
      const QuantisedMatrix matrix = QuantiseMatrix(weights, rows, grid, published_quirks, 1);
      double squared_error = 0;
      for (size_t i = 0; i < weights.size(); ++i) {
        const double scale = HalfToFloat(matrix.scales[i / columns]);
        const int code = matrix.codes[i];
        ASSERT_GE(code, grid.q_min);
        ASSERT_LE(code, grid.q_max);
        const double error = static_cast<float>(code * scale) - static_cast<double>(weights[i]);
        squared_error += error * error;
        // No other code would be nearer, unless that one is outside the grid. int8 divides by the scale before it is
        // rounded to float16 (2^-11 of it), which moves a weight of up to 127 steps by up to 127 * 2^-11 = 0.062 steps.
        const double steps = weights[i] / scale, tolerance = grid == kInt8 ? 0.563 : 0.5 + 1e-6;
        if (steps > grid.q_min && steps < grid.q_max) {
          EXPECT_LE(std::fabs(code - steps), tolerance) << "element " << i;
        }
      }
      EXPECT_NEAR(matrix.squared_error, squared_error, 1e-12 * squared_error);
    }
  }
}

TEST(QuantiseMatrix, RoundsHalvesToEven) {
  // The maximum makes the scale a power of two, so that the halves are exact.
  const std::vector<float> weights = {31, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, -31};
  const QuantisedMatrix matrix = QuantiseMatrix(weights, 1, kInt6, false, 1);
  EXPECT_EQ(HalfToFloat(matrix.scales[0]), 1.0f);
  EXPECT_EQ(matrix.codes, (std::vector<int8_t>{31, 0, 2, 2, 0, -2, -2, -31}));
}

TEST(QuantiseMatrix, TakesTheBestPercentileOfEachRow) {
  const int64_t rows = 40;
  const std::vector<float> weights = RandomMatrix(rows, 777, 5);
  const QuantisedMatrix matrix = QuantiseMatrix(weights, rows, kInt6, false, 1);
  std::array<int64_t, kClipPercentiles.size()> wins = {};
  double total = 0;
  int64_t index = 0;
  for (const std::vector<float>& row : Rows(weights, rows)) {
    size_t best = 0;
    double best_error = std::numeric_limits<double>::infinity();
    std::vector<int> best_codes;
    for (size_t i = 0; i < kClipPercentiles.size(); ++i) {
      const auto [codes, error] = Int6Row(row, FloatQuantile(Magnitudes(row), kClipPercentiles[i]), 0);
      if (error < best_error) best = i, best_error = error, best_codes = codes;
    }
    ++wins[best];
    total += best_error;
    for (const int code : best_codes) {
      ASSERT_EQ(matrix.codes[index], code) << "element " << index;
      ++index;
    }
  }
  EXPECT_EQ(matrix.wins, wins);
  EXPECT_NEAR(matrix.squared_error, total, 1e-12 * total);
  EXPECT_GT(std::ranges::count_if(wins, [](int64_t count) { return count > 0; }), 2)
      << "the search has nothing to choose";
}

// Whatever one percentile serves all rows, choosing for each row errs no more.
TEST(QuantiseMatrix, PerRowNeverErrsMoreThanPerMatrix) {
  std::mt19937 random(6);
  for (int trial = 0; trial < 30; ++trial) {
    const int64_t rows = 1 + random() % 30, columns = 1 + random() % 400;
    const std::vector<float> weights = RandomMatrix(rows, columns, trial);
    double per_matrix = std::numeric_limits<double>::infinity();
    for (const double percentile : kClipPercentiles) {
      double error = 0;
      for (const std::vector<float>& row : Rows(weights, rows)) {
        error += Int6Row(row, FloatQuantile(Magnitudes(row), percentile), 0).second;
      }
      per_matrix = std::min(per_matrix, error);
    }
    // Sums of the same terms, grouped differently.
    EXPECT_LE(QuantiseMatrix(weights, rows, kInt6, false, 1).squared_error, per_matrix * (1 + 1e-12));
  }
}

TEST(QuantiseMatrix, PublishedQuirkTakesOnePercentileForAllRows) {
  const int64_t rows = 25;
  std::vector<float> weights = RandomMatrix(rows, 600, 7);
  for (float& weight : weights) weight *= 300;  // above the floor
  const QuantisedMatrix matrix = QuantiseMatrix(weights, rows, kInt6, true, 1);
  double best = std::numeric_limits<double>::infinity();
  size_t expected = 0;
  for (size_t i = 0; i < kClipPercentiles.size(); ++i) {
    double error = 0;
    for (const std::vector<float>& row : Rows(weights, rows)) {
      error += Int6Row(row, FloatQuantile(Magnitudes(row), kClipPercentiles[i]), 1.0f / 31).second;
    }
    if (error < best) best = error, expected = i;
  }
  EXPECT_EQ(matrix.wins[expected], rows);
  EXPECT_EQ(std::accumulate(matrix.wins.begin(), matrix.wins.end(), 0), rows);
  EXPECT_NEAR(matrix.squared_error, best, 1e-12 * best);
}

TEST(QuantiseMatrix, TiesGoToTheFirstPercentile) {
  // Constant rows have one quantile; rows under 1 have one scale in published_quirks, its floor.
  const std::vector<float> constant(4 * 50, 0.25f);
  EXPECT_EQ(QuantiseMatrix(constant, 4, kInt6, false, 1).wins[0], 4);
  std::vector<float> small = RandomMatrix(6, 200, 8);
  for (float& weight : small) weight = std::clamp(weight, -0.99f, 0.99f);
  const QuantisedMatrix matrix = QuantiseMatrix(small, 6, kInt6, true, 1);
  EXPECT_EQ(matrix.wins[0], 6);
  for (const uint16_t scale : matrix.scales) EXPECT_EQ(scale, FloatToHalf(1.0f / 31));
}

TEST(QuantiseMatrix, Int8DividesByTheScaleBeforeItIsStored) {
  // 1 / 127 rounds down in float16: what lies just below a half is coded 100, and would be 101 by the stored scale.
  const std::vector<float> weights = {1, 1, 1, 100.497f / 127, 0};
  const QuantisedMatrix matrix = QuantiseMatrix(weights, 1, kInt8, false, 1);
  EXPECT_EQ(matrix.scales[0], FloatToHalf(1.0f / 127));
  ASSERT_GT(100.497f / 127 / HalfToFloat(matrix.scales[0]), 100.5f);
  EXPECT_EQ(matrix.codes, (std::vector<int8_t>{127, 127, 127, 100, 0}));
}

TEST(QuantiseMatrix, PublishedQuirkFloorsTheScaleOfInt8) {
  const QuantisedMatrix matrix = QuantiseMatrix(std::vector<float>{0.5f, -0.25f}, 1, kInt8, true, 1);
  EXPECT_EQ(matrix.scales[0], FloatToHalf(1.0f / 127));
  EXPECT_EQ(matrix.codes, (std::vector<int8_t>{63, -32}));  // 63.5, clipped by a trace, and 31.75
}

TEST(QuantiseMatrix, OnlyInt6Searches) {
  const std::vector<float> weights = RandomMatrix(9, 100, 9);
  const std::array<int64_t, kClipPercentiles.size()> none = {};
  EXPECT_EQ(QuantiseMatrix(weights, 9, kInt5, false, 1).wins, none);
  EXPECT_EQ(QuantiseMatrix(weights, 9, kInt8, false, 1).wins, none);
}

TEST(QuantiseMatrix, ZeroRowsComeBackAsZeros) {
  std::vector<float> weights(3 * 20);
  weights[25] = 0.5f;  // in the middle row only
  for (const bool published_quirks : {false, true}) {
    for (const Grid& grid : kGrids) {
      SCOPED_TRACE(std::string(grid.name) + (published_quirks ? " published_quirks" : ""));
      const QuantisedMatrix matrix = QuantiseMatrix(weights, 3, grid, published_quirks, 1);
      EXPECT_TRUE(std::all_of(matrix.codes.begin(), matrix.codes.begin() + 20, [](int8_t code) { return code == 0; }));
      EXPECT_TRUE(std::all_of(matrix.codes.end() - 20, matrix.codes.end(), [](int8_t code) { return code == 0; }));
      EXPECT_NE(matrix.codes[25], 0);
      EXPECT_GE(HalfToFloat(matrix.scales[0]), published_quirks ? 0 : 0x1p-24f);
    }
  }
}

// Published: int5 stores 1e-12 as float16, which is 0; zeros are coded 0 and all else the end of its side.
TEST(QuantiseMatrix, PublishedQuirkSaturatesWhereTheStoredScaleIsZero) {
  const QuantisedMatrix matrix = QuantiseMatrix(std::vector<float>{1e-10f, 0, -1e-10f, 1e-20f}, 1, kInt5, true, 1);
  EXPECT_EQ(HalfToFloat(matrix.scales[0]), 0);
  EXPECT_EQ(matrix.codes, (std::vector<int8_t>{15, 0, -16, 15}));
}

TEST(QuantiseMatrix, DoesNotDependOnTheNumberOfThreads) {
  for (const int64_t rows : {1, 2, 5, 64}) {
    const std::vector<float> weights = RandomMatrix(rows, 130, 10);
    for (const bool published_quirks : {false, true}) {
      for (const Grid& grid : kGrids) {
        const QuantisedMatrix one = QuantiseMatrix(weights, rows, grid, published_quirks, 1);
        for (const int threads : {2, 3, 7, 100}) {
          const QuantisedMatrix many = QuantiseMatrix(weights, rows, grid, published_quirks, threads);
          EXPECT_EQ(one.codes, many.codes);
          EXPECT_EQ(one.scales, many.scales);
          EXPECT_EQ(one.wins, many.wins);
          EXPECT_EQ(one.squared_error, many.squared_error);
        }
      }
    }
  }
}

TEST(QuantiseMatrix, EmptyMatricesStayEmpty) {
  EXPECT_TRUE(QuantiseMatrix({}, 0, kInt6, false, 2).codes.empty());
}

TEST(EntropyBits, CountsCodes) {
  EXPECT_EQ(EntropyBits({}), 0);
  EXPECT_EQ(EntropyBits(std::vector<int8_t>(9, -3)), 0);
  EXPECT_DOUBLE_EQ(EntropyBits(std::vector<int8_t>{-2, -1, 0, 1}), 2);
  EXPECT_DOUBLE_EQ(EntropyBits(std::vector<int8_t>{5, 5, 5, -5}), 0.75 * std::log2(4.0 / 3) + 0.25 * 2);
}

}  // namespace
}  // namespace fairway
