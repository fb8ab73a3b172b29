// oneDNN's kernels under the product kernels (ops/library_product.h) against ours, and how PRODUCTS chooses. Where LibTorch has no
// kernel for this processor, the refusal.
#include "common/model/products.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "common/base/error.h"
#include "common/model/ops/formulas.h"
#include "common/model/ops/library_product.h"
#include "common/model/ops/product.h"

namespace fairway {
namespace {

Settings With(const std::string& products, const std::string& precision) {
  Settings settings;
  settings.Set("products", products, Origin::kCommandLine, "test");
  settings.Set("precision", precision, Origin::kCommandLine, "test");
  return settings;
}
LibraryProducts& Chosen(Precision precision) { return library_products[static_cast<int>(precision)]; }

class ProductsTest : public testing::TestWithParam<Precision> {
 protected:
  ~ProductsTest() override { Chosen(Precision::kFloat32) = Chosen(Precision::kBFloat16) = {}; }
  const Precision precision = GetParam();
  const std::string name = precision == Precision::kBFloat16 ? "bfloat16" : "float32";
  std::mt19937 generator{3};

  std::vector<Word> Random(int64_t elements) {
    std::normal_distribution<float> normal;
    std::vector<Word> words(WordsFor(precision, elements) + 16);
    for (Word& word : words) {
      const float low = normal(generator), high = normal(generator);
      if (precision == Precision::kBFloat16) word = formula::ToBFloat16(low) | static_cast<Word>(formula::ToBFloat16(high)) << 16;
      else std::memcpy(&word, &low, sizeof word);
    }
    return words;
  }
};
INSTANTIATE_TEST_SUITE_P(Both, ProductsTest, testing::Values(Precision::kFloat32, Precision::kBFloat16));

TEST_P(ProductsTest, TheLibraryComputesWhatOursDo) {
  if (!LibraryMultiplies(name)) GTEST_SKIP() << "skipped: LibTorch has no kernel for " << name << " on this processor (" << ProductCapability() << ")";
  struct {
    int64_t M, N, K;
  } sizes[] = {{1, 64, 32}, {70, 200, 96}, {64, 64, 64}, {130, 96, 258}, {17, 1024, 512}};
  for (const auto& [M, N, K] : sizes) {
    std::vector<Word> a = Random(M * K), w = Random(N * K), x = Random(M * N);
    std::vector<Word> panels(Panels::Words(precision, K, N)), rows(Panels::Words(precision, M, K)), columns(Panels::Words(precision, M, N));
    const Panels b{panels.data(), K, N, precision}, left{rows.data(), M, K, precision}, right{columns.data(), M, N, precision};
    PackTransposed({w.data(), precision}, K, b, {0, N});
    PackRows({a.data(), precision}, K, left, {0, M});
    PackRows({x.data(), precision}, N, right, {0, M});
    std::vector<float> out[2], gradient[2];
    for (const bool library : {false, true}) {
      ChooseProducts(With(library ? "library" : "own", name));
      ASSERT_EQ(Chosen(precision).rows != nullptr, library);
      out[library].assign(M * N, NAN);
      MultiplyTo({{a.data(), precision}, K, b}, Floats(out[library].data()), N, {0, M}, {0, N});
      gradient[library].assign(K * N, 1);
      std::vector<float*> to;
      for (int64_t k = 0; k < K; ++k) to.push_back(gradient[library].data() + k * N);
      MultiplyPackedAddTo(left, right, to.data(), {0, left.count()}, {0, right.count()});
    }
    const auto expect_near = [&](const std::vector<float>& ours, const std::vector<float>& theirs, int64_t terms) {
      for (size_t i = 0; i < ours.size(); ++i)
        ASSERT_NEAR(theirs[i], ours[i], 1e-6 * static_cast<double>(terms) + 1e-5) << M << " x " << N << " x " << K << ", element " << i;
    };
    expect_near(out[0], out[1], K);
    expect_near(gradient[0], gradient[1], M);
  }
}

TEST_P(ProductsTest, AreChosenByCapabilityAlone) {
  for (const char* products : {"own", "auto"}) {
    ChooseProducts(With(products, name));
    const TileProduct* first = Chosen(precision).rows;
    ChooseProducts(With(products, name));
    EXPECT_EQ(Chosen(precision).rows, first) << products;  // not by a measurement
    if (std::string(products) == "own") {
      EXPECT_EQ(first, nullptr);
    }
  }
  const bool amx = ProductCapability() == "AMX bfloat16" && LibraryMultiplies("bfloat16");
  EXPECT_EQ(Chosen(Precision::kBFloat16).rows != nullptr, amx);
  if (LibraryMultiplies(name)) return;
  try {
    ChooseProducts(With("library", name));
    FAIL() << "nothing was thrown";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("PRODUCTS=library: LibTorch has no kernel for products in " + name));
  }
}

TEST(ProductCapability, IsNamed) {
  EXPECT_THAT(ProductCapability(), testing::AnyOf("AMX bfloat16", "AVX-512 bfloat16", "AVX-512", "AVX2", "NEON bfloat16", "NEON", "none"));
}

}  // namespace
}  // namespace fairway
