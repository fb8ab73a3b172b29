#include "common/model/ops/attention.h"

#include "common/model/ops/product.h"
#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {
namespace {

constexpr int64_t kQueries = kAttentionQueries, kKeys = kAttentionKeys, kStrip = kAttentionStrip, kPairs = kAttentionPairs;
constexpr float kLog2E = 1.44269504088896341f;
// A row's sums are made smaller only where scores are that many powers of two above the largest before: any maximum serves that
// keeps them finite, and the processor foresees a branch that is rarely taken. float32 keeps the running maximum itself, whose sums
// are published figures.
template <class E>
constexpr float kGrowth = kGroup<E> == 1 ? 0 : 8;

// Where a sequence's heads are in memory.
struct Frame {
  Frame(const QkShape& shape, int64_t row, int64_t kv)
      : T(shape.T),
        d(shape.d),
        columns(RoundUp(shape.d, 16)),
        positions(RoundUp(shape.T, 64)),
        stride(shape.stride()),
        group(shape.H / shape.Hkv),
        head(kv * group),
        row(row),
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

// Keys and values as the second operand of a product along d: panels (product.h) of positions.
template <class E>
void PackPositions(const Frame& f, const E* rows, Word* panels) {
  for (int64_t j = 0; j < f.T; j += kPanel)
    TransposeRows<E>(Least(kPanel, f.T - j), f.d, rows + j * f.stride, f.stride, panels + j * (f.d / kGroup<E>), kPanel);
}

// scores [rows, count], kKeys apart = queries times `count` positions from j0 on, a multiple of kPanel.
template <class E>
FAIRWAY_INLINE void Scores(const Frame& f, int64_t rows, Strided queries, const Word* panels, int64_t j0, int64_t count, float* scores) {
  const int64_t steps = f.d / kGroup<E>;
  for (int64_t n = 0; n < count; n += kPanel)
    Multiply<E>(rows, Least(kPanel, count - n), steps, queries, panels + (j0 + n) * steps, kPanel,
                StoreRows<float>{scores + n, kKeys});
}

// The words of rows i and i + 1 of a block, i even; they are kPairs apart.
template <class E>
FAIRWAY_INLINE void PutPair(Vector top, Vector bottom, int64_t i, int64_t j, Word* pairs) {
  Word* to = pairs + i / kGroup<E> * kPairs + j;
  if constexpr (kGroup<E> == 2) {
    StoreLanes(PairLanes(top, bottom), to, kLanes);
  } else {
    StoreLanes(reinterpret_cast<WordVector&>(top), to, kLanes);
    StoreLanes(reinterpret_cast<WordVector&>(bottom), to + kPairs, kLanes);
  }
}

template <class E>
void Forward(const QkShape& shape, const float* gain, const E* qkv, int64_t row, int64_t kv, int64_t first, void* scratch, E* y,
             float* lse) {
  constexpr int64_t G = kGroup<E>;
  const Frame f(shape, row, kv);
  Pieces pieces(scratch);
  Word* keys = pieces.Take<Word>(f.d / G * f.positions);               // panels
  Word* values = pieces.Take<Word>(RoundUp(f.T, G) / G * f.columns);   // [T / G, columns]
  float* sums = pieces.Take(kStrip * f.columns);
  float* scores = pieces.Take(kStrip * kKeys);
  E* p = pieces.Take<E>(kStrip * kKeys);
  PackPositions(f, qkv + f.key, keys);
  PairRows<E>(f.T, f.d, qkv + f.value, f.stride, values, f.columns);
  for (int64_t head = f.head; head < f.head + f.group; ++head) {
    const float scale = gain[head] * f.root * kLog2E;  // powers of two are taken: of scores times that
    for (int64_t i0 = first; i0 < f.T; i0 += kStrip) {
      const int64_t rows = f.T - i0 < kStrip ? f.T - i0 : kStrip;
      const Strided queries = RowsOf(qkv + (f.row + i0) * f.stride + head * f.d, f.stride);
      float largest[kStrip];
      Vector total[kStrip];
      for (int64_t i = 0; i < rows; ++i) {
        largest[i] = -__builtin_inff();
        total[i] = Vector{};
      }
      for (int64_t j0 = 0; j0 < i0 + rows; j0 += kKeys) {
        const int64_t causal = i0 + rows - j0, seen = causal < kKeys ? causal : kKeys, count = RoundUp(seen, 16);
        Scores<E>(f, rows, queries, keys, j0, seen, scores);
        // Keys of this block that the row sees; one before the block sees none.
        const auto last_of = [&](int64_t i) { return Least(seen, i0 + i - j0 + 1 > 0 ? i0 + i - j0 + 1 : 0); };
        // All rows' maxima first: a row's is joined across lanes while the next ones' are looked for.
        for (int64_t i = 0; i < rows; ++i) {
          const float* s = scores + i * kKeys;
          const int64_t last = last_of(i);
          Vector tops = Vector{} - __builtin_inff();
          int64_t j = 0;
          for (; j + kLanes <= last; j += kLanes) tops = Larger(tops, scale * GetLanes(s + j, kLanes));
          if (j < last) tops = Larger(tops, FirstLanes(scale * GetLanes(s + j, kLanes), last - j, -__builtin_inff()));
          const float before = largest[i], here = JoinLanes(tops, Larger);
          if (here <= before + kGrowth<E>) continue;
          largest[i] = here;
          if (j0 == 0) continue;
          const float shrink = Exp2<E>(Vector{} + (before - here))[0];
          total[i] *= shrink;
          for (int64_t c = 0; c < f.columns; ++c) sums[i * f.columns + c] *= shrink;
        }
        for (int64_t i = 0; i < rows; ++i) {
          const float* s = scores + i * kKeys;
          E* out = p + i * kKeys;
          const int64_t last = last_of(i);
          const float top = largest[i];
          Vector all = total[i];
          int64_t j = 0;
          const auto put = [&](Vector e) __attribute__((always_inline)) {
            PutLanes(e, out + j, kLanes);
            all += e;
          };
          for (; j + kLanes <= last; j += kLanes) put(Exp2<E>(scale * GetLanes(s + j, kLanes) - top));
          for (; j < count; j += kLanes) put(FirstLanes(Exp2<E>(scale * GetLanes(s + j, kLanes) - top), last - j, 0));
          total[i] = all;
        }
        const Word* block = values + j0 / G * f.columns;
        const int64_t steps = RoundUp(seen, G) / G;
        if (j0 > 0) Multiply<E>(rows, f.d, steps, RowsOf(p, kKeys), block, f.columns, AddRows{sums, f.columns});
        else Multiply<E>(rows, f.d, steps, RowsOf(p, kKeys), block, f.columns, StoreRows<float>{sums, f.columns});
      }
      for (int64_t i = 0; i < rows; ++i) {
        const float all = JoinLanes(total[i], [](Vector a, Vector b) { return a + b; }), inverse = 1.0f / all;
        E* __restrict out = y + (f.row + i0 + i) * shape.H * f.d + head * f.d;
#pragma omp simd
        for (int64_t c = 0; c < f.d; ++c) Put(sums[i * f.columns + c] * inverse, out + c);
        lse[f.row * shape.H + head * f.T + i0 + i] = largest[i] / kLog2E + __builtin_logf(all);
      }
    }
  }
}

template <class E>
void Backward(const QkShape& shape, const float* gain, const E* qkv, const E* y, const float* lse, const E* dy, int64_t row,
              int64_t kv, bool add_dv, void* scratch, E* dqkv) {
  constexpr int64_t G = kGroup<E>;
  const Frame f(shape, row, kv);
  const int64_t steps = f.d / G, pairs = RoundUp(f.T, G) / G;
  Pieces pieces(scratch);
  Word* keys_t = pieces.Take<Word>(steps * f.positions);    // panels, like the next
  Word* values_t = pieces.Take<Word>(steps * f.positions);
  Word* keys = pieces.Take<Word>(pairs * f.columns);        // [T / G, columns], like the next two
  Word* queries = pieces.Take<Word>(pairs * f.columns);
  Word* douts = pieces.Take<Word>(pairs * f.columns);
  float* dqueries = pieces.Take(f.T * f.columns);           // [T, columns], like the next two
  float* dkeys = pieces.Take(f.T * f.columns);
  float* dvalues = pieces.Take(f.T * f.columns);
  float* products = pieces.Take(f.T);                       // dy_i . y_i
  float* scores = pieces.Take(kStrip * kKeys);
  float* dscores = pieces.Take(kStrip * kKeys);
  E* ds_rows = pieces.Take<E>(kStrip * kKeys);
  Word* p_pairs = pieces.Take<Word>(kQueries / G * kPairs);  // [kQueries / G, kPairs], words along the queries
  Word* ds_pairs = pieces.Take<Word>(kQueries / G * kPairs);
  PackPositions(f, qkv + f.key, keys_t);
  PackPositions(f, qkv + f.value, values_t);
  PairRows<E>(f.T, f.d, qkv + f.key, f.stride, keys, f.columns);
  __builtin_memset(dkeys, 0, f.T * f.columns * sizeof(float));
  __builtin_memset(dvalues, 0, f.T * f.columns * sizeof(float));
  for (int64_t head = f.head; head < f.head + f.group; ++head) {
    const float scale = gain[head] * f.root, power = scale * kLog2E;
    const int64_t out_stride = shape.H * f.d;
    const E* q = qkv + f.row * f.stride + head * f.d;
    const E* dout = dy + f.row * out_stride + head * f.d;
    const E* out = y + f.row * out_stride + head * f.d;
    PairRows<E>(f.T, f.d, q, f.stride, queries, f.columns);
    PairRows<E>(f.T, f.d, dout, out_stride, douts, f.columns);
    __builtin_memset(dqueries, 0, f.T * f.columns * sizeof(float));
    const float* lses = lse + f.row * shape.H + head * f.T;
    for (int64_t i = 0; i < f.T; ++i) products[i] = Dot(dout + i * out_stride, out + i * out_stride, f.d);
    for (int64_t j0 = 0; j0 < f.T; j0 += kKeys) {
      for (int64_t i0 = j0 / kQueries * kQueries; i0 < f.T; i0 += kQueries) {
        const int64_t rows = Least(kQueries, f.T - i0), seen = Least(Least(kKeys, i0 + rows - j0), f.T - j0);
        const int64_t begin = j0 > i0 ? (j0 - i0) / kStrip * kStrip : 0;  // the strips before see none of these keys
        for (int64_t i = begin; i < rows; i += kStrip) {
          const int64_t strip = Least(kStrip, rows - i), strip_seen = Least(seen, i0 + i + strip - j0);
          Scores<E>(f, strip, RowsOf(q + (i0 + i) * f.stride, f.stride), keys_t, j0, strip_seen, scores);
          Scores<E>(f, strip, RowsOf(dout + (i0 + i) * out_stride, out_stride), values_t, j0, strip_seen, dscores);
          // Two rows at a time, whose words go into the products towards keys and values. A second row that is not there is 0.
          // Queries' gradients are wanted before the gain, keys' after it, summed over heads whose gains differ.
          for (int64_t row = 0; row < strip; row += 2) {
            int64_t last[2];  // keys that a row sees
            float log_sum[2], product[2];
            for (int r = 0; r < 2; ++r) {
              const int64_t position = i0 + i + Least(row + r, strip - 1);
              log_sum[r] = kLog2E * lses[position];
              product[r] = products[position];
              last[r] = row + r < strip ? Least(seen, position - j0 + 1) : 0;
            }
            const auto put = [&](int64_t j, auto visible) __attribute__((always_inline)) {
              Vector probability[2], gradient[2];
#pragma GCC unroll 2
              for (int r = 0; r < 2; ++r) {
                const int64_t at = (row + r) * kKeys + j;
                const Vector e = Exp2<E>(power * GetLanes(scores + at, kLanes) - log_sum[r]);
                probability[r] = visible(e, last[r] - j);
                gradient[r] = visible(e * (GetLanes(dscores + at, kLanes) - product[r]), last[r] - j);
                PutLanes(gradient[r], ds_rows + at, kLanes);
              }
              PutPair<E>(probability[0], probability[1], i + row, j, p_pairs);
              PutPair<E>(scale * gradient[0], scale * gradient[1], i + row, j, ds_pairs);
            };
            int64_t j = 0;
            for (const int64_t both = Least(last[0], last[1]); j + kLanes <= both; j += kLanes) put(j, [](Vector x, int64_t) { return x; });
            for (; j < seen; j += kLanes) put(j, [](Vector x, int64_t lanes) { return FirstLanes(x, lanes, 0); });
          }
          Multiply<E>(strip, f.d, RoundUp(strip_seen, G) / G, RowsOf(ds_rows, kKeys), keys + j0 / G * f.columns, f.columns,
                      AddRows{dqueries + (i0 + i) * f.columns, f.columns});
        }
        const int64_t count = RoundUp(rows, G) / G - begin / G, pair = begin / G * kPairs, query = (i0 + begin) / G * f.columns;
        Multiply<E>(seen, f.d, count, {p_pairs + pair, 1, kPairs}, douts + query, f.columns, AddRows{dvalues + j0 * f.columns, f.columns});
        Multiply<E>(seen, f.d, count, {ds_pairs + pair, 1, kPairs}, queries + query, f.columns, AddRows{dkeys + j0 * f.columns, f.columns});
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

void AttentionForward(const QkShape& shape, const float* gain, Elements qkv, int64_t row, int64_t kv, int64_t first,
                      void* scratch, Elements y, float* lse) {
  With(qkv, [&](auto* all) { Forward(shape, gain, all, row, kv, first, scratch, static_cast<decltype(all)>(y.data), lse); });
}

void AttentionBackward(const QkShape& shape, const float* gain, Elements qkv, Elements y, const float* lse, Elements dy,
                       int64_t row, int64_t kv, bool add_dv, void* scratch, Elements dqkv) {
  With(qkv, [&](auto* all) {
    using E = decltype(all);
    Backward(shape, gain, all, static_cast<E>(y.data), lse, static_cast<E>(dy.data), row, kv, add_dv, scratch,
             static_cast<E>(dqkv.data));
  });
}

}  // namespace fairway::FAIRWAY_TARGET
