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

}  // namespace fairway
