#include "common/model/ops/attention.h"

#include "common/model/ops/formulas.h"

namespace fairway::FAIRWAY_TARGET {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kWide = 4;  // 32 registers: 6 x 4 sums, 4 columns, one factor
#elif defined(__AVX__)
constexpr int kLanes = 8, kWide = 2;  // 16 registers: 6 x 2 sums
#else
constexpr int kLanes = 4, kWide = 2;
#endif
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

constexpr int64_t kQueries = 48, kKeys = 256;  // of a block: scores and their gradients fill 96 KiB

// C [M, N] (+)= A [M, K] B [K, N] on a tile of kRows x kVectors registers. A's elements stand a_row and a_k floats apart, so
// that A may be read transposed.
template <int kRows, int kVectors>
void Tile(int64_t K, const float* A, int64_t a_row, int64_t a_k, const float* B, int64_t b_k, float* C, int64_t c_row, bool add) {
  Vector sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j)
      sums[i][j] = add ? *reinterpret_cast<const Vector*>(C + i * c_row + j * kLanes) : Vector{};
  for (int64_t k = 0; k < K; ++k) {
    Vector columns[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) columns[j] = *reinterpret_cast<const Vector*>(B + k * b_k + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const float a = A[i * a_row + k * a_k];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sums[i][j] += a * columns[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) *reinterpret_cast<Vector*>(C + i * c_row + j * kLanes) = sums[i][j];
}

template <int kRows, int kVectors>
void Panel(int64_t M, int64_t K, const float* A, int64_t a_row, int64_t a_k, const float* B, int64_t b_k, float* C, int64_t c_row,
           bool add) {
  int64_t m = 0;
  for (; m + kRows <= M; m += kRows) Tile<kRows, kVectors>(K, A + m * a_row, a_row, a_k, B, b_k, C + m * c_row, c_row, add);
  for (; m + 4 <= M; m += 4) Tile<4, kVectors>(K, A + m * a_row, a_row, a_k, B, b_k, C + m * c_row, c_row, add);
  for (; m < M; ++m) Tile<1, kVectors>(K, A + m * a_row, a_row, a_k, B, b_k, C + m * c_row, c_row, add);
}

// REQUIRES: N a multiple of 16. Panels of B's columns are narrow enough to stay in the first-level cache for a block's K.
void Product(int64_t M, int64_t N, int64_t K, const float* A, int64_t a_row, int64_t a_k, const float* B, int64_t b_k, float* C,
             int64_t c_row, bool add) {
  int64_t n = 0;
  for (; n + kWide * kLanes <= N; n += kWide * kLanes)
    Panel<6, kWide>(M, K, A, a_row, a_k, B + n, b_k, C + n, c_row, add);
  for (; n + kWide / 2 * kLanes <= N; n += kWide / 2 * kLanes)
    Panel<12, kWide / 2>(M, K, A, a_row, a_k, B + n, b_k, C + n, c_row, add);
  for (; n < N; n += kLanes) Panel<12, 1>(M, K, A, a_row, a_k, B + n, b_k, C + n, c_row, add);
}

// to [count, columns], zero behind d, = scale * from's rows.
void Pack(int64_t count, int64_t d, int64_t columns, float scale, const float* from, int64_t stride, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    const float* __restrict in = from + i * stride;
    float* __restrict out = to + i * columns;
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) out[c] = scale * in[c];
    for (int64_t c = d; c < columns; ++c) out[c] = 0;
  }
}

// to [d, positions], zero behind count, = from's rows as columns; 16 rows at a time, so that whole cache lines are written.
void PackTransposed(int64_t count, int64_t positions, int64_t d, const float* from, int64_t stride, float* to) {
  for (int64_t first = 0; first < positions; first += 16)
    for (int64_t c = 0; c < d; ++c)
      for (int64_t i = first; i < first + 16; ++i) to[c * positions + i] = i < count ? from[i * stride + c] : 0.0f;
}

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Where a sequence's heads stand, and how the scratch memory is laid out.
struct Frame {
  Frame(const QkShape& shape, int64_t sequence, int64_t kv)
      : T(shape.T),
        d(shape.d),
        columns(RoundUp(shape.d, 16)),
        positions(RoundUp(shape.T, 64)),
        stride(shape.stride()),
        group(shape.H / shape.Hkv),
        head(kv * group),
        row(sequence * shape.T),
        key(row * stride + (shape.H + kv) * d),
        value(key + shape.Hkv * d),
        root(1.0f / __builtin_sqrtf(static_cast<float>(d))) {}
  int64_t T, d, columns, positions, stride, group, head, row, key, value;
  float root;
};

}  // namespace

void AttentionForward(const QkShape& shape, const float* gain, const float* qkv, int64_t sequence, int64_t kv, int64_t first,
                      float* scratch, float* y, float* lse) {
  const Frame f(shape, sequence, kv);
  float* keys = scratch;                            // [d, positions]
  float* values = keys + f.columns * f.positions;   // [T, columns]
  float* queries = values + f.positions * f.columns;
  float* sums = queries + kQueries * f.columns;
  float* scores = sums + kQueries * f.columns;      // [kQueries, kKeys]
  PackTransposed(f.T, f.positions, f.d, qkv + f.key, f.stride, keys);
  Pack(f.T, f.d, f.columns, 1, qkv + f.value, f.stride, values);
  for (int64_t head = f.head; head < f.head + f.group; ++head) {
    for (int64_t i0 = first; i0 < f.T; i0 += kQueries) {
      const int64_t rows = f.T - i0 < kQueries ? f.T - i0 : kQueries;
      Pack(rows, f.d, f.columns, gain[head] * f.root, qkv + (f.row + i0) * f.stride + head * f.d, f.stride, queries);
      float largest[kQueries], total[kQueries];
      for (int64_t i = 0; i < rows; ++i) {
        largest[i] = -__builtin_inff();
        total[i] = 0;
      }
      for (int64_t j0 = 0; j0 < i0 + rows; j0 += kKeys) {
        const int64_t causal = i0 + rows - j0, count = RoundUp(causal < kKeys ? causal : kKeys, 16);
        Product(rows, count, f.d, queries, f.columns, 1, keys + j0, f.positions, scores, kKeys, false);
        for (int64_t i = 0; i < rows; ++i) {
          float* __restrict s = scores + i * kKeys;
          const int64_t seen = i0 + i - j0 + 1;  // keys of this block; a row before the block sees none
          for (int64_t j = seen < 0 ? 0 : seen; j < count; ++j) s[j] = -__builtin_inff();
          float top = largest[i];
#pragma omp simd reduction(max : top)
          for (int64_t j = 0; j < count; ++j) top = s[j] > top ? s[j] : top;
          float sum = 0;
#pragma omp simd reduction(+ : sum)
          for (int64_t j = 0; j < count; ++j) {
            s[j] = formula::Exp(s[j] - top);
            sum += s[j];
          }
          if (top > largest[i]) {
            const float shrink = formula::Exp(largest[i] - top);
            total[i] *= shrink;
            if (j0 > 0)
              for (int64_t c = 0; c < f.columns; ++c) sums[i * f.columns + c] *= shrink;
            largest[i] = top;
          }
          total[i] += sum;
        }
        // Row i sees no key behind i0 + i: their probabilities are 0.
        const int64_t seen = count < f.T - j0 ? count : f.T - j0;
        Product(rows, f.columns, seen, scores, kKeys, 1, values + j0 * f.columns, f.columns, sums, f.columns, j0 > 0);
      }
      for (int64_t i = 0; i < rows; ++i) {
        const float inverse = 1.0f / total[i];
        float* __restrict out = y + (f.row + i0 + i) * shape.H * f.d + head * f.d;
#pragma omp simd
        for (int64_t c = 0; c < f.d; ++c) out[c] = sums[i * f.columns + c] * inverse;
        lse[(sequence * shape.H + head) * f.T + i0 + i] = largest[i] + __builtin_logf(total[i]);
      }
    }
  }
}

void AttentionBackward(const QkShape& shape, const float* gain, const float* qkv, const float* y, const float* lse, const float* dy,
                       int64_t sequence, int64_t kv, bool add_dv, float* scratch, float* dqkv) {
  const Frame f(shape, sequence, kv);
  const int64_t area = f.columns * f.positions;
  float* keys_t = scratch;                // [d, positions]
  float* values_t = keys_t + area;        // [d, positions]
  float* keys = values_t + area;          // [T, columns], like all that follow
  float* queries = keys + area;           // times gain / sqrt(d)
  float* douts = queries + area;
  float* dqueries = douts + area;
  float* dkeys = dqueries + area;
  float* dvalues = dkeys + area;
  float* p = dvalues + area;              // [kQueries, kKeys]
  float* ds = p + kQueries * kKeys;       // [kQueries, kKeys]
  float* products = ds + kQueries * kKeys;  // [T]: dy_i . y_i
  PackTransposed(f.T, f.positions, f.d, qkv + f.key, f.stride, keys_t);
  PackTransposed(f.T, f.positions, f.d, qkv + f.value, f.stride, values_t);
  Pack(f.T, f.d, f.columns, 1, qkv + f.key, f.stride, keys);
  __builtin_memset(dkeys, 0, 2 * area * sizeof(float));
  for (int64_t head = f.head; head < f.head + f.group; ++head) {
    const int64_t out_stride = shape.H * f.d, out = f.row * out_stride + head * f.d;
    Pack(f.T, f.d, f.columns, gain[head] * f.root, qkv + f.row * f.stride + head * f.d, f.stride, queries);
    Pack(f.T, f.d, f.columns, 1, dy + out, out_stride, douts);
    __builtin_memset(dqueries, 0, area * sizeof(float));
    const float* lses = lse + (sequence * shape.H + head) * f.T;
    for (int64_t i = 0; i < f.T; ++i) {
      const float* __restrict a = douts + i * f.columns;
      const float* __restrict b = y + out + i * out_stride;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < f.d; ++c) sum += a[c] * b[c];
      products[i] = sum;
    }
    for (int64_t j0 = 0; j0 < f.T; j0 += kKeys) {
      for (int64_t i0 = j0 / kQueries * kQueries; i0 < f.T; i0 += kQueries) {
        const int64_t rows = f.T - i0 < kQueries ? f.T - i0 : kQueries, causal = i0 + rows - j0;
        if (causal <= 0) continue;
        const int64_t count = RoundUp(causal < kKeys ? causal : kKeys, 16), seen = count < f.T - j0 ? count : f.T - j0;
        Product(rows, count, f.d, queries + i0 * f.columns, f.columns, 1, keys_t + j0, f.positions, p, kKeys, false);
        Product(rows, count, f.d, douts + i0 * f.columns, f.columns, 1, values_t + j0, f.positions, ds, kKeys, false);
        for (int64_t i = 0; i < rows; ++i) {
          float* __restrict prow = p + i * kKeys;
          float* __restrict dsrow = ds + i * kKeys;
          const float log_sum = lses[i0 + i], product = products[i0 + i];
          int64_t last = i0 + i - j0 + 1;  // keys that this row sees
          last = last < 0 ? 0 : (last > count ? count : last);
#pragma omp simd
          for (int64_t j = 0; j < count; ++j) {
            prow[j] = formula::Exp(prow[j] - log_sum);
            dsrow[j] = prow[j] * (dsrow[j] - product);
          }
          for (int64_t j = last; j < count; ++j) prow[j] = dsrow[j] = 0;
        }
        Product(seen, f.columns, rows, p, 1, kKeys, douts + i0 * f.columns, f.columns, dvalues + j0 * f.columns, f.columns, true);
        Product(seen, f.columns, rows, ds, 1, kKeys, queries + i0 * f.columns, f.columns, dkeys + j0 * f.columns, f.columns, true);
        Product(rows, f.columns, seen, ds, kKeys, 1, keys + j0 * f.columns, f.columns, dqueries + i0 * f.columns, f.columns, true);
      }
    }
    for (int64_t i = 0; i < f.T; ++i) {
      float* __restrict to = dqkv + (f.row + i) * f.stride + head * f.d;
#pragma omp simd
      for (int64_t c = 0; c < f.d; ++c) to[c] = f.root * dqueries[i * f.columns + c];
    }
  }
  for (int64_t i = 0; i < f.T; ++i) {
    float* __restrict dk = dqkv + f.key + i * f.stride;
    float* __restrict dv = dqkv + f.value + i * f.stride;
#pragma omp simd
    for (int64_t c = 0; c < f.d; ++c) dk[c] = dkeys[i * f.columns + c];
#pragma omp simd
    for (int64_t c = 0; c < f.d; ++c) dv[c] = (add_dv ? dv[c] : 0.0f) + dvalues[i * f.columns + c];
  }
}

}  // namespace fairway::FAIRWAY_TARGET
