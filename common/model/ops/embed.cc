#include "common/model/ops/embed.h"

#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {

void GatherRows(int64_t width, Elements table, const int32_t* index, Elements out, int64_t stride, Rows rows) {
  const int64_t bytes = width * ElementBytes(table.precision);
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const Elements to = out + row * stride;
    __builtin_memcpy(to.data, (table + index[row] * width).data, bytes);
    if (stride > width) __builtin_memset((to + width).data, 0, stride * ElementBytes(out.precision) - bytes);
  }
}

void AddGatheredRows(int64_t width, Elements table, const int32_t* index, Elements out, int64_t stride, Rows rows) {
  With(table, [&](auto* from) {
    for (int64_t row = rows.first; row < rows.last; ++row) {
      const auto* __restrict own = from + index[row] * width;
      auto* __restrict to = static_cast<decltype(from)>(out.data) + row * stride;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) Put(Get(to[j]) + Get(own[j]), to + j);
    }
  });
}

void ScatterAddRows(int64_t width, float scale, Elements x, int64_t stride, const int32_t* index, int64_t N, float* table, Rows columns) {
  With(x, [&](auto* all) {
    for (int64_t row = 0; row < N; ++row) {
      float* __restrict to = table + index[row] * width;
      const auto* __restrict from = all + row * stride;
#pragma omp simd
      for (int64_t j = columns.first; j < columns.last; ++j) to[j] += scale * Get(from[j]);
    }
  });
}

void DotRows(int64_t width, const float* x, Elements y, float* sum, Rows rows) {
  With(y, [&](auto* with) {
    float all = 0;
#pragma omp simd reduction(+ : all)
    for (int64_t i = rows.first * width; i < rows.last * width; ++i) all += x[i] * Get(with[i]);
    *sum += all;
  });
}

void EmbedForward(int64_t D, Elements tok_emb, const int32_t* ids, Elements bigram, float bigram_scale, float* x1,
                  float* inverse_norms, Rows rows) {
  With(tok_emb, [&](auto* table) {
    for (int64_t row = rows.first; row < rows.last; ++row) {
      const auto* __restrict token = table + ids[row] * D;
      float* __restrict x = x1 + row * D;
      float squares = 0;
      if (bigram.data == nullptr) {
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < D; ++j) {
          x[j] = Get(token[j]);
          squares += x[j] * x[j];
        }
      } else {
        const auto* __restrict added = static_cast<decltype(table)>(bigram.data) + row * D;
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < D; ++j) {
          x[j] = Get(token[j]) + bigram_scale * Get(added[j]);
          squares += x[j] * x[j];
        }
      }
      if (inverse_norms == nullptr) continue;
      const float r = 1.0f / __builtin_sqrtf(squares / static_cast<float>(D) + formula::kRmsEpsilon);
      inverse_norms[row] = r;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) x[j] *= r;
    }
  });
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
                   const float* dx0, float* ds, Elements ds_elements, float* __restrict dgate, int64_t N, Rows rows) {
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float* __restrict x = x1 + row * D;
    const float* __restrict d = dx0 + row * D;
    float* __restrict out = ds + row * D;
    if (dgate != nullptr && joined[row]) {
      const float* __restrict before = x - D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) dgate[j] += d[j] * (before[j] - x[j]) * (g[j] * (1.0f - g[j]));
    } else if (dgate != nullptr) {
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
    if (ds_elements.data == nullptr) continue;
    With(ds_elements + row * D, [&](auto* to) {
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) Put(out[j], to + j);
    });
  }
}

}  // namespace fairway::FAIRWAY_TARGET
