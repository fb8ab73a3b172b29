#include "common/checkpoint/coder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "common/base/digest.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/coder_model.h"

namespace fairway {
namespace {

struct Matrix {
  int64_t rows, columns;
  std::vector<uint16_t> scales, factors;
  std::vector<int8_t> codes;
};

std::vector<CodeMatrix> Views(std::vector<Matrix>& matrices) {
  std::vector<CodeMatrix> views;
  for (Matrix& matrix : matrices) views.push_back({matrix.rows, matrix.columns, matrix.scales, matrix.factors, matrix.codes.data()});
  return views;
}

// Decodes into matrices that are `matrices` but for their codes.
bool Decode(std::string_view stream, const std::vector<Matrix>& matrices, std::vector<Matrix>* decoded) {
  *decoded = matrices;
  for (Matrix& matrix : *decoded) std::fill(matrix.codes.begin(), matrix.codes.end(), int8_t{85});
  return DecodeCodes(stream, Views(*decoded));
}

void ExpectRoundTrip(std::vector<Matrix> matrices) {
  const std::vector<Matrix> original = matrices;
  const std::string stream = EncodeCodes(Views(matrices));
  std::vector<Matrix> decoded;
  ASSERT_TRUE(Decode(stream, original, &decoded));
  for (size_t i = 0; i < original.size(); ++i) {
    ASSERT_EQ(matrices[i].codes, original[i].codes);
    ASSERT_EQ(decoded[i].codes, original[i].codes);
  }
}

// Codes of normal weights, whose deviations differ by row and by column; integers alone, so that they are the same everywhere.
Matrix Normal(uint64_t seed, int64_t rows, int64_t columns, int deviation) {
  std::mt19937_64 random(seed);
  Matrix matrix{rows, columns, std::vector<uint16_t>(rows), std::vector<uint16_t>(columns), {}};
  for (uint16_t& scale : matrix.scales) scale = static_cast<uint16_t>(0x1800 + 256 * (random() % 6));
  for (uint16_t& factor : matrix.factors) factor = static_cast<uint16_t>(0x3a00 + 256 * (random() % 4));
  for (int64_t i = 0; i < rows * columns; ++i) {
    int64_t sum = 0;  // of twelve: nearly normal
    for (int j = 0; j < 12; ++j) sum += static_cast<int64_t>(random() % 65536) - 32768;
    matrix.codes.push_back(static_cast<int8_t>(std::clamp<int64_t>(sum * deviation * (1 + i / columns % 4) * (1 + i % columns % 3) / (4 * 65536), -127, 127)));
  }
  return matrix;
}

TEST(Coder, GivesBackWhateverCodesScalesAndFactorsThereAre) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<Matrix> matrices;
    for (uint64_t count = random() % 4; count > 0; --count) {
      const auto rows = static_cast<int64_t>(1 + random() % 30), columns = static_cast<int64_t>(1 + random() % (round % 2 == 0 ? 5 : 40));
      Matrix matrix{rows, columns, std::vector<uint16_t>(rows), std::vector<uint16_t>(random() % 2 == 0 ? 0 : columns), std::vector<int8_t>(rows * columns)};
      // Any bits: zeros, infinities and what is no number too.
      for (uint16_t& scale : matrix.scales) scale = static_cast<uint16_t>(random());
      for (uint16_t& factor : matrix.factors) factor = static_cast<uint16_t>(random());
      const uint64_t span = 1 + random() % 256, few = random() % 3;
      for (int8_t& code : matrix.codes) code = few > 0 && random() % 8 > 0 ? 0 : static_cast<int8_t>(random() % span);
      matrices.push_back(matrix);
    }
    ExpectRoundTrip(matrices);
  }
}

TEST(Coder, GivesBackExtremes) {
  ExpectRoundTrip({});
  ExpectRoundTrip({{0, 5, {}, std::vector<uint16_t>(5), {}}});
  for (const int code : {-128, -127, 0, 127}) ExpectRoundTrip({{3, 400, std::vector<uint16_t>(3, 0x3c00), {}, std::vector<int8_t>(1200, static_cast<int8_t>(code))}});
  Matrix matrix{40, 50, std::vector<uint16_t>(40, 0x3c00), {}, std::vector<int8_t>(2000)};
  matrix.codes[1999] = -128;
  ExpectRoundTrip({matrix});
  for (int8_t& code : matrix.codes) code = 127;
  matrix.codes[0] = matrix.codes[1000] = 0;
  ExpectRoundTrip({matrix});
}

// What one machine writes another one reads: the bytes are those that were written when the format came to be.
TEST(Coder, WritesTheBytesOfTheFormat) {
  std::vector<Matrix> matrices = {Normal(1, 60, 90, 3), Normal(2, 60, 90, 20), Normal(3, 90, 60, 1)};
  const std::string stream = EncodeCodes(Views(matrices));
  EXPECT_EQ(stream.size(), 7925u);
  EXPECT_EQ(Sha256Hex(stream), "4a35fbc5d97388dbfc9196bcb853b158aeb3c951e351b5417957c72ae2a0da57");
}

// Bits of a code of a rounded normal variable.
double NormalBits(double deviation) {
  double bits = 0;
  for (int code = -127; code <= 127; ++code) {
    const double p = 0.5 * (std::erfc((code - 0.5) / deviation / std::sqrt(2)) - std::erfc((code + 0.5) / deviation / std::sqrt(2)));
    if (p > 0) bits -= p * std::log2(p);
  }
  return bits;
}

TEST(Coder, ComesNearTheEntropyOfNormalWeightsWithKnownDeviations) {
  constexpr int64_t kRows = 512, kColumns = 512;
  std::mt19937_64 random(4);
  std::normal_distribution<double> normal;
  for (const double deviation : {0.4, 2.0, 10.0}) {
    std::vector<Matrix> matrices;
    double ideal = 0;
    for (int count = 0; count < 2; ++count) {
      Matrix matrix{kRows, kColumns, {}, {}, {}};
      for (int64_t row = 0; row < kRows; ++row) {
        // The same deviation of weights everywhere, and steps that differ.
        const double step = std::exp2(static_cast<double>(random() % 4) / 2 - 0.75);
        matrix.scales.push_back(FloatToHalf(static_cast<float>(step / 64)));
        ideal += kColumns * NormalBits(deviation / step) / 8;
        for (int64_t i = 0; i < kColumns; ++i)
          matrix.codes.push_back(static_cast<int8_t>(std::clamp(std::round(normal(random) * deviation / step), -127.0, 127.0)));
      }
      matrices.push_back(matrix);
    }
    const auto bytes = static_cast<double>(EncodeCodes(Views(matrices)).size());
    std::printf("summary: coder: %.0f bytes at a deviation of %g steps, %.2f%% over the entropy\n", bytes, deviation, 100 * (bytes / ideal - 1));
    EXPECT_LT(bytes, 1.01 * ideal);
    EXPECT_GT(bytes, 0.99 * ideal);
  }
}

// Counts the bits that an ideal coder of the same probabilities would take.
struct Ideal {
  bool Code(bool bit, int p) {
    bits -= std::log2((bit ? p : 65536 - p) / 65536.0);
    return bit;
  }
  double bits = 0;
};

// Whatever the codes are like: near and far from 0, alike and not, with means of columns far from 0, many or few.
TEST(Coder, ComesNearItsOwnIdeal) {
  std::mt19937_64 random(7);
  double furthest = 0;
  for (const int deviation : {0, 1, 3, 20, 200}) {
    for (const int64_t columns : {30, 400}) {
      std::vector<Matrix> matrices = {Normal(random(), 400, columns, deviation), Normal(random(), 100, columns, 2 * deviation + 1)};
      for (int64_t i = 0; i < matrices[1].rows * columns; ++i) {
        int8_t& code = matrices[1].codes[i];
        code = static_cast<int8_t>(std::clamp(code + static_cast<int>(i % columns % 8) * deviation / 2, -127, 127));
      }
      Ideal ideal;
      coder_model::Model model(ideal);
      for (const CodeMatrix& matrix : Views(matrices)) model.Code(matrix);
      const double bytes = static_cast<double>(EncodeCodes(Views(matrices)).size()), least = ideal.bits / 8;
      SCOPED_TRACE(testing::Message() << "deviation " << deviation << ", " << columns << " columns: " << bytes << " bytes, ideal " << least);
      EXPECT_LE(bytes, 1.005 * least + 2);
      EXPECT_GE(bytes, least);
      furthest = std::max(furthest, bytes / least - 1);
    }
  }
  std::printf("summary: coder: at most %.3f%% over the sum of -log2 of its probabilities\n", 100 * furthest);
}

TEST(Coder, CodesOfOneKindTakeNextToNothing) {
  std::vector<Matrix> zeros = {{1000, 1000, std::vector<uint16_t>(1000, 0x3c00), {}, std::vector<int8_t>(1000000)}};
  EXPECT_LT(EncodeCodes(Views(zeros)).size(), 100u);
}

TEST(Coder, NoticesAStreamOfAnotherLength) {
  std::vector<Matrix> matrices = {Normal(5, 30, 40, 4)}, decoded;
  const std::string stream = EncodeCodes(Views(matrices));
  EXPECT_TRUE(Decode(stream, matrices, &decoded));
  EXPECT_FALSE(Decode(stream + '\0', matrices, &decoded));
  EXPECT_FALSE(Decode(stream + stream, matrices, &decoded));
  EXPECT_FALSE(Decode("", matrices, &decoded));
  // What decodes from a part may by chance end with it: the file's hash is what notices such a cut.
  int noticed = 0, cuts = 0;
  for (size_t size = 0; size < stream.size(); size += 7, ++cuts) noticed += !Decode(stream.substr(0, size), matrices, &decoded);
  EXPECT_GE(noticed, 0.9 * cuts);
}

TEST(Coder, NoiseIsHarmless) {
  std::mt19937_64 random(6);
  for (int round = 0; round < 300; ++round) {
    std::vector<Matrix> matrices = {Normal(random(), 20, 30, 4), Normal(random(), 10, 30, 40)}, decoded;
    for (uint16_t& scale : matrices[1].scales) scale = static_cast<uint16_t>(random());
    std::string stream = EncodeCodes(Views(matrices));
    for (int i = 0; i < 5; ++i) stream[random() % stream.size()] = static_cast<char>(random());
    Decode(stream, matrices, &decoded);
  }
}

}  // namespace
}  // namespace fairway
