#include "common/calibrate/sdclip.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/plan/plan.h"
#include "common/quantise/artifact.h"
#include "common/tokens/shuffled_windows.h"
#include "tests/common/evaluate/tiny_model.h"

namespace fairway {
namespace {

at::Tensor Random(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), at::kFloat);
}

at::Tensor Back(const ScaledCodes& codes, at::IntArrayRef shape) {
  const std::vector<float> values = codes.Values();
  return at::from_blob(const_cast<float*>(values.data()), shape, at::kFloat).clone();
}

// The squared error of the layer's output over inputs of this Hessian.
double OutputError(const at::Tensor& weight, const at::Tensor& back, const at::Tensor& hessian) {
  const at::Tensor error = weight - back;
  return (error.mm(hessian) * error).sum().item<double>();
}

// One thread: others would spin while they wait for each other.
class SdClip : public testing::Test {
 protected:
  SdClip() { at::set_num_threads(1); }
};

TEST_F(SdClip, RoundsToTheNearestWhereInputsAreIndependent) {
  const at::Tensor weight = Random({5, 40}, 1);
  const ScaledCodes codes = QuantiseSdClip(weight, at::eye(40), 6, 4);
  const at::Tensor deviation = weight.std(at::IntArrayRef{1}, true);
  for (int64_t row = 0; row < 5; ++row) {
    const float scale = HalfToFloat(FloatToHalf(deviation[row].item<float>() * 4 / 31));
    EXPECT_EQ(HalfToFloat(codes.scales[row]), scale);
    for (int64_t j = 0; j < 40; ++j)
      EXPECT_EQ(codes.codes[40 * row + j], std::clamp(std::nearbyint(weight[row][j].item<float>() / scale), -31.0f, 31.0f));
  }
}

TEST_F(SdClip, FeedsErrorsBackOverBlocks) {
  const at::Tensor inputs = Random({400, 160}, 2).mm(Random({160, 160}, 3)), hessian = inputs.t().mm(inputs);
  const at::Tensor weight = Random({20, 160}, 4);
  const ScaledCodes with = QuantiseSdClip(weight, hessian, 4, 3), without = QuantiseSdClip(weight, at::eye(160), 4, 3);
  EXPECT_LT(OutputError(weight, Back(with, {20, 160}), hessian), 0.7 * OutputError(weight, Back(without, {20, 160}), hessian));
}

TEST_F(SdClip, CodesColumnsOfNoInputAsZeroAndRowsOfHardlyAnyWeightToComeBackAsZero) {
  at::Tensor hessian = at::eye(8), weight = Random({4, 8}, 5);
  hessian[3].zero_();
  weight[2].zero_();
  weight[1].mul_(1e-9);
  const ScaledCodes codes = QuantiseSdClip(weight, hessian, 6, 12);
  for (int64_t row = 0; row < 4; ++row) EXPECT_EQ(codes.codes[8 * row + 3], 0);
  for (const int64_t row : {1, 2}) {
    EXPECT_EQ(codes.scales[row], 0);
    for (int64_t j = 0; j < 8; ++j) EXPECT_EQ(std::abs(codes.codes[8 * row + j]), row == 2 || j == 3 ? 0 : 31);
  }
  EXPECT_TRUE(std::ranges::any_of(codes.codes, [](int8_t code) { return code != 0; }));
}

TEST_F(SdClip, CorrectsTheLargestErrors) {
  Settings settings;
  settings.keep_max_numel = 10;
  settings.fp16_keep_name_patterns = "";
  settings.embed_bits = 3;
  settings.lqer_top_k = 1;
  settings.lqer_rank = 2;
  settings.lqer_asym_group = 4;
  const NamedTensors weights = {{"tok_emb.weight", Random({30, 8}, 6)},
                                {"blocks.0.mlp.fc.weight", Random({16, 8}, 7)},
                                {"blocks.0.attn.attn_gate_w", Random({4, 12}, 8)},
                                {"blocks.0.attn_scale", Random({8}, 9)}};
  settings.control_tensor_name_patterns += ",attn_gate_w";
  const Hessians hessians = {{"tok_emb.weight", at::eye(8)}, {"blocks.0.mlp.fc.weight", at::eye(8)}};
  CodedMatrices coded = QuantiseSdClip(weights, hessians, settings);
  ASSERT_EQ(coded.size(), 2u);
  ASSERT_TRUE(coded["tok_emb.weight"].correction);
  EXPECT_FALSE(coded["blocks.0.mlp.fc.weight"].correction);
  const LowRankCorrection& correction = *coded["tok_emb.weight"].correction;
  const at::Tensor error = weights[0].second - Back(coded["tok_emb.weight"].matrix, {30, 8});
  EXPECT_LT((error - Back(correction.left, {30, 2}).mm(Back(correction.right, {2, 8}))).norm().item<float>(), error.norm().item<float>());

  settings.gated_attn_quant_gate = true;
  settings.lqer_enabled = false;
  coded = QuantiseSdClip(weights, hessians, settings);
  ASSERT_EQ(coded.size(), 3u);
  EXPECT_FALSE(coded["tok_emb.weight"].correction);
  EXPECT_EQ(coded["blocks.0.attn.attn_gate_w"].matrix.grid, kInt8);
}

TEST_F(SdClip, HessiansAreSumsOverTheDrawnWindowsByBatches) {
  Settings settings = TinySettings();
  settings.keep_max_numel = 100;
  settings.fp16_keep_name_patterns = "";
  settings.train_seq_len = 8;
  settings.grad_micro_steps = 2;
  settings.train_batch_tokens = 48;  // three windows a batch
  settings.gptq_calibration_batches = 2;
  const ScratchFolder folder;
  WriteBytes(folder / "fineweb_train_000000.bin", ShardBytes(RandomTokens(300, settings.vocab_size)));
  const ShardSet train(folder.path(), "train", settings.vocab_size);
  const Transformer tiny = TinyModel(settings);
  int64_t last = 0;
  const Hessians hessians = MeasureHessians(tiny.parameters(), settings, train, [&](int64_t done, int64_t of) {
    EXPECT_GT(done, last);
    EXPECT_EQ(of, 6);
    last = done;
  });
  EXPECT_EQ(last, 6);

  std::map<std::string, at::Tensor> sums;
  Transformer model(settings, tiny.parameters());
  model.Observe([&](const std::string& name, const at::Tensor&, const at::Tensor& x) {
    const at::Tensor rows = x.reshape({-1, x.size(-1)}).to(at::kDouble);
    const at::Tensor product = rows.t().mm(rows);
    sums[name] = sums.contains(name) ? sums[name] + product : product;
  });
  ShuffledWindows windows(train, 8, static_cast<uint64_t>(settings.calibration_seed));
  for (int i = 0; i < 6; ++i) {
    const std::vector<uint16_t> window = windows.Take();
    const std::vector<int64_t> ids(window.begin(), window.end());
    model.Logits(at::from_blob(const_cast<int64_t*>(ids.data()), {1, 8}, at::kLong));
  }
  EXPECT_TRUE(hessians.contains("tok_emb.weight"));
  EXPECT_TRUE(hessians.contains("bigram.embed.weight"));
  for (const auto& [name, hessian] : hessians) {
    if (!sums.contains(name)) {  // a table that is only looked up
      EXPECT_TRUE(IsTable(RoleOf(name)) && at::equal(hessian, at::eye(hessian.size(0)))) << name;
      continue;
    }
    const at::Tensor expected = sums.at(name) / 2;
    EXPECT_LE((hessian.to(at::kDouble) - expected).norm().item<double>(), 1e-6 * expected.norm().item<double>()) << name;
  }
}

}  // namespace
}  // namespace fairway
