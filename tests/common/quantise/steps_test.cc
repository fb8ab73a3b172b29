#include "common/quantise/steps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "common/checkpoint/checkpoint.h"

namespace fairway {
namespace {

std::vector<float> Normal(size_t count, unsigned seed, float deviation = 0.1f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

double Mean(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

TEST(ChooseSteps, FollowsWhatAnErrorCosts) {
  const std::vector<float> weights = Normal(400 * 50, 1, 1);
  const auto mean_step = [&](double cost, double step) { return Mean(ChooseSteps(weights, 400, {cost, {}, {}}, nullptr, step).rows); };
  // Thresholds are evenly spread, so the mean over many rows is the step that was asked for.
  EXPECT_NEAR(mean_step(1, 0.3), 0.3, 0.003);
  EXPECT_NEAR(mean_step(4, 0.3), 0.15, 0.002);
  EXPECT_NEAR(mean_step(0.25, 0.3), 0.6, 0.006);

  Cost cost{1, std::vector<double>(400, 1.0), std::vector<double>(50, 1.0)};
  for (int row = 0; row < 200; ++row) cost.rows[row] = 16;
  cost.columns[3] = 1.0 / 256;
  cost.columns[4] = 0;  // as cheap as can be
  const Steps steps = ChooseSteps(weights, 400, cost, nullptr, 0.5);
  EXPECT_NEAR(Mean({steps.rows.begin(), steps.rows.begin() + 200}), 0.25, 0.005);
  EXPECT_NEAR(Mean({steps.rows.begin() + 200, steps.rows.end()}), 0.5, 0.01);
  EXPECT_EQ(steps.columns[0], 1);
  EXPECT_EQ(steps.columns[3], 4);
  EXPECT_EQ(steps.columns[4], 8);
}

TEST(ChooseSteps, GivesFloat16OfTwoBitsOfMantissa) {
  Cost cost{0.7, {}, std::vector<double>(50)};
  for (int j = 0; j < 50; ++j) cost.columns[j] = std::exp(0.1 * j - 2);
  for (const double step : {0.0, 1e-6, 1e-3, 0.1, 10.0, 1e30}) {
    const Steps steps = ChooseSteps(Normal(40 * 50, 2), 40, cost, nullptr, step);
    for (const std::vector<float>* scales : {&steps.rows, &steps.columns}) {
      for (const float scale : *scales) {
        EXPECT_EQ(HalfToFloat(FloatToHalf(scale)), scale);
        EXPECT_EQ(FloatToHalf(scale) & 0xff, 0) << scale;  // sign, exponent and two bits
      }
    }
  }
}

TEST(ChooseSteps, StaysBetweenTheLargestCodeAndNone) {
  const std::vector<float> weights = Normal(40 * 50, 3);
  const RoundedMatrix finest = RoundToSteps(weights, ChooseSteps(weights, 40, {}, nullptr, 0), 1);
  for (int row = 0; row < 40; ++row) {
    int largest = 0;
    for (int j = 0; j < 50; ++j) largest = std::max(largest, std::abs(finest.codes[row * 50 + j]));
    EXPECT_GT(largest, 100);
    EXPECT_LE(largest, kLargestCode);
  }
  // Nothing is clipped: each weight is within half a step.
  const Steps steps = ChooseSteps(weights, 40, {}, nullptr, 0);
  for (size_t i = 0; i < weights.size(); ++i)
    EXPECT_LE(std::fabs(finest.codes[i] * steps.rows[i / 50] - weights[i]), 0.5001f * steps.rows[i / 50]);
  EXPECT_THAT(RoundToSteps(weights, ChooseSteps(weights, 40, {}, nullptr, 1e30), 1).codes, testing::Each(0));
  EXPECT_THAT(RoundToSteps(std::vector<float>(8), ChooseSteps(std::vector<float>(8), 2, {}, nullptr, 1), 1).codes, testing::Each(0));
  EXPECT_TRUE(std::isinf(ChooseSteps(std::vector<float>{1e9f, 1.0f}, 2, {}, nullptr, 0).rows[0]));
  EXPECT_TRUE(ChooseSteps({}, 0, {}, nullptr, 1).rows.empty());
}

TEST(RoundToSteps, TakesTheNearestCodeAndCountsItsError) {
  const std::vector<float> weights = Normal(30 * 70, 4);
  Steps steps{std::vector<float>(30, 0.0625f), std::vector<float>(70, 1)};
  steps.rows[5] = 0.125f;
  steps.columns[7] = 1.5f;
  const RoundedMatrix one = RoundToSteps(weights, steps, 1), three = RoundToSteps(weights, steps, 3);
  EXPECT_EQ(one.codes, three.codes);
  EXPECT_EQ(one.squared_error, three.squared_error);
  double sum = 0;
  for (int i = 0; i < 30 * 70; ++i) {
    const double width = static_cast<double>(steps.rows[i / 70]) * steps.columns[i % 70];
    EXPECT_EQ(one.codes[i], std::nearbyint(weights[i] / width)) << i;
    sum += std::pow(one.codes[i] * width - weights[i], 2);
  }
  EXPECT_NEAR(one.squared_error, sum, 1e-6 * sum);
}

// Inputs that are correlated, and U with inverse(H) = U^T U, by textbook loops in double.
struct Layer {
  std::vector<double> h;
  Feedback feedback;
};
Layer Correlated(int n) {
  Layer layer;
  layer.h.resize(n * n);
  const std::vector<float> mixing = Normal(n * n, 5, 1);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      for (int k = 0; k < n; ++k) layer.h[i * n + j] += mixing[i * n + k] * mixing[j * n + k] / n;
      layer.h[i * n + j] += i == j ? 0.05 : 0;
    }
  // Gauss-Jordan inverse, then the upper factor: inverse = U^T U row by row.
  std::vector<double> a = layer.h, inverse(n * n);
  for (int i = 0; i < n; ++i) inverse[i * n + i] = 1;
  for (int p = 0; p < n; ++p) {
    const double pivot = a[p * n + p];
    for (int j = 0; j < n; ++j) a[p * n + j] /= pivot, inverse[p * n + j] /= pivot;
    for (int i = 0; i < n; ++i) {
      const double factor = a[i * n + p];
      if (i == p || factor == 0) continue;
      for (int j = 0; j < n; ++j) a[i * n + j] -= factor * a[p * n + j], inverse[i * n + j] -= factor * inverse[p * n + j];
    }
  }
  layer.feedback.upper.resize(n * n);
  std::vector<double> upper(n * n);
  for (int i = 0; i < n; ++i)
    for (int j = i; j < n; ++j) {
      double sum = inverse[i * n + j];
      for (int k = 0; k < i; ++k) sum -= upper[k * n + i] * upper[k * n + j];
      upper[i * n + j] = i == j ? std::sqrt(sum) : sum / upper[i * n + i];
    }
  for (int i = 0; i < n * n; ++i) layer.feedback.upper[i] = static_cast<float>(upper[i]);
  for (int i = 0; i < n; ++i) layer.feedback.order.push_back(i);
  return layer;
}

// Sum over rows of e^T H e: what is wrong with the layer's outputs.
double OutputError(const std::vector<float>& weights, const RoundedMatrix& matrix, const Steps& steps, const std::vector<double>& h) {
  const int n = static_cast<int>(steps.columns.size());
  double sum = 0;
  for (size_t row = 0; row < steps.rows.size(); ++row)
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) {
        const auto error = [&](int k) {
          return matrix.codes[row * n + k] * static_cast<double>(steps.rows[row] * steps.columns[k]) - weights[row * n + k];
        };
        sum += error(i) * h[i * n + j] * error(j);
      }
  return sum;
}

TEST(RoundWithFeedback, MakesGoodInTheOutputsWhatRoundingDid) {
  const int n = 150;  // more than two blocks of columns
  const Layer layer = Correlated(n);
  const std::vector<float> weights = Normal(20 * n, 6);
  const Steps steps{std::vector<float>(20, 0.0625f), std::vector<float>(n, 1)};
  const RoundedMatrix nearest = RoundToSteps(weights, steps, 1), fed = RoundWithFeedback(weights, steps, layer.feedback, 1);
  EXPECT_LT(OutputError(weights, fed, steps, layer.h), 0.6 * OutputError(weights, nearest, steps, layer.h));
  EXPECT_GT(fed.squared_error, nearest.squared_error);
  EXPECT_EQ(fed.codes, RoundWithFeedback(weights, steps, layer.feedback, 3).codes);
}

TEST(RoundWithFeedback, IsTheDefinitionColumnByColumn) {
  const int n = 70;
  Layer layer = Correlated(n);
  std::ranges::reverse(layer.feedback.order);  // any order is right as long as `upper` is by it; here H is in that order
  const std::vector<float> weights = Normal(3 * n, 7);
  const Steps steps = ChooseSteps(weights, 3, {}, &layer.feedback, 0.05);
  const RoundedMatrix fed = RoundWithFeedback(weights, steps, layer.feedback, 1);
  int different = 0;
  for (int row = 0; row < 3; ++row) {
    std::vector<double> rest(n);
    for (int j = 0; j < n; ++j) rest[j] = weights[row * n + layer.feedback.order[j]];
    for (int j = 0; j < n; ++j) {
      const int column = layer.feedback.order[j];
      const double width = static_cast<double>(steps.rows[row]) * steps.columns[column], code = std::nearbyint(rest[j] / width);
      different += code != fed.codes[row * n + column];
      const double error = (rest[j] - code * width) / layer.feedback.upper[j * n + j];
      for (int k = j; k < n; ++k) rest[k] -= error * layer.feedback.upper[j * n + k];
    }
  }
  EXPECT_LE(different, 3);  // float32 against float64: a weight between two codes, and what follows from it
}

// With the same roundings in the same order, column by column where the code takes blocks of them: the same codes, all of them.
TEST(RoundWithFeedback, BlocksOfColumnsChangeNothing) {
  const int n = 150;
  const Layer layer = Correlated(n);
  const std::vector<float> weights = Normal(3 * n, 8);
  const Steps steps = ChooseSteps(weights, 3, {}, &layer.feedback, 0.05);
  const RoundedMatrix fed = RoundWithFeedback(weights, steps, layer.feedback, 1);
  for (int row = 0; row < 3; ++row) {
    std::vector<float> rest(weights.begin() + row * n, weights.begin() + (row + 1) * n);
    for (int j = 0; j < n; ++j) {
      const float* u = layer.feedback.upper.data() + j * n;
      const float width = steps.rows[row] * steps.columns[j], code = std::nearbyint(rest[j] / width);
      ASSERT_EQ(code, fed.codes[row * n + j]) << "row " << row << ", column " << j;
      const float error = (rest[j] - code * width) / u[j];
      for (int k = j + 1; k < n; ++k) rest[k] -= error * u[k];
    }
  }
}

TEST(ChooseSteps, GivesColumnsTheirOwnShareUnderFeedback) {
  Feedback feedback{{1, 0}, {2, 0.5f, 0, 0.5f}};  // column 1 is rounded first
  const std::vector<float> weights = {1, -1, 1, 1};
  const Steps steps = ChooseSteps(weights, 2, {}, &feedback, 1);
  EXPECT_EQ(steps.columns[1], 2);
  EXPECT_EQ(steps.columns[0], 0.5f);
}

}  // namespace
}  // namespace fairway
