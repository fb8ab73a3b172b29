// The matrix products (common/model/ops/product.h) in every build of the kernels that this processor runs, against float64 sums of
// the same operands. Needs no LibTorch, so it also runs where only the compiler does: on arm64 under emulation.
//
// Each also with the hook of library_product.h, whose place a plain loop takes here.
//
// A float32 result of K terms is within K + 4 units in the last place of the sum of their magnitudes; one that is rounded to bfloat16
// within half a unit of bfloat16 besides.
#include "common/model/ops/product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "common/model/ops/formulas.h"
#include "common/model/ops/library_product.h"

namespace fairway {
namespace {

#define EACH_PRODUCT(X, build)                                                                                       \
  X(build, PackTransposed) X(build, PackRows) X(build, MultiplyTo) X(build, MultiplyAddTo) X(build, MultiplyRelu2) \
  X(build, MultiplyRelu2Backward) X(build, MultiplyPackedAddTo)
#define AS_MEMBER(build, name) decltype(&build::name) name;
#define AS_VALUE(build, name) &build::name,
#define KERNELS_OF(build) Kernels{#build, EACH_PRODUCT(AS_VALUE, build)}

struct Kernels {
  std::string build;
  EACH_PRODUCT(AS_MEMBER, baseline)
};
void PrintTo(const Kernels& kernels, std::ostream* out) { *out << kernels.build; }

// From this processor's best on: the instructions of each build are those of the next one and more.
std::vector<Kernels> Builds() {
  const std::vector<Kernels> all = {
#if defined(__x86_64__)
      KERNELS_OF(x86_64_v4_bf16), KERNELS_OF(x86_64_v4), KERNELS_OF(x86_64_v3),
#elif defined(__aarch64__)
      KERNELS_OF(armv8_bf16),
#endif
      KERNELS_OF(baseline)};
  auto best = all.begin();
  while (best->MultiplyTo != MultiplyTo) ++best;
  return {best, all.end()};
}

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// A matrix of elements, and what they are as float64. Memory behind the columns, up to the stride, is 0.
struct Matrix {
  Matrix(Precision precision, int64_t rows, int64_t columns, int64_t stride, std::mt19937* generator)
      : precision(precision), rows(rows), columns(columns), stride(stride), bytes(rows * stride * ElementBytes(precision), 0) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) Set(i, j, normal(*generator));
  }
  void Set(int64_t i, int64_t j, float x) {
    if (precision == Precision::kBFloat16) {
      const uint16_t half = formula::ToBFloat16(x);
      std::memcpy(bytes.data() + 2 * (i * stride + j), &half, sizeof half);
    } else {
      std::memcpy(bytes.data() + 4 * (i * stride + j), &x, sizeof x);
    }
  }
  double At(int64_t i, int64_t j) const {
    if (precision == Precision::kBFloat16) {
      uint16_t half;
      std::memcpy(&half, bytes.data() + 2 * (i * stride + j), sizeof half);
      return formula::FromBFloat16(half);
    }
    float x;
    std::memcpy(&x, bytes.data() + 4 * (i * stride + j), sizeof x);
    return x;
  }
  void Fill(float x) {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < stride; ++j) Set(i, j, x);
  }
  Elements elements() const { return {const_cast<char*>(bytes.data()), precision}; }

  Precision precision;
  int64_t rows, columns, stride;
  std::vector<char> bytes;
};

int64_t library_calls = 0;

// What a library does, as its interface says.
template <class E>
void PlainTile(int64_t M, int64_t K, const void* a, int64_t a_stride, const Word* b, float* c, bool add) {
  constexpr int64_t kGroup = sizeof(Word) / sizeof(E);
  const auto at = [](const void* elements, int64_t i) {
    E element;
    std::memcpy(&element, static_cast<const char*>(elements) + i * static_cast<int64_t>(sizeof(E)), sizeof element);
    if constexpr (kGroup == 2) return formula::FromBFloat16(element.bits);
    else return element;
  };
  ++library_calls;
  ASSERT_EQ(K % kGroup, 0);
  for (int64_t m = 0; m < M; ++m)
    for (int64_t n = 0; n < kPanel; ++n) {
      float sum = add ? c[m * kPanel + n] : 0;
      for (int64_t k = 0; k < K; ++k) sum += at(a, m * a_stride + k) * at(b, (k / kGroup * kPanel + n) * kGroup + k % kGroup);
      c[m * kPanel + n] = sum;
    }
}

class ProductTest : public testing::TestWithParam<std::tuple<Kernels, Precision, bool>> {
 protected:
  ProductTest() {
    library_calls = 0;
    if (by_library) Use({PlainTile<float>, PlainTile<float>}, {PlainTile<BFloat16>, PlainTile<BFloat16>});
  }
  ~ProductTest() override {
    Use({}, {});
    EXPECT_EQ(library_calls > 0, by_library);
  }
  static void Use(const LibraryProducts& float32, const LibraryProducts& bfloat16) {
    library_products[static_cast<int>(Precision::kFloat32)] = float32;
    library_products[static_cast<int>(Precision::kBFloat16)] = bfloat16;
  }
  int64_t Whole(int64_t elements) const { return WordsFor(precision, elements) * WordElements(precision); }
  Matrix Random(int64_t rows, int64_t columns, int64_t stride) { return {precision, rows, columns, stride, &generator}; }
  Panels NewPanels(int64_t K, int64_t N) {
    auto& words = memory.emplace_back(Panels::Words(precision, K, N), 0x7fc07fc0u);
    return {words.data(), K, N, precision};
  }
  // W [N, K] packed for A W^T, in two calls; X [K, N] packed as it is, in two calls.
  Panels Transposed(const Matrix& w) {
    const Panels to = NewPanels(w.columns, w.rows);
    const int64_t middle = (w.rows / 2 + 63) / 64 * 64 < w.rows ? (w.rows / 2 + 63) / 64 * 64 : 0;
    kernels.PackTransposed(w.elements() + middle * w.stride, w.stride, to, {middle, w.rows});
    if (middle > 0) kernels.PackTransposed(w.elements(), w.stride, to, {0, middle});
    return to;
  }
  Panels Packed(const Matrix& x) {
    const Panels to = NewPanels(x.rows, x.columns);
    const int64_t middle = x.rows / 4 * 2;
    kernels.PackRows(x.elements() + middle * x.stride, x.stride, to, {middle, x.rows});
    if (middle > 0) kernels.PackRows(x.elements(), x.stride, to, {0, middle});
    return to;
  }
  // `actual` is `exact`, a sum of K terms whose magnitudes are `magnitude` in all.
  void ExpectSum(double actual, double exact, double magnitude, int64_t K, bool rounded, int64_t m, int64_t n) const {
    const double bound = magnitude * (static_cast<double>(K + 4) * 0x1p-23 + (rounded ? 0x1p-8 : 0.0));
    ASSERT_LE(std::abs(actual - exact), bound) << "row " << m << ", column " << n << ": " << actual << ", not " << exact;
  }
  bool bfloat16() const { return precision == Precision::kBFloat16; }

  const Kernels kernels = std::get<0>(GetParam());
  const Precision precision = std::get<1>(GetParam());
  const bool by_library = std::get<2>(GetParam());
  std::mt19937 generator{7};
  std::vector<std::vector<Word>> memory;
};

struct Sizes {
  int64_t M, N, K;
};
// Around the tiles' edges, and some larger ones.
constexpr Sizes kSizes[] = {{1, 1, 1},  {2, 64, 2},    {3, 5, 7},     {5, 17, 9},    {6, 16, 32},   {7, 63, 33},
                            {8, 65, 1}, {13, 130, 64}, {64, 128, 65}, {70, 200, 96}, {129, 96, 257}};

double Dot(const Matrix& a, const Matrix& w, int64_t m, int64_t n, double* magnitude) {
  double sum = 0;
  *magnitude = 0;
  for (int64_t k = 0; k < a.columns; ++k) {
    const double term = a.At(m, k) * w.At(n, k);
    sum += term;
    *magnitude += std::abs(term);
  }
  return sum;
}

TEST_P(ProductTest, MultipliesByATransposedMatrix) {
  for (const auto& [M, N, K] : kSizes) {
    const Matrix a = Random(M, K, Whole(K) + WordElements(precision)), w = Random(N, K, K + 3);
    const Product product{a.elements(), a.stride, Transposed(w)};
    for (const Precision to : {Precision::kFloat32, precision}) {
      Matrix out(to, M, N, N + 5, &generator);
      out.Fill(kNaN);
      const int64_t row = M / 3, column = N / 2 / 64 * 64;
      for (const Rows& rows : {Rows{row, M}, Rows{0, row}})
        for (const Rows& columns : {Rows{column, N}, Rows{0, column}})
          if (rows.count() > 0 && columns.count() > 0) kernels.MultiplyTo(product, out.elements(), out.stride, rows, columns);
      for (int64_t m = 0; m < M; ++m) {
        for (int64_t n = 0; n < N; ++n) {
          double magnitude;
          const double sum = Dot(a, w, m, n, &magnitude);
          ExpectSum(out.At(m, n), sum, magnitude, K, to == Precision::kBFloat16, m, n);
        }
        for (int64_t n = N; n < out.stride; ++n) ASSERT_TRUE(std::isnan(out.At(m, n))) << "behind row " << m;
      }
    }
  }
}

TEST_P(ProductTest, AddsAProductOfAMatrixAsItIs) {
  for (const auto& [M, N, K] : kSizes) {
    const Matrix a = Random(M, K, Whole(K)), x = Random(K, N, N + 1);
    Matrix w(precision, N, K, K, &generator);
    for (int64_t n = 0; n < N; ++n)
      for (int64_t k = 0; k < K; ++k) w.Set(n, k, static_cast<float>(x.At(k, n)));
    Matrix out(Precision::kFloat32, M, N, N, &generator);
    const Matrix before = out;
    kernels.MultiplyAddTo({a.elements(), a.stride, Packed(x)}, out.elements().floats(), out.stride, {0, M});
    for (int64_t m = 0; m < M; ++m)
      for (int64_t n = 0; n < N; ++n) {
        double magnitude;
        const double sum = Dot(a, w, m, n, &magnitude);
        ExpectSum(out.At(m, n), before.At(m, n) + sum, std::abs(before.At(m, n)) + magnitude, K, false, m, n);
      }
  }
}

TEST_P(ProductTest, SquaresTheRectifiedProduct) {
  constexpr double kNegative = 0.5;
  for (const auto& [M, N, K] : kSizes) {
    const Matrix a = Random(M, K, Whole(K)), w = Random(N, K, K);
    Matrix h(precision, M, N, N, &generator), act = h;
    h.Fill(kNaN), act.Fill(kNaN);
    kernels.MultiplyRelu2({a.elements(), a.stride, Transposed(w)}, kNegative, h.elements(), act.elements(), N, {0, M});
    for (int64_t m = 0; m < M; ++m)
      for (int64_t n = 0; n < N; ++n) {
        double magnitude;
        const double sum = Dot(a, w, m, n, &magnitude), relu = sum > 0 ? sum : kNegative * sum;
        ExpectSum(h.At(m, n), sum, magnitude, K, bfloat16(), m, n);
        ExpectSum(act.At(m, n), relu * relu, magnitude * magnitude, 2 * K, bfloat16(), m, n);
      }
  }
}

TEST_P(ProductTest, WalksBackThroughTheSquare) {
  constexpr double kNegative = 0.5;
  for (const auto& [M, N, K] : kSizes) {
    const Matrix a = Random(M, K, Whole(K)), w = Random(N, K, K), h = Random(M, N, N);
    Matrix dh(precision, M, N, N, &generator);
    dh.Fill(kNaN);
    const Panels dh_packed = NewPanels(M, N), act_packed = NewPanels(M, N);
    kernels.MultiplyRelu2Backward({a.elements(), a.stride, Transposed(w)}, kNegative, h.elements(), dh.elements(), N, dh_packed,
                                  act_packed, {0, M});
    const auto packed = [&](const Panels& panels, int64_t m, int64_t n) -> double {
      const Word word = panels.panel(n / kPanel)[m / WordElements(precision) * kPanel + n % kPanel];
      if (bfloat16()) return formula::FromBFloat16(static_cast<uint16_t>(m % 2 == 0 ? word : word >> 16));
      float x;
      std::memcpy(&x, &word, sizeof x);
      return x;
    };
    for (int64_t m = 0; m < M; ++m)
      for (int64_t n = 0; n < N; ++n) {
        double magnitude;
        const double da = Dot(a, w, m, n, &magnitude), x = h.At(m, n), relu = x > 0 ? x : kNegative * x;
        const double slope = 2 * relu * (x > 0 ? 1 : kNegative);
        ExpectSum(dh.At(m, n), da * slope, magnitude * std::abs(slope), K, bfloat16(), m, n);
        ASSERT_EQ(packed(dh_packed, m, n), dh.At(m, n)) << "row " << m << ", column " << n;
        ExpectSum(packed(act_packed, m, n), relu * relu, relu * relu, 1, bfloat16(), m, n);
      }
    if (bfloat16() && M % 2 == 1) {  // the summed dimension of what these are multiplied by ends in half a word
      for (int64_t n = 0; n < N; ++n) ASSERT_EQ(packed(dh_packed, M, n), 0) << n;
    }
  }
}

TEST_P(ProductTest, AddsProductsOfTwoPackedMatrices) {
  for (const auto& [K, N, M] : kSizes) {
    const Matrix a = Random(K, M, M), b = Random(K, N, N);
    Matrix out(Precision::kFloat32, M, N, N + 2, &generator);
    const Matrix before = out;
    std::vector<float*> rows;
    for (int64_t m = M - 1; m >= 0; --m) rows.push_back(out.elements().floats() + m * out.stride);  // any order of rows
    const Panels pa = Packed(a), pb = Packed(b);
    const int64_t p = pa.count() / 2, q = pb.count() / 2;
    for (const Rows& a_panels : {Rows{p, pa.count()}, Rows{0, p}})
      for (const Rows& b_panels : {Rows{q, pb.count()}, Rows{0, q}}) kernels.MultiplyPackedAddTo(pa, pb, rows.data(), a_panels, b_panels);
    for (int64_t m = 0; m < M; ++m)
      for (int64_t n = 0; n < N; ++n) {
        double sum = before.At(M - 1 - m, n), magnitude = std::abs(sum);
        for (int64_t k = 0; k < K; ++k) {
          sum += a.At(k, m) * b.At(k, n);
          magnitude += std::abs(a.At(k, m) * b.At(k, n));
        }
        ExpectSum(out.At(M - 1 - m, n), sum, magnitude, K, false, m, n);
      }
  }
}

INSTANTIATE_TEST_SUITE_P(EachBuild, ProductTest,
                         testing::Combine(testing::ValuesIn(Builds()), testing::Values(Precision::kFloat32, Precision::kBFloat16),
                                          testing::Bool()),
                         [](const auto& info) {
                           return std::get<0>(info.param).build +
                                  (std::get<1>(info.param) == Precision::kBFloat16 ? "_bfloat16" : "_float32") +
                                  (std::get<2>(info.param) ? "_library" : "");
                         });

}  // namespace
}  // namespace fairway
