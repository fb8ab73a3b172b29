// Single passes over flat memory: the norm of all gradients, AdamW and the moving average, each over the elements `range`, and sums
// of squares by row and by column.
#pragma once

#include "common/model/ops/element.h"
#include "common/model/ops/kernel.h"

namespace fairway {

// sum += the squares of x, added up in float64 a few thousand at a time.
FAIRWAY_KERNEL(AddSquares, const float* x, double* sum, Rows range);

// AdamW (pull request 531; Loshchilov and Hutter, arXiv 1711.05101), with g = gradient_factor * gradient:
//   p = p (1 - lr decay);  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p -= lr (m / c1) / (sqrt(v / c2) + eps)
struct AdamStep {
  float learning_rate, beta1, beta2, eps, weight_decay, gradient_factor;
  float correction1, correction2;  // 1 - beta^steps
};
// parameter, m, v: elements; the gradient is 0 afterwards.
FAIRWAY_KERNEL(AdamUpdate, const AdamStep& step, Elements parameter, float* gradient, Elements m, Elements v, Rows range);

// average = decay * average + (1 - decay) * parameter.
FAIRWAY_KERNEL(MovingAverage, float decay, Elements parameter, float* average, Rows range);

// Of `rows` of x [rows, columns]: by_row[i] = sum_j x_ij^2, and by_column[j] = sum_i x_ij^2 over these rows alone. They are 0
// afterwards.
FAIRWAY_KERNEL(TakeSquares, float* x, int64_t columns, double* by_row, float* by_column, Rows rows);

}  // namespace fairway
