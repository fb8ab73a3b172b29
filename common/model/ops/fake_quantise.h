// Late quantisation-aware training's rounding of a weight to its export grid, a row at a time (pull request 531):
//
//   s = max(max|row| / q_max, least);  out = clamp(round(w / s), q_min, q_max) * s
//
// The step is rounded to float16, as the export stores it, where `stored` says so; codes come from the step before that where
// `exact_codes` does. Where there are steps that were fixed before (common/quantise/steps.h), they take their place: that of an
// element is steps[row] * factors[column]. w, out: float32 [rows, columns].
#pragma once

#include "common/model/ops/kernel.h"

namespace fairway {

struct FakeGrid {
  float q_min, q_max, least = 0;
  bool stored = false, exact_codes = false;
  const float *steps = nullptr, *factors = nullptr;  // fixed: [rows], [columns]
};

FAIRWAY_KERNEL(FakeQuantiseRows, const FakeGrid& grid, int64_t columns, const float* w, float* out, Rows rows);

}  // namespace fairway
