#include "common/model/ops/product.h"
#include "common/model/ops/vectors.h"
#include "common/optim/muon.h"

namespace fairway::FAIRWAY_TARGET {
namespace {

float Round(float x) { return formula::FromBFloat16(formula::ToBFloat16(x)); }

Vector Rounded(Vector x) {
  BFloat16 lanes[kLanes];
  PutLanes(x, lanes, kLanes);
  return GetLanes(lanes, kLanes);
}

// to[j] = value(get) for all j < count, kLanes of them at a time: get(from) is from[j] and its neighbours.
template <class Value>
FAIRWAY_INLINE void Each(int64_t count, BFloat16* to, Value value) {
  for (int64_t j = 0; j < count; j += kLanes)
    PutLanes(value([&](const BFloat16* from) { return GetLanes(from + j, count - j); }), to + j, count - j);
}

// Below its diagonal, and in whole blocks on it, a symmetric matrix [m, m] has been computed: the rest follows.
void Mirror(int64_t m, BFloat16* matrix) {
  constexpr int64_t kBlock = 32;
  for (int64_t i0 = 0; i0 < m; i0 += kBlock)
    for (int64_t j0 = 0; j0 <= i0; j0 += kBlock)
      for (int64_t i = i0; i < i0 + kBlock && i < m; ++i)
        for (int64_t j = j0; j < j0 + kBlock && j < i; ++j) matrix[j * m + i] = matrix[i * m + j];
}

// out [m, m] = A B for a product that is symmetric: of each panel of columns the rows from its diagonal on, of which the first few
// need no more than half of its columns.
void Symmetric(const Product& product, int64_t m, Elements out) {
  constexpr int64_t kHalf = kPanel / 2, kFew = kHalf / kTall * kTall;
  const auto least = [&](int64_t n) { return n < m ? n : m; };
  for (int64_t n = 0; n < m; n += kPanel) {
    MultiplyTo(product, out, m, {n, least(n + kFew)}, {n, least(n + kHalf)});
    MultiplyTo(product, out, m, {least(n + kFew), m}, {n, least(n + kPanel)});
  }
  Mirror(m, static_cast<BFloat16*>(out.data));
}

// g' = f g + m buf as bfloat16, row-major, not transposed, and the sum of its squares. The gradient is 0 afterwards.
float Momentum(const MuonStep& step, float* __restrict gradient, float* __restrict momentum, BFloat16* __restrict nesterov) {
  const float m = step.momentum, f = step.gradient_factor;
  double squares = 0;
  for (int64_t row = 0; row < step.rows; ++row) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = row * step.columns; j < (row + 1) * step.columns; ++j) {
      const float g = f * gradient[j];
      const float buf = m * momentum[j] + g;
      momentum[j] = buf;
      gradient[j] = 0;
      Put(g + m * buf, nesterov + j);
      sum += Get(nesterov[j]) * Get(nesterov[j]);
    }
    squares += sum;
  }
  return static_cast<float>(squares);
}

// a b + c rounded once, where the processor can.
FAIRWAY_INLINE float FusedMultiplyAdd(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// The same with gradient and momentum in bfloat16.
void BFloat16Momentum(const MuonStep& step, float* __restrict gradient, float* __restrict momentum, BFloat16* __restrict nesterov) {
  const float m = step.momentum, n = step.nesterov_momentum, f = step.gradient_factor;
#pragma omp simd
  for (int64_t j = 0; j < step.rows * step.columns; ++j) {
    const float g = Round(f * gradient[j]);
    const float buf = Round(Round(m * momentum[j]) + g);
    momentum[j] = buf;
    gradient[j] = 0;
    Put(FusedMultiplyAdd(n, buf, g), nesterov + j);
  }
}

float RowSquares(const BFloat16* __restrict row, int64_t columns) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < columns; ++j) sum += Get(row[j]) * Get(row[j]);
  return sum;
}

void NormalizeRows(int64_t rows, int64_t columns, BFloat16* x) {
  for (int64_t i = 0; i < rows; ++i) {
    BFloat16* __restrict row = x + i * columns;
    const float norm = __builtin_sqrtf(RowSquares(row, columns)), divisor = Round(norm > 1e-7f ? norm : 1e-7f);
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) Put(Get(row[j]) / divisor, row + j);
  }
}

// to [columns, rows] = from^T / divisor; rows lie `stride` apart.
void TransposeDivided(int64_t rows, int64_t columns, const BFloat16* from, int64_t from_stride, float divisor, BFloat16* to,
                      int64_t stride) {
  constexpr int64_t kBlock = 32;
  for (int64_t i0 = 0; i0 < rows; i0 += kBlock)
    for (int64_t j0 = 0; j0 < columns; j0 += kBlock)
      for (int64_t j = j0; j < j0 + kBlock && j < columns; ++j)
        for (int64_t i = i0; i < i0 + kBlock && i < rows; ++i) Put(Get(from[i * from_stride + j]) / divisor, to + j * stride + i);
}

}  // namespace

void MuonUpdate(const MuonStep& step, float* gradient, float* momentum, BFloat16* update, void* scratch) {
  const bool transposed = step.rows > step.columns;
  const int64_t m = transposed ? step.columns : step.rows, n = transposed ? step.rows : step.columns;
  const int64_t stride = RoundUp(n, 2), square = RoundUp(m, 2);
  const Precision kHalf = Precision::kBFloat16;
  char* next = static_cast<char*>(scratch);
  const auto take = [&](int64_t bytes) {
    char* piece = next;
    next += RoundUp(bytes, 64);
    return piece;
  };
  BFloat16* x = reinterpret_cast<BFloat16*>(take(m * stride * 2));          // [m, n]
  BFloat16* y = reinterpret_cast<BFloat16*>(take(m * stride * 2));          // [m, n]: what is added to it
  BFloat16* gram = reinterpret_cast<BFloat16*>(take(m * square * 2));       // [m, m], like the next two
  BFloat16* scaled = reinterpret_cast<BFloat16*>(take(m * square * 2));
  BFloat16* polynomial = reinterpret_cast<BFloat16*>(take(m * square * 2));
  const Panels x_columns{.words = reinterpret_cast<Word*>(take(4 * Panels::Words(kHalf, n, m))), .K = n, .N = m, .precision = kHalf};
  const Panels x_rows{.words = reinterpret_cast<Word*>(take(4 * Panels::Words(kHalf, m, n))), .K = m, .N = n, .precision = kHalf};
  const Panels gram_rows{.words = reinterpret_cast<Word*>(take(4 * Panels::Words(kHalf, m, m))), .K = m, .N = m, .precision = kHalf};

  float squares = 0;
  if (step.bfloat16_momentum) BFloat16Momentum(step, gradient, momentum, y);
  else squares = Momentum(step, gradient, momentum, y);
  if (step.normalize_rows) NormalizeRows(step.rows, step.columns, y);
  if (step.bfloat16_momentum || step.normalize_rows) {
    double sum = 0;
    for (int64_t i = 0; i < step.rows; ++i) sum += RowSquares(y + i * step.columns, step.columns);
    squares = static_cast<float>(sum);
  }
  const float divisor = Round(Round(__builtin_sqrtf(squares)) + 1e-7f);
  if (transposed) {
    TransposeDivided(step.rows, step.columns, y, step.columns, divisor, x, stride);
  } else {
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) Put(Get(y[i * n + j]) / divisor, x + i * stride + j);
  }
  // A row that ends within a word is followed by zeros.
  for (int64_t i = 0; i < m; ++i) {
    if (stride > n) x[i * stride + n] = {0};
    if (square > m) scaled[i * square + m] = polynomial[i * square + m] = {0};
  }
  const int64_t iterations =
      step.polar_express && step.iterations > kPolarExpressIterations ? kPolarExpressIterations : step.iterations;
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    const MuonCoefficients& by = step.polar_express ? kPolarExpress[iteration] : kNewtonSchulz;
    const float a = static_cast<float>(by.a), b = static_cast<float>(by.b), c = static_cast<float>(by.c);
    // The published scripts multiply by c before the square, or after it.
    const float before = step.polar_express ? 1 : c, after = step.polar_express ? c : 1;
    PackTransposed({x, kHalf}, stride, x_columns, {0, m});
    Symmetric({.a = {x, kHalf}, .a_stride = stride, .b = x_columns}, m, {gram, kHalf});
    PackRows({gram, kHalf}, m, gram_rows, {0, m});
    for (int64_t i = 0; i < m; ++i) Each(m, scaled + i * square, [&](auto get) { return before * get(gram + i * m); });
    // The squares land in `y`, which is large enough: m <= n.
    const Product squared{.a = {scaled, kHalf}, .a_stride = square, .b = gram_rows};
    if (step.square_by_triangle || step.polar_express) Symmetric(squared, m, {y, kHalf});
    else MultiplyTo(squared, {y, kHalf}, m, {0, m}, {0, m});
    for (int64_t i = 0; i < m; ++i)
      Each(m, polynomial + i * square, [&](auto get) { return Rounded(b * get(gram + i * m)) + Rounded(after * get(y + i * m)); });
    PackRows({x, kHalf}, stride, x_rows, {0, m});
    MultiplyTo({.a = {polynomial, kHalf}, .a_stride = square, .b = x_rows}, {y, kHalf}, stride, {0, m}, {0, n});
    Each(m * stride, x, [&](auto get) { return Rounded(a * get(x)) + get(y); });
    if (stride > n)
      for (int64_t i = 0; i < m; ++i) x[i * stride + n] = {0};
  }
  const float ratio = static_cast<float>(step.rows) / static_cast<float>(step.columns);
  const float scale = step.polar_express ? 1 : __builtin_sqrtf(ratio > 1 ? ratio : 1);
  if (transposed) TransposeDivided(m, n, x, stride, 1, y, m);
  for (int64_t i = 0; i < step.rows; ++i) {
    const BFloat16* __restrict from = transposed ? y + i * m : x + i * stride;
    BFloat16* __restrict u = update + i * step.columns;
#pragma omp simd
    for (int64_t j = 0; j < step.columns; ++j) Put(scale * Get(from[j]), u + j);
  }
}

void MuonApply(const MuonStep& step, const BFloat16* __restrict update, float* __restrict parameter, Rows range) {
  if (step.polar_express) {
    const float rate = -step.rate, keep = step.keep;
#pragma omp simd
    for (int64_t j = range.first; j < range.last; ++j) parameter[j] = FusedMultiplyAdd(rate, Get(update[j]), parameter[j] * keep);
    return;
  }
  const float rate = step.learning_rate, keep = 1 - rate * step.weight_decay;
#pragma omp simd
  for (int64_t j = range.first; j < range.last; ++j) parameter[j] = parameter[j] * keep - rate * Get(update[j]);
}

}  // namespace fairway::FAIRWAY_TARGET
