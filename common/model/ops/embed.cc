#include "common/model/ops/embed.h"

#include "common/model/ops/formulas.h"

namespace fairway::FAIRWAY_TARGET {

void GatherRows(int64_t width, const float* table, const int32_t* index, float* out, Rows rows) {
  for (int64_t row = rows.first; row < rows.last; ++row)
    __builtin_memcpy(out + row * width, table + index[row] * width, width * sizeof(float));
}

void ScatterAddRows(int64_t width, float scale, const float* x, const int32_t* index, int64_t N, float* table, Rows columns) {
  for (int64_t row = 0; row < N; ++row) {
    float* __restrict to = table + index[row] * width;
    const float* __restrict from = x + row * width;
#pragma omp simd
    for (int64_t j = columns.first; j < columns.last; ++j) to[j] += scale * from[j];
  }
}

void EmbedForward(int64_t D, const float* tok_emb, const int32_t* ids, const float* bigram, float bigram_scale, float* x1,
                  float* inverse_norms, Rows rows) {
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict token = tok_emb + ids[row] * D;
    float* __restrict x = x1 + row * D;
    float squares = 0;
    if (bigram == nullptr) {
#pragma omp simd reduction(+ : squares)
      for (int64_t j = 0; j < D; ++j) {
        x[j] = token[j];
        squares += x[j] * x[j];
      }
    } else {
      const float* __restrict added = bigram + row * D;
#pragma omp simd reduction(+ : squares)
      for (int64_t j = 0; j < D; ++j) {
        x[j] = token[j] + bigram_scale * added[j];
        squares += x[j] * x[j];
      }
    }
    const float r = 1.0f / __builtin_sqrtf(squares / static_cast<float>(D) + formula::kRmsEpsilon);
    inverse_norms[row] = r;
#pragma omp simd
    for (int64_t j = 0; j < D; ++j) x[j] *= r;
  }
}

void SmearForward(int64_t D, const float* __restrict g, const uint8_t* joined, const float* x1, float* x0, Rows rows) {
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict x = x1 + row * D;
    float* __restrict out = x0 + row * D;
    if (joined[row]) {
      const float* __restrict before = x - D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) out[j] = formula::Smear(g[j], x[j], before[j]);
    } else {
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) out[j] = formula::Smear(g[j], x[j], 0.0f);
    }
  }
}

void EmbedBackward(int64_t D, const float* __restrict g, const uint8_t* joined, const float* x1, const float* inverse_norms,
                   const float* dx0, float* ds, float* __restrict dgate, int64_t N, Rows rows) {
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict x = x1 + row * D;
    const float* __restrict d = dx0 + row * D;
    float* __restrict out = ds + row * D;
    if (joined[row]) {
      const float* __restrict before = x - D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) dgate[j] += d[j] * (before[j] - x[j]) * (g[j] * (1.0f - g[j]));
    } else {
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) dgate[j] -= d[j] * x[j] * (g[j] * (1.0f - g[j]));
    }
    float product = 0;
    if (row + 1 < N && joined[row + 1]) {
      const float* __restrict after = d + D;
#pragma omp simd reduction(+ : product)
      for (int64_t j = 0; j < D; ++j) {
        out[j] = formula::Smear(g[j], d[j], after[j]);
        product += out[j] * x[j];
      }
    } else {
#pragma omp simd reduction(+ : product)
      for (int64_t j = 0; j < D; ++j) {
        out[j] = formula::Smear(g[j], d[j], 0.0f);
        product += out[j] * x[j];
      }
    }
    const float mean = product / static_cast<float>(D), r = inverse_norms[row];
#pragma omp simd
    for (int64_t j = 0; j < D; ++j) out[j] = formula::RmsGradient(out[j], x[j], r, mean);
  }
}

}  // namespace fairway::FAIRWAY_TARGET
