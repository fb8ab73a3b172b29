#include "common/model/ops/fake_quantise.h"

#include "common/model/ops/formulas.h"

namespace fairway::FAIRWAY_TARGET {

void FakeQuantiseRows(const FakeGrid& grid, int64_t columns, const float* w, float* out, Rows rows) {
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict from = w + row * columns;
    float* __restrict to = out + row * columns;
    const float q_min = grid.q_min, q_max = grid.q_max;
    if (grid.steps != nullptr) {
      const float* __restrict factors = grid.factors;
      const float step = grid.steps[row];
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j) {
        const float width = step * factors[j];
        to[j] = formula::OnGrid(from[j], {width, width}, q_min, q_max);
      }
      continue;
    }
    float largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < columns; ++j) {
      const float magnitude = from[j] < 0 ? -from[j] : from[j];
      largest = magnitude > largest ? magnitude : largest;
    }
    const formula::Steps steps = formula::GridSteps(largest, grid.q_max, grid.least, grid.stored, grid.exact_codes);
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) to[j] = formula::OnGrid(from[j], steps, q_min, q_max);
  }
}

}  // namespace fairway::FAIRWAY_TARGET
