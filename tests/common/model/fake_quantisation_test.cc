// Late quantisation-aware training: the model sees the very weights that the export will give, and its gradients are
// theirs.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include "common/quantise/quantiser.h"
#include "common/quantise/steps.h"
#include "tests/common/model/engines.h"

namespace fairway {
namespace {

// int5, int6 and (bigram_dim = 16 has no projection, the output layer is int8) all grids; everything is large enough
// for one.
Settings AllGrids(const Options& more = {}) {
  Options options = {{"tie_embeddings", "0"}, {"fp16_keep_name_patterns", "tok_emb"}, {"num_layers", "2"}};
  for (const auto& [name, value] : more) options[name] = value;
  return Shape(options);
}

// Two entries of every row of a matrix at the row's largest magnitude, 1.5 times any other: all quantiles that the clip
// search tries are the maximum, so that it cannot clip.
NamedTensors WithoutOutliers(NamedTensors parameters) {
  for (auto& [name, tensor] : parameters) {
    if (tensor.dim() != 2 || !name.ends_with(".weight")) continue;
    const at::Tensor largest = tensor.abs().amax(1) * 1.5;
    tensor.select(1, 0).copy_(largest);
    tensor.select(1, 1).copy_(-largest);
  }
  return parameters;
}

at::Tensor Exported(const at::Tensor& weight, const Grid& grid) {
  const QuantisedMatrix matrix = QuantiseMatrix({weight.const_data_ptr<float>(), static_cast<size_t>(weight.numel())},
                                                weight.size(0), grid, /*published_quirks=*/false, /*threads=*/1);
  at::Tensor values = weight.clone();
  for (int64_t row = 0; row < weight.size(0); ++row)
    for (int64_t column = 0; column < weight.size(1); ++column)
      values[row][column].fill_(static_cast<float>(matrix.codes[row * weight.size(1) + column]) *
                                HalfToFloat(matrix.scales[row]));
  return values;
}

bool IsMatrixOfTheModel(const std::string& name, const at::Tensor& tensor) {
  return tensor.dim() == 2 && name.ends_with(".weight") && name != "tok_emb.weight" && name != "bigram.embed.weight";
}

// All matrices as they come back from the export. `coded` counts those that have a grid.
NamedTensors Exported(const NamedTensors& parameters, const Settings& settings, int64_t* coded = nullptr) {
  NamedTensors result;
  for (const auto& [name, tensor] : parameters) {
    const auto grid =
        IsMatrixOfTheModel(name, tensor) ? ExportGrid(name, tensor.size(0), tensor.size(1), settings) : std::nullopt;
    if (grid && coded) ++*coded;
    result.emplace_back(name, grid ? Exported(tensor.detach(), *grid) : tensor.detach().clone());
  }
  return result;
}

NamedTensors Copy(const NamedTensors& parameters) {
  NamedTensors copies;
  for (const auto& [name, tensor] : parameters) copies.emplace_back(name, tensor.detach().clone());
  return copies;
}

class FakeQuantisationTest : public testing::Test {
 protected:
  FakeQuantisationTest() { at::set_num_threads(1); }

  // Both models' losses and gradients agree, to w + (grid(w) - w) not being grid(w) to the last bit (2^-24 of a
  // weight). A scale that is not the export's float16 one moves weights by up to 2^-12, a code that is not its code by
  // 2^-5 or 2^-6.
  static void ExpectTrainsOnTheExport(const Settings& settings, const NamedTensors& parameters) {
    int64_t coded = 0;
    const NamedTensors rounded = Exported(parameters, settings, &coded);
    Transformer trained(settings, WithGradients(Copy(parameters)));
    const Transformer exported(settings, WithGradients(Copy(rounded)));
    EXPECT_EQ(trained.SetFakeQuantisation(true), coded);
    const at::Tensor ids = RandomIds(settings, 2, 6), targets = RandomIds(settings, 2, 6, 98);
    const at::Tensor loss = trained.Loss(ids, targets), expected = exported.Loss(ids, targets);
    EXPECT_NEAR(loss.item<float>(), expected.item<float>(), 2e-6);
    EXPECT_EQ(trained.fake_quantisations(), coded);
    loss.backward();
    expected.backward();
    for (size_t i = 0; i < parameters.size(); ++i) {
      const at::Tensor ours = trained.parameters()[i].second.grad(), theirs = exported.parameters()[i].second.grad();
      if (!theirs.defined() || theirs.numel() == 0) continue;
      EXPECT_LE((ours - theirs).abs().max().item<float>(), 1e-4 * theirs.abs().max().item<float>())
          << parameters[i].first;
    }
  }
};

TEST_F(FakeQuantisationTest, ForwardIsTheExportAndTheGradientItsOwn) {
  for (const Options& options : std::vector<Options>{{}, {{"tie_embeddings", "1"}}, {{"bigram_dim", "16"}}}) {
    const Settings settings = AllGrids(options);
    ExpectTrainsOnTheExport(settings, WithoutOutliers(RandomParameters(settings)));
  }
}

// int5 knows no clip search: there the export's weights are trained on whatever they are.
TEST_F(FakeQuantisationTest, IntFiveNeedsNoConditionOnTheWeights) {
  const Settings settings = AllGrids({{"fp16_keep_name_patterns", "tok_emb,attn,bigram,lm_head"}});
  ExpectTrainsOnTheExport(settings, RandomParameters(settings));
}

// Rows whose scale is below the least float16, and rows of zeros, are the export's too.
TEST_F(FakeQuantisationTest, RowsNextToNothing) {
  const Settings settings =
      AllGrids({{"num_layers", "1"}, {"model_dim", "4"}, {"num_heads", "1"}, {"num_kv_heads", "1"}});
  NamedTensors parameters = WithoutOutliers(RandomParameters(settings));
  for (auto& [name, tensor] : parameters) {
    // A norm follows the queries: it makes their smallness disappear and leaves the error of their codes.
    if (name == "blocks.0.attn.c_q.weight") tensor.mul_(1e-6);
    if (name == "blocks.0.mlp.fc.weight") tensor[0].zero_();
  }
  ExpectTrainsOnTheExport(settings, parameters);
}

// Steps that a budget has chosen: what the model sees is what RoundToSteps makes of the weights.
TEST_F(FakeQuantisationTest, FixedStepsAreThoseOfTheExport) {
  const Settings settings = AllGrids({{"quantiser", "rtn"}});
  const NamedTensors parameters = RandomParameters(settings);
  const FixedSteps fixed = SomeSteps(parameters);
  NamedTensors rounded;
  for (const auto& [name, tensor] : parameters) {
    rounded.emplace_back(name, tensor.clone());
    if (!fixed.contains(name)) continue;
    const auto values = [](const at::Tensor& t) {
      return std::vector<float>(t.const_data_ptr<float>(), t.const_data_ptr<float>() + t.numel());
    };
    const Steps steps{values(fixed.at(name).rows), values(fixed.at(name).columns)};
    const RoundedMatrix matrix = RoundToSteps(values(tensor), steps, 1);
    for (int64_t i = 0; i < tensor.numel(); ++i)
      rounded.back().second.mutable_data_ptr<float>()[i] =
          static_cast<float>(matrix.codes[i]) * (steps.rows[i / tensor.size(1)] * steps.columns[i % tensor.size(1)]);
  }
  Transformer model(settings, WithGradients(Copy(parameters)));
  EXPECT_EQ(model.SetFakeQuantisation(true), 0);  // until there are steps
  model.FixSteps(fixed);
  EXPECT_EQ(model.SetFakeQuantisation(true), static_cast<int64_t>(fixed.size()));
  const at::Tensor ids = RandomIds(settings, 2, 6), targets = RandomIds(settings, 2, 6, 98);
  const float loss = model.Loss(ids, targets).item<float>();
  EXPECT_NEAR(loss, Transformer(settings, rounded).Loss(ids, targets).item<float>(), 2e-6);
  EXPECT_GT(std::abs(loss - Transformer(settings, parameters).Loss(ids, targets).item<float>()), 1e-4);
}

TEST_F(FakeQuantisationTest, OffWithoutGradientsAndWhenSwitchedOff) {
  const Settings settings = AllGrids();
  Transformer model(settings, WithGradients(RandomParameters(settings)));
  const at::Tensor ids = RandomIds(settings, 2, 6), targets = RandomIds(settings, 2, 6, 98);
  const auto loss = [&] { return model.Loss(ids, targets).item<float>(); };
  const float plain = loss();
  EXPECT_EQ(model.SetFakeQuantisation(true), 2 * 6 + 2);  // six a block, the bigram projection, the output layer
  EXPECT_NE(loss(), plain);
  EXPECT_EQ(model.fake_quantisations(), 14);
  {
    const at::NoGradGuard validation;
    EXPECT_EQ(loss(), plain);
  }
  EXPECT_EQ(model.fake_quantisations(), 14);
  EXPECT_EQ(model.SetFakeQuantisation(false), 0);
  EXPECT_EQ(loss(), plain);
  EXPECT_EQ(model.fake_quantisations(), 14);
}

TEST_F(FakeQuantisationTest, OnlyMatricesThatAreExportedOnAGrid) {
  const auto matrices = [](const Settings& settings) {
    return Transformer(settings, RandomParameters(settings)).SetFakeQuantisation(true);
  };
  EXPECT_EQ(matrices(AllGrids({{"keep_max_numel", "65536"}})), 0);
  EXPECT_EQ(matrices(AllGrids({{"keep_max_numel", "255"}})), 2 * (1 + 1 + 2) + 1);  // of 16 x 16, 24 x 16 and 16 x 24
  EXPECT_EQ(matrices(AllGrids({{"fp16_keep_name_patterns", "c_k,lm_head"}})), 2 * 5 + 1);
  EXPECT_EQ(matrices(AllGrids({{"bigram_vocab_size", "0"}, {"tie_embeddings", "1"}})), 2 * 6);
  // As published: every linear layer, whatever becomes of it.
  EXPECT_EQ(matrices(AllGrids({{"keep_max_numel", "65536"}, {"published_quirks", "1"}})), 2 * 6 + 2);
}

// Published: q_max = 31 for every matrix, steps of at least 1/31 in float32 (a quirk of pull request 531).
TEST_F(FakeQuantisationTest, WithPublishedQuirksIsThePublishedGrid) {
  const Settings settings = AllGrids({{"published_quirks", "1"}});
  NamedTensors parameters = RandomParameters(settings);
  for (auto& [name, tensor] : parameters)
    if (name.find("attn.c_q") != std::string::npos) tensor.mul_(0.01);  // below the floor
  NamedTensors rounded;
  for (const auto& [name, tensor] : parameters) {
    at::Tensor values = tensor.clone();
    if (IsMatrixOfTheModel(name, tensor)) {
      for (int64_t row = 0; row < tensor.size(0); ++row) {
        const float step = std::max(tensor[row].abs().max().item<float>() / 31.0f, 1.0f / 31.0f);
        for (int64_t column = 0; column < tensor.size(1); ++column)
          values[row][column] =
              std::clamp(std::nearbyint(tensor[row][column].item<float>() / step), -32.0f, 31.0f) * step;
      }
    }
    rounded.emplace_back(name, values);
  }
  Transformer model(settings, WithGradients(parameters));
  model.SetFakeQuantisation(true);
  const at::Tensor ids = RandomIds(settings, 2, 6), targets = RandomIds(settings, 2, 6, 98);
  EXPECT_NEAR(model.Loss(ids, targets).item<float>(), Transformer(settings, rounded).Loss(ids, targets).item<float>(),
              2e-6);
}

}  // namespace
}  // namespace fairway
