#include "common/quantise/steps.h"

#include <algorithm>
#include <cmath>

#include "common/checkpoint/checkpoint.h"
#include "common/base/threads.h"
#include "common/quantise/grid.h"

namespace fairway {
namespace {

// Steps follow the fourth root of a row's or a column's cost, not the square root: costs of single rows are estimates, and
// rows, columns and codes are not independent. Measured in the lab notebook.
constexpr double kShare = 0.25;
constexpr int64_t kRowsAtATime = 16;  // that a thread takes
constexpr double kMostFiner = 8, kMostCoarser = 8;  // than the matrix's own step

// Values of two bits of mantissa, numbered in ascending order: 1 is number 0, 1.25 number 1, 2 number 4, 0.875 number -1.
float ValueOf(int number) {
  const int exponent = static_cast<int>(std::floor(number / 4.0));
  return std::ldexp(1.0f + 0.25f * static_cast<float>(number - 4 * exponent), exponent);
}
// Where x lies among them: between two it goes with the value.
double PlaceOf(double x) {
  int exponent;
  const double mantissa = 2 * std::frexp(x, &exponent);
  return 4 * (exponent - 1) + 4 * (mantissa - 1);
}

// From float16's least normal value to its largest of two bits of mantissa.
constexpr int kLeastNumber = 4 * -14, kLargestNumber = 4 * 15 + 3;

// Rows of like cost would all change their step at once: each rounds at a threshold of its own, evenly spread.
double Threshold(int64_t row) {
  const double x = 0.6180339887498949 * static_cast<double>(row);
  return x - std::floor(x);
}

double Factor(double mean, double cost) {
  return cost <= 0 || mean <= 0 ? kMostCoarser : std::clamp(std::pow(mean / cost, kShare), 1 / kMostFiner, kMostCoarser);
}

}  // namespace

Cost Calibration::CostOf(const std::string& matrix) const {
  const auto found = costs.find(matrix);
  return found != costs.end() ? found->second : Cost{};
}
const Feedback* Calibration::FeedbackOf(const std::string& matrix) const {
  const auto found = feedback.find(matrix);
  return found != feedback.end() ? &found->second : nullptr;
}

double Steps::mean_width() const {
  const auto mean_log = [](const std::vector<float>& values) {
    double sum = 0;
    for (const float value : values) sum += std::log(value);
    return values.empty() ? 0 : sum / static_cast<double>(values.size());
  };
  return std::exp(mean_log(rows) + mean_log(columns));
}

Steps ChooseSteps(std::span<const float> weights, int64_t rows, const Cost& cost, const Feedback* feedback, double step) {
  const int64_t columns = rows == 0 ? 0 : static_cast<int64_t>(weights.size()) / rows;
  Steps steps;
  steps.columns.assign(columns, 1);
  double squares = 0;
  for (const float weight : weights) squares += static_cast<double>(weight) * weight;
  const double own = step / std::sqrt(cost.mean), deviation = std::sqrt(squares / std::max<double>(weights.size(), 1));
  // Near the limit of the codes a coarse column would only keep the others from finer steps: factors fade out over two octaves.
  const double fade = own > 0 && deviation > 0 ? std::clamp(std::log2(own / (4 * deviation / kLargestCode)) / 2, 0.0, 1.0) : 0;
  const auto set_column = [&](int64_t column, double factor) {
    steps.columns[column] = ValueOf(static_cast<int>(std::lround(PlaceOf(std::pow(factor, fade)))));
  };
  if (feedback != nullptr) {
    // A column's own share of the error, once those after it have made good what they can: 1 / U[j, j]^2 (of the
    // determinant of H each column has this factor).
    double mean = 0;
    for (int64_t j = 0; j < columns; ++j) mean += std::log(feedback->upper[j * columns + j]) / static_cast<double>(columns);
    for (int64_t j = 0; j < columns; ++j) {
      const double factor = feedback->upper[j * columns + j] / std::exp(mean);
      set_column(feedback->order[j], std::clamp(factor, 1 / kMostFiner, kMostCoarser));
    }
  } else if (!cost.columns.empty()) {
    for (int64_t j = 0; j < columns; ++j) set_column(j, Factor(cost.mean, cost.columns[j]));
  }
  std::vector<float> finer(columns);
  std::ranges::transform(steps.columns, finer.begin(), [](float factor) { return 1 / factor; });

  steps.rows.resize(rows);
  for (int64_t row = 0; row < rows; ++row) {
    float largest = 0;
    for (int64_t j = 0; j < columns; ++j) largest = std::max(largest, std::fabs(weights[row * columns + j] * finer[j]));
    const double wanted = own * (cost.rows.empty() ? 1 : Factor(cost.mean, cost.rows[row]));
    int number = kLeastNumber;  // for a row of zeros
    if (largest > 0) {
      if (wanted > 0) number = static_cast<int>(std::clamp(std::floor(PlaceOf(wanted) + Threshold(row)), -1e6, 1e6));
      const int finest = static_cast<int>(std::ceil(PlaceOf(largest / kLargestCode))),
                coarsest = static_cast<int>(std::ceil(PlaceOf(2.001 * largest)));
      number = std::clamp(number, finest, coarsest);
    }
    number = std::max(number, kLeastNumber);
    steps.rows[row] = number > kLargestNumber ? INFINITY : ValueOf(number);
  }
  return steps;
}

RoundedMatrix RoundToSteps(std::span<const float> weights, const Steps& steps, int threads) {
  const int64_t rows = static_cast<int64_t>(steps.rows.size()), columns = static_cast<int64_t>(steps.columns.size());
  RoundedMatrix result;
  result.codes.resize(weights.size());
  std::vector<float> errors(rows);
  ParallelFor(rows, kRowsAtATime, threads, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const float* w = weights.data() + row * columns;
      int8_t* codes = result.codes.data() + row * columns;
      const float step = steps.rows[row];
      float error = 0;
      for (int64_t j = 0; j < columns; ++j) {
        const float width = step * steps.columns[j];
        const float code = std::clamp<float>(RoundHalfEven(w[j] / width), -kLargestCode, kLargestCode);
        codes[j] = static_cast<int8_t>(code);
        error += (w[j] - code * width) * (w[j] - code * width);
      }
      errors[row] = error;
    }
  });
  for (const float error : errors) result.squared_error += error;
  return result;
}

RoundedMatrix RoundWithFeedback(std::span<const float> weights, const Steps& steps, const Feedback& feedback, int threads) {
  const int64_t rows = static_cast<int64_t>(steps.rows.size()), columns = static_cast<int64_t>(steps.columns.size());
  constexpr int64_t kBlock = 64;  // columns whose errors reach the columns behind them together
  RoundedMatrix result;
  result.codes.resize(weights.size());
  std::vector<double> errors(rows);
  ParallelFor(rows, kRowsAtATime, threads, [&](int64_t first, int64_t last) {
    std::vector<float> rest(columns), scaled(kBlock);
    for (int64_t row = first; row < last; ++row) {
      const float* w = weights.data() + row * columns;
      for (int64_t j = 0; j < columns; ++j) rest[j] = w[feedback.order[j]];
      for (int64_t begin = 0; begin < columns; begin += kBlock) {
        const int64_t end = std::min(begin + kBlock, columns);
        for (int64_t j = begin; j < end; ++j) {
          const float* u = feedback.upper.data() + j * columns;
          const int64_t column = feedback.order[j];
          const float width = steps.rows[row] * steps.columns[column];
          const float code = std::clamp<float>(RoundHalfEven(std::clamp(rest[j] / width, -1e3f, 1e3f)), -kLargestCode, kLargestCode);
          result.codes[row * columns + column] = static_cast<int8_t>(code);
          const float error = w[column] - code * width;
          errors[row] += static_cast<double>(error) * error;
          scaled[j - begin] = (rest[j] - code * width) / u[j];
          for (int64_t k = j + 1; k < end; ++k) rest[k] -= scaled[j - begin] * u[k];
        }
        for (int64_t j = begin; j < end; ++j) {
          const float* u = feedback.upper.data() + j * columns;
          for (int64_t k = end; k < columns; ++k) rest[k] -= scaled[j - begin] * u[k];
        }
      }
    }
  });
  for (const double error : errors) result.squared_error += error;
  return result;
}

}  // namespace fairway
