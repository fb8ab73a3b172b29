// How close is close: how far the published script is from itself (the golden README). It ran the tiny case with two threads
// (tiny), with one (tiny_one_thread) and in bfloat16 (tiny_bf16); an implementation that is right stays within three times such a
// difference, plus what its own roundings are worth.
#pragma once

#include <algorithm>
#include <cmath>

#include "tests/golden/golden.h"

namespace fairway::golden {

// Late QAT flips roundings: from its first step on the original is 1e-2 from itself (steps 55 to 59 of tiny).
inline constexpr double kQatNoise = 1e-2;

class Noise {
 public:
  explicit Noise(const std::string& other) : tiny_(Result("tiny")), other_(Result(other)) {}

  // The largest difference of a micro-batch's loss between the two runs in the steps 0 to `step`: differences only grow, but
  // at one step they may happen to vanish.
  double Loss(int64_t step) const {
    double largest = 0;
    for (int64_t i = 0; i < 8 * (step + 1); ++i)
      largest = std::max(largest, std::abs(tiny_["micro_losses"][i].get<double>() - other_["micro_losses"][i].get<double>()));
    return largest;
  }
  // The same of the gradient norm, relative.
  double GradientNorm(int64_t step) const {
    double largest = 0;
    for (int64_t i = 0; i <= step; ++i)
      largest = std::max(largest, std::abs(other_["grad_norms"][i].get<double>() / tiny_["grad_norms"][i].get<double>() - 1));
    return largest;
  }

 private:
  nlohmann::json tiny_, other_;
};

// Sums in another order: 2e-6.
inline double Float32Tolerance(double noise) { return 3 * noise + 2e-6; }
// Another bfloat16 run is another draw of that noise: 3.8 times the largest difference so far was seen in two micro-batches of 480.
inline double BFloat16Tolerance(double noise) { return 4 * noise; }

}  // namespace fairway::golden
