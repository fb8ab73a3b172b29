// Muon's update of one matrix (pull request 531), by one thread: what it is, and its application, which may be elsewhere.
//
//   buf = m buf + f g;  g' = f g + m buf;  X = bf16(g') / (|g'| + 1e-7), transposed where rows > columns;  each iteration
//   A = X X^T;  X = a X + (b A + c A A) X;  then p = p (1 - lr decay) - lr sqrt(max(1, rows / columns)) X;  g = 0
//
// Newton-Schulz has the same coefficients in every iteration; Polar Express (arXiv 2505.16932) has others in each, and at most
// five. With normalize_rows each row of g' is first divided by its norm (at least 1e-7): openai/parameter-golf pull requests 1344
// and 1855.
//
// Momentum and weights are float32. From g' on every result is rounded to bfloat16, at the places where the published scripts'
// tensors are; products sum in float32. A is symmetric: one triangle is computed and mirrored.
#pragma once

#include "common/model/ops/element.h"
#include "common/model/ops/kernel.h"

namespace fairway {

struct MuonCoefficients {
  double a, b, c;
};
inline constexpr MuonCoefficients kNewtonSchulz = {3.4445, -4.7750, 2.0315};
inline constexpr int64_t kPolarExpressIterations = 5;
inline constexpr MuonCoefficients kPolarExpress[kPolarExpressIterations] = {{8.156554524902461, -22.48329292557795, 15.878769915207462},
                                                                            {4.042929935166739, -2.808917465908714, 0.5000178451051316},
                                                                            {3.8916678022926607, -2.772484153217685, 0.5060648178503393},
                                                                            {3.285753657755655, -2.3681294933425376, 0.46449024233003106},
                                                                            {2.3465413258596377, -1.7097828382687081, 0.42323551169305323}};

struct MuonStep {
  int64_t rows, columns;
  float momentum, gradient_factor, learning_rate, weight_decay;
  int64_t iterations;
  // Newton-Schulz computes the square as (2.0315 A) A, by its triangle too. Its first factor's rounding makes it not quite
  // symmetric, so the published script's results, to the rounding, come from the whole square only.
  bool square_by_triangle = true;
  bool polar_express = false, normalize_rows = false;
  // Gradient and momentum are rounded to bfloat16 wherever pull request 1855's are; m in g' is nesterov_momentum then.
  bool bfloat16_momentum = false;
  float nesterov_momentum = 0;
  // Polar Express: p = p keep - rate X, where rate has the matrix's factor in it.
  float keep = 1, rate = 0;
};

// Bytes of scratch memory that a call needs.
int64_t MuonScratchBytes(int64_t rows, int64_t columns);

// gradient, momentum: float32 [rows, columns]; update: bfloat16 of that shape, for Newton-Schulz sqrt(max(1, rows / columns)) X,
// else X.
FAIRWAY_KERNEL(MuonUpdate, const MuonStep& step, float* gradient, float* momentum, BFloat16* update, void* scratch);
// Elements `range` of a matrix: p as above.
FAIRWAY_KERNEL(MuonApply, const MuonStep& step, const BFloat16* update, float* parameter, Rows range);

}  // namespace fairway
