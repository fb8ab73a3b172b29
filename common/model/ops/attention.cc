#include "common/model/ops/attention.h"

#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {
namespace {

constexpr int64_t kQueries = kAttentionQueries, kKeys = kAttentionKeys;

// Where a sequence's heads stand.
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

// Scratch memory handed out piece by piece, each at the beginning of a cache line.
class Pieces {
 public:
  explicit Pieces(void* memory) : next_(static_cast<char*>(memory)) {}
  template <class T = float>
  T* Take(int64_t count) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += RoundUp(count * static_cast<int64_t>(sizeof(T)), 64);
    return piece;
  }

 private:
  char* next_;
};

// Rows of elements as the words of a product's first operand. REQUIRES: `stride` a whole number of words.
template <class E>
Strided RowsOf(const E* rows, int64_t stride) {
  return {reinterpret_cast<const Word*>(rows), stride / kGroup<E>, 1};
}

template <class E>
float Dot(const E* __restrict a, const E* __restrict b, int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < count; ++c) sum += Get(a[c]) * Get(b[c]);
  return sum;
}

template <class E>
void Forward(const QkShape& shape, const float* gain, const E* qkv, int64_t sequence, int64_t kv, int64_t first, void* scratch, E* y,
             float* lse) {
  constexpr int64_t G = kGroup<E>;
  const Frame f(shape, sequence, kv);
  Pieces pieces(scratch);
  Word* keys = pieces.Take<Word>(f.d / G * f.positions);               // [d / G, positions]
  Word* values = pieces.Take<Word>(RoundUp(f.T, G) / G * f.columns);   // [T / G, columns]
  float* sums = pieces.Take(kQueries * f.columns);
  float* scores = pieces.Take(kQueries * kKeys);
  E* p = pieces.Take<E>(kQueries * kKeys);
  TransposeRows<E>(f.T, f.d, qkv + f.key, f.stride, keys, f.positions);
  PairRows<E>(f.T, f.d, qkv + f.value, f.stride, values, f.columns);
  for (int64_t head = f.head; head < f.head + f.group; ++head) {
    const float scale = gain[head] * f.root;
    for (int64_t i0 = first; i0 < f.T; i0 += kQueries) {
      const int64_t rows = f.T - i0 < kQueries ? f.T - i0 : kQueries;
      const Strided queries = RowsOf(qkv + (f.row + i0) * f.stride + head * f.d, f.stride);
      float largest[kQueries], total[kQueries];
      for (int64_t i = 0; i < rows; ++i) {
        largest[i] = -__builtin_inff();
        total[i] = 0;
      }
      for (int64_t j0 = 0; j0 < i0 + rows; j0 += kKeys) {
        const int64_t causal = i0 + rows - j0, seen = causal < kKeys ? causal : kKeys, count = RoundUp(seen, 16);
        Multiply<E>(rows, seen, f.d / G, queries, keys + j0, f.positions, StoreRows<float>{scores, kKeys});
        for (int64_t i = 0; i < rows; ++i) {
          float* __restrict s = scores + i * kKeys;
          E* __restrict out = p + i * kKeys;
          int64_t last = i0 + i - j0 + 1;  // keys of this block that the row sees; one before the block sees none
          last = last < 0 ? 0 : (last > seen ? seen : last);
          float top = largest[i];
#pragma omp simd reduction(max : top)
          for (int64_t j = 0; j < last; ++j) {
            s[j] *= scale;
            top = s[j] > top ? s[j] : top;
          }
          float sum = 0;
#pragma omp simd reduction(+ : sum)
          for (int64_t j = 0; j < last; ++j) {
            const float e = formula::Exp(s[j] - top);
            Put(e, out + j);
            sum += e;
          }
          for (int64_t j = last; j < count; ++j) Put(0, out + j);
          if (top > largest[i]) {
            const float shrink = formula::Exp(largest[i] - top);
            total[i] *= shrink;
            if (j0 > 0)
              for (int64_t c = 0; c < f.columns; ++c) sums[i * f.columns + c] *= shrink;
            largest[i] = top;
          }
          total[i] += sum;
        }
        const Word* block = values + j0 / G * f.columns;
        const int64_t steps = RoundUp(seen, G) / G;
        if (j0 > 0) Multiply<E>(rows, f.d, steps, RowsOf(p, kKeys), block, f.columns, AddRows{sums, f.columns});
        else Multiply<E>(rows, f.d, steps, RowsOf(p, kKeys), block, f.columns, StoreRows<float>{sums, f.columns});
      }
      for (int64_t i = 0; i < rows; ++i) {
        const float inverse = 1.0f / total[i];
        E* __restrict out = y + (f.row + i0 + i) * shape.H * f.d + head * f.d;
#pragma omp simd
        for (int64_t c = 0; c < f.d; ++c) Put(sums[i * f.columns + c] * inverse, out + c);
        lse[(sequence * shape.H + head) * f.T + i0 + i] = largest[i] + __builtin_logf(total[i]);
      }
    }
  }
}

template <class E>
void Backward(const QkShape& shape, const float* gain, const E* qkv, const E* y, const float* lse, const E* dy, int64_t sequence,
              int64_t kv, bool add_dv, void* scratch, E* dqkv) {
  constexpr int64_t G = kGroup<E>;
  const Frame f(shape, sequence, kv);
  const int64_t steps = f.d / G, pairs = RoundUp(f.T, G) / G;
  Pieces pieces(scratch);
  Word* keys_t = pieces.Take<Word>(steps * f.positions);    // [d / G, positions]
  Word* values_t = pieces.Take<Word>(steps * f.positions);
  Word* keys = pieces.Take<Word>(pairs * f.columns);        // [T / G, columns], like the next two
  Word* queries = pieces.Take<Word>(pairs * f.columns);
  Word* douts = pieces.Take<Word>(pairs * f.columns);
  float* dqueries = pieces.Take(f.T * f.columns);           // [T, columns], like the next two
  float* dkeys = pieces.Take(f.T * f.columns);
  float* dvalues = pieces.Take(f.T * f.columns);
  float* products = pieces.Take(f.T);                       // dy_i . y_i
  float* p = pieces.Take(kQueries * kKeys);
  float* ds = pieces.Take(kQueries * kKeys);
  Word* p_pairs = pieces.Take<Word>(kQueries * kKeys / G);  // [kQueries / G, kKeys], words along the queries
  Word* ds_pairs = pieces.Take<Word>(kQueries * kKeys / G);
  E* ds_rows = pieces.Take<E>(kQueries * kKeys);
  TransposeRows<E>(f.T, f.d, qkv + f.key, f.stride, keys_t, f.positions);
  TransposeRows<E>(f.T, f.d, qkv + f.value, f.stride, values_t, f.positions);
  PairRows<E>(f.T, f.d, qkv + f.key, f.stride, keys, f.columns);
  __builtin_memset(dkeys, 0, f.T * f.columns * sizeof(float));
  __builtin_memset(dvalues, 0, f.T * f.columns * sizeof(float));
  for (int64_t head = f.head; head < f.head + f.group; ++head) {
    const float scale = gain[head] * f.root;
    const int64_t out_stride = shape.H * f.d;
    const E* q = qkv + f.row * f.stride + head * f.d;
    const E* dout = dy + f.row * out_stride + head * f.d;
    const E* out = y + f.row * out_stride + head * f.d;
    PairRows<E>(f.T, f.d, q, f.stride, queries, f.columns);
    PairRows<E>(f.T, f.d, dout, out_stride, douts, f.columns);
    __builtin_memset(dqueries, 0, f.T * f.columns * sizeof(float));
    const float* lses = lse + (sequence * shape.H + head) * f.T;
    for (int64_t i = 0; i < f.T; ++i) products[i] = Dot(dout + i * out_stride, out + i * out_stride, f.d);
    for (int64_t j0 = 0; j0 < f.T; j0 += kKeys) {
      for (int64_t i0 = j0 / kQueries * kQueries; i0 < f.T; i0 += kQueries) {
        const int64_t rows = f.T - i0 < kQueries ? f.T - i0 : kQueries, causal = i0 + rows - j0;
        if (causal <= 0) continue;
        int64_t seen = causal < kKeys ? causal : kKeys;
        seen = seen < f.T - j0 ? seen : f.T - j0;
        const int64_t count = RoundUp(seen, 16), block_pairs = RoundUp(rows, G) / G;
        Multiply<E>(rows, seen, steps, RowsOf(q + i0 * f.stride, f.stride), keys_t + j0, f.positions, StoreRows<float>{p, kKeys});
        Multiply<E>(rows, seen, steps, RowsOf(dout + i0 * out_stride, out_stride), values_t + j0, f.positions,
                    StoreRows<float>{ds, kKeys});
        for (int64_t i = 0; i < rows; ++i) {
          float* __restrict prow = p + i * kKeys;
          float* __restrict dsrow = ds + i * kKeys;
          E* __restrict dsout = ds_rows + i * kKeys;
          const float log_sum = lses[i0 + i], product = products[i0 + i];
          int64_t last = i0 + i - j0 + 1;  // keys that this row sees
          last = last < 0 ? 0 : (last > seen ? seen : last);
          // Queries' gradients are wanted before the gain, keys' after it, summed over heads whose gains differ.
#pragma omp simd
          for (int64_t j = 0; j < last; ++j) {
            prow[j] = formula::Exp(scale * prow[j] - log_sum);
            const float gradient = prow[j] * (dsrow[j] - product);
            Put(gradient, dsout + j);
            dsrow[j] = scale * gradient;
          }
          for (int64_t j = last; j < count; ++j) {
            prow[j] = dsrow[j] = 0;
            Put(0, dsout + j);
          }
        }
        PairRows<E>(rows, count, p, kKeys, p_pairs, kKeys);
        PairRows<E>(rows, count, ds, kKeys, ds_pairs, kKeys);
        const int64_t query = i0 / G * f.columns;
        Multiply<E>(seen, f.d, block_pairs, {p_pairs, 1, kKeys}, douts + query, f.columns, AddRows{dvalues + j0 * f.columns, f.columns});
        Multiply<E>(seen, f.d, block_pairs, {ds_pairs, 1, kKeys}, queries + query, f.columns, AddRows{dkeys + j0 * f.columns, f.columns});
        Multiply<E>(rows, f.d, RoundUp(seen, G) / G, RowsOf(ds_rows, kKeys), keys + j0 / G * f.columns, f.columns,
                    AddRows{dqueries + i0 * f.columns, f.columns});
      }
    }
    for (int64_t i = 0; i < f.T; ++i) {
      E* __restrict to = dqkv + (f.row + i) * f.stride + head * f.d;
#pragma omp simd
      for (int64_t c = 0; c < f.d; ++c) Put(f.root * dqueries[i * f.columns + c], to + c);
    }
  }
  for (int64_t i = 0; i < f.T; ++i) {
    E* __restrict dk = dqkv + f.key + i * f.stride;
    E* __restrict dv = dqkv + f.value + i * f.stride;
#pragma omp simd
    for (int64_t c = 0; c < f.d; ++c) Put(dkeys[i * f.columns + c], dk + c);
#pragma omp simd
    for (int64_t c = 0; c < f.d; ++c) Put((add_dv ? Get(dv[c]) : 0.0f) + dvalues[i * f.columns + c], dv + c);
  }
}

}  // namespace

void AttentionForward(const QkShape& shape, const float* gain, Elements qkv, int64_t sequence, int64_t kv, int64_t first,
                      void* scratch, Elements y, float* lse) {
  With(qkv, [&](auto* all) { Forward(shape, gain, all, sequence, kv, first, scratch, static_cast<decltype(all)>(y.data), lse); });
}

void AttentionBackward(const QkShape& shape, const float* gain, Elements qkv, Elements y, const float* lse, Elements dy,
                       int64_t sequence, int64_t kv, bool add_dv, void* scratch, Elements dqkv) {
  With(qkv, [&](auto* all) {
    using E = decltype(all);
    Backward(shape, gain, all, static_cast<E>(y.data), lse, static_cast<E>(dy.data), sequence, kv, add_dv, scratch,
             static_cast<E>(dqkv.data));
  });
}

}  // namespace fairway::FAIRWAY_TARGET
