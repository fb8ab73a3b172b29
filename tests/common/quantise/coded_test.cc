// Codes with scales of groups and corrections of low rank: chosen, exported, packed and read back.
#include "common/quantise/coded.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <random>

#include "common/base/error.h"
#include "common/quantise/artifact.h"
#include "common/quantise/export.h"
#include "tests/common/checkpoint/temporary_folder.h"

namespace fairway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

float Half(double value) { return HalfToFloat(FloatToHalf(static_cast<float>(value))); }

std::vector<float> Normal(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.1f);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(SymmetricGrid, OfEachNumberOfBits) {
  EXPECT_EQ(SymmetricGrid(2), (Grid{"int2", -1, 1}));
  EXPECT_EQ(SymmetricGrid(6), (Grid{"int6", -31, 31}));
  EXPECT_EQ(SymmetricGrid(8), (Grid{"int8", -127, 127}));
}

TEST(QuantiseRowMaximum, RoundsHalfToEvenOnTheStoredScale) {
  const ScaledCodes codes = QuantiseRowMaximum({1.27f, -0.635f, 0.0151f, 0, 1e-9f, 0, -7, 3.5f, 0.875f}, 3, 4);
  EXPECT_THAT(codes.codes, ElementsAre(7, -4, 0, 0, 7, 0, -7, 4, 1));
  EXPECT_EQ(HalfToFloat(codes.scales[0]), Half(1.27f / 7));
  EXPECT_EQ(HalfToFloat(codes.scales[1]), 0);  // too small for float16
  EXPECT_EQ(HalfToFloat(codes.scales[2]), 1);
  EXPECT_EQ(codes.Values()[7], 4);
}

TEST(QuantiseFactors, InGroupsWhereTheyFitAndByRowElsewhere) {
  const std::vector<float> a = Normal(6 * 2, 1), b = Normal(2 * 8, 2);
  const LowRankCorrection grouped = QuantiseFactors(a, b, 2, 4, 4);
  EXPECT_EQ(grouped.left.grid, (Grid{"int2", -2, 1}));
  EXPECT_EQ(grouped.left.scales.size(), 1u);
  EXPECT_EQ(grouped.right.grid, (Grid{"int4", -8, 7}));
  ASSERT_EQ(grouped.right.scales.size(), 4u);
  float largest = 0;
  for (int i = 4; i < 8; ++i) largest = std::max(largest, std::fabs(b[i]));
  EXPECT_EQ(HalfToFloat(grouped.right.scales[1]), Half(largest / 7.5f));
  for (int i = 4; i < 8; ++i)
    EXPECT_EQ(grouped.right.codes[i], std::clamp(std::nearbyint(b[i] / HalfToFloat(grouped.right.scales[1])), -8.0f, 7.0f));
  for (const int64_t group : {0, 5}) {
    const LowRankCorrection by_row = QuantiseFactors(a, b, 2, group, 4);
    EXPECT_EQ(by_row.left.scales.size(), 6u);
    EXPECT_EQ(by_row.right.scales.size(), 2u);
    EXPECT_EQ(by_row.right.grid, SymmetricGrid(4));
  }
}

class CodedExport : public testing::Test {
 protected:
  CodedExport() : weights_(Normal(6 * 8, 3)), gate_(Normal(4 * 12, 4)), kept_(Normal(5, 5)) {
    CodedMatrix& matrix = coded_["blocks.0.mlp.fc.weight"];
    matrix.matrix = QuantiseRowMaximum(weights_, 6, 6);
    matrix.correction = QuantiseFactors(Normal(6 * 2, 6), Normal(2 * 8, 7), 2, 4, 4);
    coded_["blocks.0.attn.attn_gate_w"].matrix = QuantiseRowMaximum(gate_, 4, 8);
  }

  // What the weights come back as.
  std::vector<float> Expected() const {
    const CodedMatrix& matrix = coded_.at("blocks.0.mlp.fc.weight");
    std::vector<float> back = matrix.matrix.Values();
    const std::vector<float> a = matrix.correction->left.Values(), b = matrix.correction->right.Values();
    for (int i = 0; i < 6; ++i)
      for (int j = 0; j < 8; ++j) back[8 * i + j] += a[2 * i] * b[j] + a[2 * i + 1] * b[8 + j];
    return back;
  }

  CheckpointReader Write() {
    CheckpointWriter writer(folder_ / "weights.ckpt", Kind::kWeights, {});
    writer.Add({"blocks.0.mlp.fc.weight", DType::kFloat32, {6, 8}, {}}, weights_);
    writer.Add({"blocks.0.attn.attn_gate_w", DType::kFloat32, {4, 12}, {}}, gate_);
    writer.Add({"blocks.0.attn_scale", DType::kFloat32, {5}, {}}, kept_);
    writer.Finish({}, {});
    const CheckpointReader weights(folder_ / "weights.ckpt");
    CheckpointWriter out(folder_ / "quantised.ckpt", Kind::kQuantised, {});
    reports_ = ExportWeights(weights, {}, coded_, out);
    out.Finish({}, {});
    return CheckpointReader(folder_ / "quantised.ckpt");
  }

  TemporaryFolder folder_;
  std::vector<float> weights_, gate_, kept_;
  CodedMatrices coded_;
  std::vector<ExportedTensor> reports_;
};

TEST_F(CodedExport, ComesBackFromTheCheckpointAndFromTheArtifact) {
  const CheckpointReader quantised = Write();
  EXPECT_EQ(quantised.tensors().size(), 9u);
  EXPECT_EQ(PartNames(quantised), (std::set<std::string>{"blocks.0.mlp.fc.weight.scale", "blocks.0.mlp.fc.weight.lqA",
                                                         "blocks.0.mlp.fc.weight.lqA.scale", "blocks.0.mlp.fc.weight.lqB",
                                                         "blocks.0.mlp.fc.weight.lqB.scale", "blocks.0.attn.attn_gate_w.scale"}));
  const std::vector<float> expected = Expected();
  const auto check = [&](const CheckpointReader& from) {
    const std::vector<float> back = Dequantise(from, from.Find("blocks.0.mlp.fc.weight.q"));
    for (size_t i = 0; i < back.size(); ++i) EXPECT_NEAR(back[i], expected[i], 1e-6);
    EXPECT_EQ(Dequantise(from, from.Find("blocks.0.attn.attn_gate_w.q")), coded_.at("blocks.0.attn.attn_gate_w").matrix.Values());
    EXPECT_EQ(from.Find("blocks.0.attn_scale").dtype, DType::kFloat16);
  };
  check(quantised);
  const Artifact artifact = PackArtifact(quantised, kShippedLevels);
  EXPECT_EQ(artifact.identity, quantised.identity());
  std::ofstream(folder_ / "model.bin.zst", std::ios::binary) << artifact.bytes;
  check(OpenWeights(folder_ / "model.bin.zst"));
}

TEST_F(CodedExport, ReportsWhatComesBack) {
  Write();
  double squares = 0;
  const std::vector<float> expected = Expected();
  for (size_t i = 0; i < expected.size(); ++i) squares += (expected[i] - weights_[i]) * (expected[i] - weights_[i]);
  ASSERT_EQ(reports_.size(), 3u);
  EXPECT_NEAR(reports_[0].squared_error, squares, 1e-5 * squares);
  EXPECT_EQ(reports_[0].form, "int6");
  EXPECT_EQ(reports_[0].bytes, 48u + 12 + (12 + 2) + (16 + 8));
  EXPECT_EQ(reports_[1].form, "int8");
  EXPECT_FALSE(reports_[2].coded);
}

// Of checkpoints from elsewhere.
TEST_F(CodedExport, RefusesPartsThatDoNotFit) {
  const CheckpointReader good = Write();
  const auto with = [&](const std::string& tensor, const std::function<void(TensorInfo&)>& change) {
    std::string bytes;
    CheckpointWriter writer(&bytes, Kind::kQuantised, {});
    for (TensorInfo info : good.tensors()) {
      const auto data = good.Data(info.name);
      if (info.name == tensor) change(info);
      writer.Add(info, data);
    }
    writer.Finish({}, {});
    const CheckpointReader bad(std::move(bytes), "F");
    try {
      Dequantise(bad, bad.Find("blocks.0.mlp.fc.weight.q"));
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const std::string matrix = "blocks.0.mlp.fc.weight";
  EXPECT_EQ(with("none", [](TensorInfo&) {}), "no error");
  EXPECT_THAT(with(matrix + ".q", [](TensorInfo& info) { info.quantisation->group = 7; }), HasSubstr("are not one for every 7 codes"));
  EXPECT_THAT(with(matrix + ".q", [](TensorInfo& info) { info.quantisation->low_rank_right = ""; }), HasSubstr("has one factor of two"));
  EXPECT_THAT(with(matrix + ".q", [](TensorInfo& info) { info.quantisation->low_rank_left = "gone"; }), HasSubstr("misses tensor gone"));
  EXPECT_THAT(with(matrix + ".lqA", [](TensorInfo& info) { info.shape = {3, 4}; }), HasSubstr("must have as many rows"));
  EXPECT_THAT(with(matrix + ".lqB", [](TensorInfo& info) { info.shape = {4, 4}; }), HasSubstr("must have as many columns"));
  EXPECT_THAT(with(matrix + ".lqB", [&](TensorInfo& info) {
                info.quantisation->low_rank_left = info.quantisation->low_rank_right = matrix + ".q";
              }), HasSubstr("must have no correction of its own"));
}

}  // namespace
}  // namespace fairway
