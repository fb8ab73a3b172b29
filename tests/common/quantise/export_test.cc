#include "common/quantise/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "common/base/error.h"
#include "common/quantise/artifact.h"
#include "tests/common/checkpoint/temporary_folder.h"

namespace fairway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct Weight {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

std::vector<float> Normal(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.1f);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

class Export : public testing::Test {
 protected:
  Export() { settings_.keep_max_numel = 20; }

  CheckpointReader Write(const std::vector<Weight>& weights) {
    CheckpointWriter writer(folder_ / "weights.ckpt", Kind::kWeights, settings_.Select(scope::kQuantise));
    for (const Weight& weight : weights) {
      writer.Add({.name = weight.name, .dtype = DType::kFloat32, .shape = weight.shape}, weight.values);
    }
    writer.Finish({}, {});
    return CheckpointReader(folder_ / "weights.ckpt");
  }

  CheckpointReader Quantise(const CheckpointReader& weights) {
    CheckpointWriter writer(folder_ / "quantised.ckpt", Kind::kQuantised, settings_.Select(scope::kQuantise));
    tensors_ = ExportWeights(weights, settings_, writer);
    writer.Finish({}, {});
    return CheckpointReader(folder_ / "quantised.ckpt");
  }

  std::string ErrorOf(const std::vector<Weight>& weights) {
    try {
      Quantise(Write(weights));
    } catch (const InputError& error) {
      return error.what();
    }
    return "no error";
  }

  Settings settings_;
  TemporaryFolder folder_;
  std::vector<ExportedTensor> tensors_;
};

TEST_F(Export, WritesCodesScalesAndWhatIsKept) {
  const CheckpointReader quantised = Quantise(Write({{"blocks.0.attn.c_q.weight", {4, 8}, Normal(32, 1)},
                                                     {"tok_emb.weight", {8, 4}, Normal(32, 2)},
                                                     {"skip_weights", {3, 8}, Normal(24, 3)},
                                                     {"smear.gate", {5}, Normal(5, 4)},
                                                     {"bigram.scale", {}, {0.05f}},
                                                     {"a.vector", {40}, Normal(40, 5)}}));
  std::vector<std::string> names;
  for (const TensorInfo& info : quantised.tensors()) names.push_back(info.name);
  EXPECT_THAT(names, ElementsAre("blocks.0.attn.c_q.weight.q", "blocks.0.attn.c_q.weight.scale", "tok_emb.weight",
                                 "skip_weights", "smear.gate", "bigram.scale", "a.vector"));
  const TensorInfo& codes = quantised.Find("blocks.0.attn.c_q.weight.q");
  EXPECT_EQ(codes.dtype, DType::kInt8);
  EXPECT_EQ(codes.quantisation, (Quantisation{"int6", -32, 31, "blocks.0.attn.c_q.weight.scale"}));
  EXPECT_EQ(quantised.Find("blocks.0.attn.c_q.weight.scale").dtype, DType::kFloat16);
  EXPECT_THAT(quantised.Find("blocks.0.attn.c_q.weight.scale").shape, ElementsAre(4));
  EXPECT_EQ(quantised.Find("tok_emb.weight").dtype, DType::kFloat16);
  EXPECT_EQ(quantised.Find("skip_weights").dtype, DType::kFloat32);
  EXPECT_EQ(quantised.Find("smear.gate").dtype, DType::kFloat16);
  EXPECT_EQ(quantised.Find("a.vector").dtype, DType::kFloat16);  // no rows, so no grid
}

TEST_F(Export, ReportsWhatComesBack) {
  const std::vector<float> values = Normal(30 * 40, 6);
  const CheckpointReader quantised = Quantise(Write(
      {{"blocks.0.mlp.fc.weight", {30, 40}, values}, {"tok_emb.weight", {30, 40}, values}, {"empty", {0, 4}, {}}}));
  ASSERT_EQ(tensors_.size(), 3u);
  const auto squared_error = [&](const std::vector<float>& back) {
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) sum += std::pow(static_cast<double>(back[i]) - values[i], 2);
    return sum;
  };
  const std::vector<float> back = Dequantise(quantised, quantised.Find("blocks.0.mlp.fc.weight.q"));
  EXPECT_NEAR(tensors_[0].squared_error, squared_error(back), 1e-12 * tensors_[0].squared_error);
  EXPECT_NEAR(tensors_[1].squared_error, squared_error(quantised.Floats("tok_emb.weight")),
              1e-12 * tensors_[1].squared_error);
  EXPECT_EQ(tensors_[0].bytes, 1200u + 60u);
  EXPECT_EQ(tensors_[1].bytes, 2400u);

  const ExportedTensor total = Total(tensors_);
  EXPECT_EQ(total.numel, 2400);
  EXPECT_EQ(total.bytes, 3660u);
  EXPECT_DOUBLE_EQ(total.entropy_bits, tensors_[0].entropy_bits);  // kept tensors have no codes
  EXPECT_DOUBLE_EQ(total.relative_error(), std::sqrt((tensors_[0].squared_error + tensors_[1].squared_error) /
                                                     (tensors_[0].squared_norm + tensors_[1].squared_norm)));
}

// Codes times scales and factors are the weights, to half a step, and are what was reported.
TEST_F(Export, OnStepsComesBackByRowAndColumn) {
  const std::vector<float> values = Normal(30 * 40, 10);
  const CheckpointReader weights = Write({{"blocks.0.mlp.fc.weight", {30, 40}, values}, {"blocks.0.mlp.proj.weight", {30, 40}, values},
                                          {"smear.gate", {5}, Normal(5, 4)}});
  Calibration calibration;
  Cost& cost = calibration.costs["blocks.0.mlp.fc.weight"];
  cost = {1, std::vector<double>(30, 1), std::vector<double>(40, 1)};
  cost.columns[3] = 1.0 / 256;
  constexpr double kStep = 0.02;
  CheckpointWriter writer(folder_ / "quantised.ckpt", Kind::kQuantised, settings_.Select(scope::kQuantise));
  const std::vector<ExportedTensor> tensors = ExportWeights(weights, settings_, calibration, kStep, writer);
  writer.Finish({}, {});
  const CheckpointReader quantised(folder_ / "quantised.ckpt");
  EXPECT_FALSE(quantised.Has("blocks.0.mlp.proj.weight.column"));  // columns alike
  EXPECT_THAT(ScaleNames(quantised), testing::UnorderedElementsAre("blocks.0.mlp.fc.weight.scale", "blocks.0.mlp.fc.weight.column",
                                                                   "blocks.0.mlp.proj.weight.scale"));
  EXPECT_EQ(quantised.Find("blocks.0.mlp.fc.weight.q").quantisation,
            (Quantisation{"int8", -127, 127, "blocks.0.mlp.fc.weight.scale", "blocks.0.mlp.fc.weight.column"}));
  quantised.Verify();
  for (const ExportedTensor& tensor : tensors) {
    if (!tensor.coded) continue;
    const std::vector<float> back = Dequantise(quantised, quantised.Find(tensor.name + ".q"));
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const bool coarse = i % 40 == 3 && tensor.name == "blocks.0.mlp.fc.weight";
      EXPECT_LE(std::fabs(back[i] - values[i]), 0.5 * 1.25 * kStep * (coarse ? 4 : 1)) << i;
      sum += std::pow(static_cast<double>(back[i]) - values[i], 2);
    }
    EXPECT_NEAR(tensor.squared_error, sum, 1e-6 * sum);
  }
  EXPECT_GT(tensors[0].squared_error, tensors[1].squared_error);
}

TEST_F(Export, DoesNotDependOnTheNumberOfThreads) {
  const CheckpointReader weights = Write({{"blocks.0.attn.c_q.weight", {33, 17}, Normal(33 * 17, 7)},
                                          {"blocks.0.mlp.fc.weight", {5, 40}, Normal(200, 8)}});
  settings_.threads = 1;
  const std::string one = Quantise(weights).identity();
  settings_.threads = 3;
  EXPECT_EQ(Quantise(weights).identity(), one);
}

TEST_F(Export, RefusesWhatCannotBeStored) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
  std::vector<float> values = Normal(30, 9);
  for (const float bad : {kNan, kInf, -kInf}) {
    values[17] = bad;
    EXPECT_THAT(ErrorOf({{"blocks.0.attn.c_q.weight", {3, 10}, values}}),
                HasSubstr("weights.ckpt: tensor blocks.0.attn.c_q.weight: element 17 is not a finite number"));
    EXPECT_THAT(ErrorOf({{"smear.gate", {30}, values}}),
                HasSubstr("tensor smear.gate: element 17 is not a finite number"));
  }
  // float16 ends at 65,504.
  values[17] = 1e5f;
  EXPECT_THAT(ErrorOf({{"tok_emb.weight", {3, 10}, values}}),
              HasSubstr("tensor tok_emb.weight: element 17 (100000) is too large for float16"));
  EXPECT_EQ(ErrorOf({{"blocks.0.mlp.fc.weight", {3, 10}, values}}), "no error");
  values[17] = 15 * 66000.0f;
  EXPECT_THAT(ErrorOf({{"blocks.0.mlp.fc.weight", {3, 10}, values}}),
              HasSubstr("tensor blocks.0.mlp.fc.weight: row 1 is too large for a float16 scale"));
}

TEST_F(Export, DequantiseRefusesCodesThatDoNotFit) {
  const auto error_of = [&](const TensorInfo& codes, const std::vector<int8_t>& values, int64_t scales) -> std::string {
    {
      CheckpointWriter writer(folder_ / "bad.ckpt", Kind::kQuantised, {});
      writer.Add(codes, values);
      writer.Add({.name = "s", .dtype = DType::kFloat16, .shape = {scales}}, std::vector<uint16_t>(scales));
      writer.Finish({}, {});
    }
    const CheckpointReader reader(folder_ / "bad.ckpt");
    try {
      Dequantise(reader, reader.Find("c"));
    } catch (const InputError& error) {
      return error.what();
    }
    return "no error";
  };
  const Quantisation int5{"int5", -16, 15, "s"};
  const TensorInfo codes{"c", DType::kInt8, {2, 2}, int5};
  EXPECT_EQ(error_of(codes, {-16, 15, 0, 1}, 2), "no error");
  EXPECT_THAT(error_of(codes, {0, 0, 16, 1}, 2), HasSubstr("tensor c: code 16 is outside int5, -16 to 15"));
  EXPECT_THAT(error_of(codes, {0, -17, 1, 1}, 2), HasSubstr("tensor c: code -17 is outside int5, -16 to 15"));
  EXPECT_THAT(error_of(codes, {0, 0, 0, 0}, 3), HasSubstr("tensor c: its scales s are not one per row"));
  EXPECT_THAT(error_of({"c", DType::kInt8, {4}, int5}, {0, 0, 0, 0}, 2), HasSubstr("is no int8 matrix of codes"));
  EXPECT_THAT(error_of({"c", DType::kInt8, {2, 2}, {}}, {0, 0, 0, 0}, 2), HasSubstr("is no int8 matrix of codes"));
  EXPECT_THAT(error_of({"c", DType::kInt8, {2, 2}, Quantisation{"int5", -16, 15, "t"}}, {0, 0, 0, 0}, 2),
              HasSubstr("misses tensor t"));
  EXPECT_THAT(error_of({"c", DType::kInt8, {2, 2}, Quantisation{"int5", -16, 15, "s", "t"}}, {0, 0, 0, 0}, 2),
              HasSubstr("misses tensor t"));
  EXPECT_THAT(error_of({"c", DType::kInt8, {2, 1}, Quantisation{"int5", -16, 15, "s", "s"}}, {0, 0}, 2),
              HasSubstr("its factors s are not one per column"));
}

}  // namespace
}  // namespace fairway
