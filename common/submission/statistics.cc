#include "common/submission/statistics.h"

#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>

namespace fairway {

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / values.size();
}

double SampleStandardDeviation(std::span<const double> values) {
  const double mean = Mean(values);
  double squares = 0;
  for (double value : values) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / (values.size() - 1));
}

double ProbabilityNotBelow(std::span<const double> samples, double bound) {
  const double mean = Mean(samples), deviation = SampleStandardDeviation(samples);
  if (deviation == 0) return mean < bound ? 0 : 1;
  const double t = (mean - bound) / (deviation / std::sqrt(samples.size()));
  return boost::math::cdf(boost::math::students_t(samples.size() - 1), t);
}

double ProbabilityOfOneMean(std::span<const double> a, std::span<const double> b) {
  // Of each mean, its variance.
  const auto variance = [](std::span<const double> values) {
    const double deviation = SampleStandardDeviation(values);
    return deviation * deviation / static_cast<double>(values.size());
  };
  const double of_a = variance(a), of_b = variance(b), both = of_a + of_b, difference = std::abs(Mean(a) - Mean(b));
  if (both == 0) return difference == 0 ? 1 : 0;
  const double freedom = both * both / (of_a * of_a / static_cast<double>(a.size() - 1) + of_b * of_b / static_cast<double>(b.size() - 1));
  return 2 * boost::math::cdf(boost::math::complement(boost::math::students_t(freedom), difference / std::sqrt(both)));
}

}  // namespace fairway
