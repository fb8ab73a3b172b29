// Uniform steps whose width follows from what an error costs: the quantiser `rtn`, and the grid of `gptq`.
//
// With entropy coding, matrices need no common width of codes: at a given number of bytes the expected
// loss is least where every weight's error costs the same, whatever its tensor (reverse water-filling, Cover & Thomas, section
// 10.3.3; a uniform step and an entropy code stay within 0.25 bit of it). A step of d leaves d^2 / 12 of squared error, which
// costs h d^2 / 24 where h is the loss's second derivative: so d is proportional to 1 / sqrt(h).
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace fairway {

// The second derivative of the loss by a weight of one matrix, nats: its mean over the matrix, each row, each column.
struct Cost {
  double mean = 1;
  std::vector<double> rows, columns;
};

// What error feedback needs of a linear layer's inputs x: with H = mean x x^T + damping, in the order given, the upper
// triangular U of inverse(H) = U^T U.
struct Feedback {
  std::vector<int32_t> order;  // columns, the first to be rounded first
  std::vector<float> upper;    // [columns, columns], by that order
};

// What calibration found out, by the matrix's name. Empty: every weight costs alike.
struct Calibration {
  std::map<std::string, Cost> costs;
  std::map<std::string, Feedback> feedback;  // of linear layers; only for `gptq`

  Cost CostOf(const std::string& matrix) const;
  const Feedback* FeedbackOf(const std::string& matrix) const;  // or null
};

// A weight comes back as code * (rows[r] * columns[c]). Both are float16 values of two bits of mantissa, so that they cost few
// bytes and their product is exact.
struct Steps {
  std::vector<float> rows, columns;
  double mean_width() const;  // geometric, over all elements
};

// Codes of `rtn` and `gptq` are int8; what keeps them short is the entropy code.
inline constexpr int kLargestCode = 127;

// The steps of `weights` [rows, columns] where each weight's error is to cost as much as that of a step of `step` on a weight
// of cost 1. No step is so fine that a code would exceed kLargestCode (step 0: as fine as can be), and none so coarse that it
// does more than make all codes zero. A row so large that float16 cannot hold its step gets an infinite one.
Steps ChooseSteps(std::span<const float> weights, int64_t rows, const Cost& cost, const Feedback* feedback, double step);

// Codes of a matrix on given steps [rows * columns], and the sum of squared errors.
struct RoundedMatrix {
  std::vector<int8_t> codes;
  double squared_error = 0;
};

// Each weight to its nearest code. The result does not depend on `threads`.
RoundedMatrix RoundToSteps(std::span<const float> weights, const Steps& steps, int threads);

// One column after the other; what a column's rounding did to the layer's outputs is made good by those that follow (GPTQ,
// arXiv 2210.17323, algorithm 1, a step per row and column). The result does not depend on `threads`.
RoundedMatrix RoundWithFeedback(std::span<const float> weights, const Steps& steps, const Feedback& feedback, int threads);

}  // namespace fairway
