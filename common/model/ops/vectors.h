// For kernel files alone: vector registers of the instruction set that a file is being compiled for, elements to and from float32,
// and the inner loop that every product is made of. A panel of C of up to 6 rows and 4 registers stays in registers while A and B
// stream by; A gives one word a row and step, B a row of words.
#pragma once

#include "common/model/ops/element.h"
#include "common/model/ops/formulas.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>
#endif

namespace fairway::FAIRWAY_TARGET {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kWide = 4;  // 32 registers: 6 x 4 sums, 4 of B, one of A
#elif defined(__AVX__)
constexpr int kLanes = 8, kWide = 2;  // 16 registers: 6 x 2 sums
#elif defined(__aarch64__)
constexpr int kLanes = 4, kWide = 4;  // NEON's 32 registers: 6 x 4 sums, 4 of B, one of A
#else
constexpr int kLanes = 4, kWide = 2;
#endif
constexpr int kTall = 6;  // an even number: rows are stored in pairs
typedef float Vector __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef uint32_t WordVector __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef uint16_t HalfVector __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

#define FAIRWAY_INLINE inline __attribute__((always_inline, unused))

FAIRWAY_INLINE int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
FAIRWAY_INLINE int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// An element as float32 and back, and the type's place among the precisions.
FAIRWAY_INLINE float Get(float x) { return x; }
FAIRWAY_INLINE float Get(BFloat16 x) { return formula::FromBFloat16(x.bits); }
FAIRWAY_INLINE void Put(float x, float* to) { *to = x; }
FAIRWAY_INLINE void Put(float x, BFloat16* to) { to->bits = formula::ToBFloat16(x); }

template <class E>
constexpr int kGroup = sizeof(Word) / sizeof(E);

// Memory for `count` floats, whose number the model decides: a thread's stack need not hold them. Aligned to a cache line.
class Scratch {
 public:
  explicit Scratch(int64_t count) : memory_(__builtin_malloc(count * sizeof(float) + 63)) {
    if (memory_ == nullptr) __builtin_trap();  // out of memory, on a thread that nothing can be thrown from
  }
  ~Scratch() { __builtin_free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* data() const { return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory_) + 63) / 64 * 64); }

 private:
  void* const memory_;
};

// Calls work(E*) with elements as what they are.
template <class Work>
FAIRWAY_INLINE void With(Elements elements, Work work) {
  if (elements.precision == Precision::kBFloat16) work(static_cast<BFloat16*>(elements.data));
  else work(static_cast<float*>(elements.data));
}

// sums + a b, over a word: of one float32 or of two bfloat16.
template <class E>
FAIRWAY_INLINE Vector MultiplyAdd(Word a, WordVector b, Vector sums) {
  float scalar;
  __builtin_memcpy(&scalar, &a, sizeof scalar);
  if constexpr (kGroup<E> == 1) {
    return sums + scalar * reinterpret_cast<Vector&>(b);
  } else {
#if defined(__AVX512BF16__)
    return reinterpret_cast<Vector>(
        _mm512_dpbf16_ps(reinterpret_cast<__m512>(sums), reinterpret_cast<__m512bh>(_mm512_set1_ps(scalar)), reinterpret_cast<__m512bh>(b)));
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    return reinterpret_cast<Vector>(vbfdotq_f32(reinterpret_cast<float32x4_t>(sums), vreinterpretq_bf16_u32(vdupq_n_u32(a)),
                                                vreinterpretq_bf16_u32(reinterpret_cast<uint32x4_t>(b))));
#else
    const WordVector low = b << 16, high = b & 0xffff0000u;
    sums += formula::FromBFloat16(static_cast<uint16_t>(a)) * reinterpret_cast<const Vector&>(low);
    return sums + formula::FromBFloat16(static_cast<uint16_t>(a >> 16)) * reinterpret_cast<const Vector&>(high);
#endif
  }
}

// bfloat16 nearest to each lane (formula::ToBFloat16; the processor's own instruction takes numbers below 2^-126 for 0), and the words
// of two neighbouring rows. For float32 a word is one row's: callers store two rows.
#if defined(__AVX512BF16__)
FAIRWAY_INLINE HalfVector RoundLanes(Vector x) {
  return reinterpret_cast<HalfVector>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(x)));
}
FAIRWAY_INLINE WordVector PairLanes(Vector top, Vector bottom) {
  typedef uint16_t Halves __attribute__((vector_size(kLanes * 4)));
  const auto rounded = reinterpret_cast<Halves>(_mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(bottom), reinterpret_cast<__m512>(top)));
  return reinterpret_cast<WordVector>(__builtin_shuffle(
      rounded, Halves{0,  16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31}));
}
#else
FAIRWAY_INLINE WordVector RoundedWords(Vector x) {
  const WordVector bits = reinterpret_cast<WordVector&>(x);
  return (bits + (0x7fffu + ((bits >> 16) & 1u))) >> 16;
}
FAIRWAY_INLINE HalfVector RoundLanes(Vector x) { return __builtin_convertvector(RoundedWords(x), HalfVector); }
FAIRWAY_INLINE WordVector PairLanes(Vector top, Vector bottom) { return RoundedWords(top) | (RoundedWords(bottom) << 16); }
#endif

// The first `lanes` lanes to memory and from it; partial registers are rare and kept out of line.
template <class T, class V>
__attribute__((noinline)) void StoreSome(V x, T* to, int64_t lanes) {
  T all[kLanes];
  __builtin_memcpy(all, &x, sizeof x);
  for (int64_t i = 0; i < lanes; ++i) to[i] = all[i];
}
template <class V, class T>
__attribute__((noinline)) V LoadSome(const T* from, int64_t lanes) {
  T all[kLanes] = {};
  for (int64_t i = 0; i < lanes; ++i) all[i] = from[i];
  V x;
  __builtin_memcpy(&x, all, sizeof x);
  return x;
}
template <class T, class V>
FAIRWAY_INLINE void StoreLanes(V x, T* to, int64_t lanes) {
  if (lanes >= kLanes) __builtin_memcpy(to, &x, sizeof x);
  else StoreSome(x, to, lanes);
}
template <class V, class T>
FAIRWAY_INLINE V LoadLanes(const T* from, int64_t lanes) {
  if (lanes < kLanes) return LoadSome<V>(from, lanes);
  V x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}
FAIRWAY_INLINE void PutLanes(Vector x, float* to, int64_t lanes) { StoreLanes(x, to, lanes); }
FAIRWAY_INLINE void PutLanes(Vector x, BFloat16* to, int64_t lanes) {
  StoreLanes(RoundLanes(x), reinterpret_cast<uint16_t*>(to), lanes);
}
FAIRWAY_INLINE Vector GetLanes(const float* from, int64_t lanes) { return LoadLanes<Vector>(from, lanes); }
FAIRWAY_INLINE Vector GetLanes(const BFloat16* from, int64_t lanes) {
  const HalfVector halves = LoadLanes<HalfVector>(reinterpret_cast<const uint16_t*>(from), lanes);
  const WordVector words = __builtin_convertvector(halves, WordVector) << 16;
  return reinterpret_cast<const Vector&>(words);
}
// The elements of a row as float32: the row itself, or a copy in `copy`, and what was made of them back into the row. Loops over a
// head of 16 to 32 bfloat16 are too short for the registers that they would fill.
FAIRWAY_INLINE const float* AsFloats(const float* row, int64_t, float*) { return row; }
FAIRWAY_INLINE float* AsFloats(float* row, int64_t, float*) { return row; }
FAIRWAY_INLINE float* AsFloats(const BFloat16* __restrict row, int64_t count, float* __restrict copy) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) PutLanes(GetLanes(row + i, kLanes), copy + i, kLanes);
  for (; i < count; ++i) copy[i] = Get(row[i]);
  return copy;
}
// Where a row is made as float32 that PutFloats then puts into it.
FAIRWAY_INLINE float* Made(float* row, float*) { return row; }
FAIRWAY_INLINE float* Made(BFloat16*, float* copy) { return copy; }
FAIRWAY_INLINE void PutFloats(const float*, int64_t, float*) {}
FAIRWAY_INLINE void PutFloats(const float* __restrict copy, int64_t count, BFloat16* __restrict row) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) PutLanes(GetLanes(copy + i, kLanes), row + i, kLanes);
  for (; i < count; ++i) Put(copy[i], row + i);
}

// The first lane's number and so on.
FAIRWAY_INLINE WordVector LaneNumbers() {
  WordVector numbers;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) numbers[i] = i;
  return numbers;
}
// x in the first `count` lanes, `other` in the rest.
FAIRWAY_INLINE Vector FirstLanes(Vector x, int64_t count, float other) {
  return LaneNumbers() < static_cast<uint32_t>(count < 0 ? 0 : count) ? x : other;
}
FAIRWAY_INLINE Vector Larger(Vector a, Vector b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vector>(_mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#else
  return a > b ? a : b;
#endif
}
// All lanes joined by `join`, half of them with the other half at a time.
template <class Join>
FAIRWAY_INLINE float JoinLanes(Vector x, Join join) {
#pragma GCC unroll 4
  for (uint32_t apart = kLanes / 2; apart > 0; apart /= 2) x = join(x, __builtin_shuffle(x, LaneNumbers() ^ apart));
  return x[0];
}
// 2^x for -126 <= x <= 127, and 2^-126 below. Of their degree, the polynomials have the least largest relative error on [-1/2,
// 1/2]: 2^-29, and 2^-23.4 where results become bfloat16.
template <class E>
FAIRWAY_INLINE Vector Exp2(Vector x) {
  x = Larger(Vector{} - 126.0f, x);
#if defined(__AVX512F__)
  const auto whole = reinterpret_cast<Vector>(_mm512_maskz_roundscale_ps(0xffff, reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  const Vector f = x - whole;
#else
  // 1.5 * 2^23 leaves no bits behind the point: the integer nearest to x is in the lowest bits.
  const Vector shifted = x + 12582912.0f, f = x - (shifted - 12582912.0f);
#endif
  Vector p;
  if constexpr (kGroup<E> == 1) {
    p = f * 1.534581243e-04f + 1.339993090e-03f;
    p = p * f + 9.618489072e-03f;
    p = p * f + 5.550328642e-02f;
    p = p * f + 2.402264625e-01f;
    p = p * f + 6.931471825e-01f;
  } else {
    p = f * 1.326472724e-03f + 9.671512681e-03f;
    p = p * f + 5.550733744e-02f;
    p = p * f + 2.402224208e-01f;
    p = p * f + 6.931469776e-01f;
  }
  p = p * f + 1.0f;
#if defined(__AVX512F__)
  return reinterpret_cast<Vector>(_mm512_maskz_scalef_ps(0xffff, reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(whole)));
#else
  const WordVector power = (reinterpret_cast<const WordVector&>(shifted) << 23) + reinterpret_cast<const WordVector&>(p);
  return reinterpret_cast<const Vector&>(power);
#endif
}

template <class A, class B>
FAIRWAY_INLINE float Dot(const A* __restrict a, const B* __restrict b, int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += Get(a[i]) * Get(b[i]);
  return sum;
}

// One of A's operands: word (row i, step k) is data[i * row + k * step].
struct Strided {
  const Word* data;
  int64_t row, step;
};

// kRows x kVectors registers of A B over `steps` words, handed to store(i, n, top, bottom, rows, lanes): rows i and i + 1, columns
// from n on, of which `rows` (1 or 2) and `lanes` are real. Of the tile, `rows` and `lanes` are; missing rows repeat the last.
template <class E, int kRows, int kVectors, class Store>
FAIRWAY_INLINE void Tile(int64_t steps, Strided A, int64_t rows, const Word* B, int64_t b_step, int64_t lanes, Store store) {
  static_assert(kRows % 2 == 0);
  const Word* a[kRows];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) a[i] = A.data + (i < rows ? i : rows - 1) * A.row;
  Vector sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sums[i][j] = Vector{};
  for (int64_t k = 0; k < steps; ++k) {
    WordVector b[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) __builtin_memcpy(&b[j], B + k * b_step + j * kLanes, sizeof b[j]);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Word word = a[i][k * A.step];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sums[i][j] = MultiplyAdd<E>(word, b[j], sums[i][j]);
    }
  }
  if (rows >= kRows && lanes >= kVectors * kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i += 2)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) store(i, j * kLanes, sums[i][j], sums[i + 1][j], 2, kLanes);
    return;
  }
  // Through memory: sums that lived on across this path's calls would be kept there during the loop above, too.
  Vector all[kRows][kVectors];
  __builtin_memcpy(all, sums, sizeof all);
  __asm__ volatile("" : : "r"(all) : "memory");
  for (int i = 0; i < kRows && i < rows; i += 2)
    for (int j = 0; j < kVectors && j * kLanes < lanes; ++j)
      store(i, j * kLanes, all[i][j], all[i + 1][j], rows - i, lanes - j * kLanes);
}

// C [M, N] = A B, handed to store(m, n, top, bottom, rows, lanes) as above. B's words are b_step apart and may be read up to the
// next multiple of kLanes behind N.
template <class E, class Store>
FAIRWAY_INLINE void Multiply(int64_t M, int64_t N, int64_t steps, Strided A, const Word* B, int64_t b_step, Store store) {
  const auto columns = [&]<int kVectors>(int64_t n) {
    const auto rows_from = [&]<int kRows>(int64_t m) {
      Tile<E, kRows, kVectors>(steps, {A.data + m * A.row, A.row, A.step}, M - m, B + n, b_step, N - n,
                               [&](int i, int64_t j, Vector top, Vector bottom, int64_t rows, int64_t lanes)
                                   __attribute__((always_inline)) { store(m + i, n + j, top, bottom, rows, lanes); });
    };
    int64_t m = 0;
    for (; m + kTall <= M; m += kTall) rows_from.template operator()<kTall>(m);
    if (M - m > 2) {
      rows_from.template operator()<4>(m);
      m += 4;
    }
    if (M > m) rows_from.template operator()<2>(m);
  };
  int64_t n = 0;
  for (; n + (kWide - 1) * kLanes < N; n += kWide * kLanes) columns.template operator()<kWide>(n);
  if constexpr (kWide == 4) {
    if (N - n > 2 * kLanes) columns.template operator()<3>(n);
    else if (N - n > kLanes) columns.template operator()<2>(n);
    else if (N > n) columns.template operator()<1>(n);
  } else {
    if (N > n) columns.template operator()<1>(n);
  }
}

// How results of Multiply are stored. `to` points to element (0, 0).
template <class T>
struct StoreRows {
  T* to;
  int64_t stride;
  FAIRWAY_INLINE void operator()(int64_t m, int64_t n, Vector top, Vector bottom, int64_t rows, int64_t lanes) const {
    PutLanes(top, to + m * stride + n, lanes);
    if (rows > 1) PutLanes(bottom, to + (m + 1) * stride + n, lanes);
  }
};
struct AddRows {
  float* to;
  int64_t stride;
  FAIRWAY_INLINE void operator()(int64_t m, int64_t n, Vector top, Vector bottom, int64_t rows, int64_t lanes) const {
    float* first = to + m * stride + n;
    PutLanes(GetLanes(first, lanes) + top, first, lanes);
    if (rows > 1) PutLanes(GetLanes(first + stride, lanes) + bottom, first + stride, lanes);
  }
};

// An element's bfloat16 as the low half of a word.
FAIRWAY_INLINE Word HalfWord(float x) { return formula::ToBFloat16(x); }
FAIRWAY_INLINE Word HalfWord(BFloat16 x) { return x.bits; }

// to [steps, kLanes-padded width] words = the words of `count` rows of elements, `stride` apart, that are neighbours along the
// rows: word (g, c) holds the rows g G … g G + G - 1 of column c. Rows behind `count` are 0. Columns behind `width` are left alone.
template <class E, class From>
FAIRWAY_INLINE void PairRows(int64_t count, int64_t width, const From* from, int64_t stride, Word* to, int64_t to_stride) {
  for (int64_t row = 0; row < count; row += kGroup<E>) {
    Word* __restrict out = to + row / kGroup<E> * to_stride;
    const From* __restrict top = from + row * stride;
    if constexpr (kGroup<E> == 1) {
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const float x = Get(top[c]);
        __builtin_memcpy(out + c, &x, sizeof x);
      }
    } else if (row + 1 < count) {
      const From* __restrict bottom = top + stride;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) out[c] = HalfWord(top[c]) | HalfWord(bottom[c]) << 16;
    } else {
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) out[c] = HalfWord(top[c]);
    }
  }
}

// Sixteen rows of sixteen words, and how they become their transpose: of each pair of rows `apart` rows from each other, the quarters
// off the diagonal change places.
constexpr int kBlock = 16;  // whole cache lines are written
typedef uint32_t WordRow __attribute__((vector_size(kBlock * 4), aligned(4), may_alias));
FAIRWAY_INLINE void TransposeBlock(WordRow rows[kBlock]) {
#if defined(__AVX512F__)
#pragma GCC unroll 4
  for (uint32_t apart = 1; apart < kBlock; apart *= 2) {
    const WordRow lanes = LaneNumbers(), upper = lanes & apart;
    const WordRow to_first = upper != 0 ? kBlock + lanes - apart : lanes, to_second = upper != 0 ? kBlock + lanes : lanes + apart;
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kBlock; ++i) {
      if (i & apart) continue;
      const WordRow first = rows[i], second = rows[i + apart];
      rows[i] = __builtin_shuffle(first, second, to_first);
      rows[i + apart] = __builtin_shuffle(first, second, to_second);
    }
  }
#else
  for (int i = 0; i < kBlock; ++i)
    for (int k = 0; k < i; ++k) {
      const uint32_t word = rows[i][k];
      rows[i][k] = rows[k][i];
      rows[k][i] = word;
    }
#endif
}

// A block's row: kBlock words of elements, of which `elements` are there; behind them is 0.
template <class E, class From>
FAIRWAY_INLINE void ReadRow(const From* from, int64_t elements, WordRow& words) {
  constexpr int64_t kElements = kBlock * kGroup<E>;
  E row[kElements] = {};
  if (elements >= kElements) {
    if constexpr (sizeof(E) == sizeof(From)) {
      __builtin_memcpy(row, from, sizeof row);
    } else {
#pragma omp simd
      for (int64_t k = 0; k < kElements; ++k) Put(Get(from[k]), row + k);
    }
  } else {
    for (int64_t k = 0; k < elements; ++k) Put(Get(from[k]), row + k);
  }
  __builtin_memcpy(&words, row, sizeof words);
}

// to [steps, count] words, to_stride apart = the words along the columns of `count` rows: word (g, i) holds the elements
// g G … g G + G - 1 of row i. Elements behind `width` are 0, and so are the columns from `count` up to the next multiple of 16.
template <class E, class From>
FAIRWAY_INLINE void TransposeRows(int64_t count, int64_t width, const From* from, int64_t stride, Word* to, int64_t to_stride) {
  const int64_t steps = (width + kGroup<E> - 1) / kGroup<E>;
  for (int64_t first = 0; first < count; first += kBlock) {
    for (int64_t g = 0; g < steps; g += kBlock) {
      WordRow rows[kBlock] = {};
      for (int64_t i = 0; i < kBlock && first + i < count; ++i)
        ReadRow<E>(from + (first + i) * stride + g * kGroup<E>, width - g * kGroup<E>, rows[i]);
      TransposeBlock(rows);
      for (int64_t k = 0; k < kBlock && g + k < steps; ++k) __builtin_memcpy(to + (g + k) * to_stride + first, &rows[k], sizeof rows[k]);
    }
  }
}

}  // namespace
}  // namespace fairway::FAIRWAY_TARGET
