// The device's passes on CPU tensors, operations' bodies launched on the host: what is called with what, every index of every
// body and every gradient, against the float64 formula; several lanes against one.
#include "common/cuda/backend.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "common/model/flat.h"
#include "tests/common/cuda/host_device.h"
#include "tests/common/model/engines.h"

namespace fairway::cuda {
namespace {

// float32 against float64, as tests/common/model/cpu_engine_test.cc has it.
constexpr double kValue = 5e-5, kGradient = 2e-4, kNothing = 1e-6;
// bfloat16 products round their operands by up to 2^-9 of them, on the way through some twenty of them: of a gradient's norm,
// where it has so many elements that they do not all cancel; and of a loss. A forgotten term is of the order of 1.
constexpr double kBFloat16 = 0.08;
// A residual stream in bfloat16 rounds some five times more per layer; in a model that is looped, the smallest gradients are up to
// 0.17 apart.
constexpr double kBFloat16Stream = 0.25;
constexpr int64_t kManyElements = 16;

// The same as the passes take it.
struct DeviceBatch : Batch {
  DeviceBatch(const Settings& settings, int64_t B, int64_t T)
      : Batch(settings, B, T), memory(Inputs::Size(settings, {.B = B, .T = T})), inputs(settings, {.B = B, .T = T}, memory.data()) {
    inputs.Fill(settings, SegmentsOf(sequences, T));
  }
  std::vector<int32_t> memory;
  Inputs inputs;
};

Computed Compute(const Settings& settings, const NamedTensors& parameters, const DeviceBatch& batch, int lanes = 1,
                 bool fake_quantise = false, int times = 1, const FixedSteps& steps = {}) {
  // One behind the other, as a trainer has them; engine_test.cc has tensors of their own.
  FlatTensors gradients(FlatLayout(settings), at::kFloat);
  Computed result{.loss = 0, .gradients = gradients.tensors(), .rounded = 0};
  HostDevice device(lanes);
  const auto backend = MakeBackend(settings, parameters, result.gradients, device);
  if (!steps.empty()) backend->FixSteps(steps);
  result.rounded = backend->Prepare(fake_quantise);
  backend->Reserve(batch.inputs.shape, /*training=*/true);
  const double N = static_cast<double>(batch.inputs.N);
  const at::Tensor loss = at::zeros({1}, at::kDouble);
  for (int i = 0; i < times; ++i) backend->AccumulateGradients(batch.inputs, static_cast<float>(1 / N / times), loss);
  backend->FinishGradients();
  result.loss = loss.item<double>() / N / times;
  return result;
}

void ExpectNearInNorm(const NamedTensors& ours, const NamedTensors& theirs, double tolerance) {
  for (size_t i = 0; i < ours.size(); ++i) {
    const at::Tensor expected = theirs[i].second;
    if (!expected.defined() || expected.numel() < kManyElements) continue;
    EXPECT_LE((ours[i].second - expected).norm().item<double>(), tolerance * expected.norm().item<double>() + kNothing)
        << ours[i].first;
  }
}

void ExpectFormula(const Settings& settings, int64_t B, int64_t T, int lanes = 1) {
  SCOPED_TRACE(ShapeOf(settings, B, T));
  const bool float32 = settings.precision == "float32";
  const double in_norm = settings.residual_precision == "float32" ? kBFloat16 : kBFloat16Stream;
  const NamedTensors parameters = RandomParameters(settings);
  const Formula formula(settings, parameters);
  const DeviceBatch batch(settings, B, T);
  const at::Tensor losses = formula.TokenLosses(batch.ids, batch.targets);
  losses.mean().backward();
  const Computed computed = Compute(settings, parameters, batch, lanes);
  EXPECT_NEAR(computed.loss, losses.mean().item<double>(), float32 ? kValue : kBFloat16);
  const NamedTensors expected = FormulaGradients(formula, parameters);
  if (float32) ExpectGradients(computed.gradients, expected, kGradient);
  else ExpectNearInNorm(computed.gradients, expected, in_norm);

  HostDevice device(lanes);
  const auto backend = MakeBackend(settings, parameters, {}, device);
  backend->Prepare(false);
  backend->Reserve(batch.inputs.shape, /*training=*/false);
  for (int64_t first : {int64_t{0}, T / 2, T - 1}) {
    const at::Tensor scored = backend->TokenLosses(batch.inputs, first);
    ASSERT_EQ(scored.sizes(), at::IntArrayRef({B, T - first}));
    EXPECT_LE((scored - losses.narrow(1, first, T - first)).abs().max().item<double>(), float32 ? kValue : kBFloat16) << first;
  }
}

class PassesTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Lanes, PassesTest, testing::Values(1, 3));

TEST_P(PassesTest, EveryOptionAlone) {
  for (const Options& options : OptionsAlone()) ExpectFormula(Shape(options), 2, 7, GetParam());
}

// Heads of several pieces (operation.h), and rows of more than the lanes hold sums for; rotation of whole pieces and of less.
TEST_P(PassesTest, HeadsInPieces) {
  const Options wide{{"num_heads", "2"}, {"num_kv_heads", "1"}, {"model_dim", "32"}, {"num_layers", "4"}, {"xsa_last_n", "2"}};
  for (const Options& more : std::vector<Options>{{},
                                                  {{"rope_dims", "8"}, {"skip_gates_enabled", "1"}},
                                                  {{"sparse_attn_gate_enabled", "1"}, {"gate_window", "5"}, {"parallel_start_layer", "2"}},
                                                  {{"sparse_attn_gate_enabled", "1"}, {"gate_window", "5"}, {"xsa_last_n", "0"}}}) {
    Options all = more;
    all.insert(wide.begin(), wide.end());
    ExpectFormula(Shape(all), 2, 7, GetParam());
  }
}

TEST(DeviceBackend, OptionsInPairs) {
  for (const Options& options : OptionsInPairs()) ExpectFormula(Shape(options), 1, 4);
}

TEST(DeviceBackend, RandomShapes) {
  for (uint64_t seed = 1; seed <= 12; ++seed) ExpectFormula(RandomShape(seed), 1 + seed % 3, 2 + seed % 5);
  ExpectFormula(Shape({{"num_layers", "1"}}), 3, 1);
  ExpectFormula(Shape({{"num_layers", "2"}}), 2, 3);  // the skip's block is the one before
}

TEST(DeviceBackend, BFloat16) {
  ExpectFormula(Shape({{"precision", "bfloat16"}}), 2, 7);
  ExpectFormula(Shape({{"precision", "bfloat16"}, {"tie_embeddings", "0"}, {"xsa_last_n", "3"}}), 2, 7);
  ExpectFormula(Shape({{"precision", "bfloat16"}, {"bigram_dim", "16"}}), 2, 7);
  for (Options options : std::vector<Options>{{{"skip_gates_enabled", "1"}, {"num_layers", "4"}, {"parallel_start_layer", "2"}},
                                              {{"sparse_attn_gate_enabled", "1"}, {"gate_window", "5"}, {"xsa_last_n", "2"}},
                                              {{"smear_gate_enabled", "1"}, {"smear", "0"}, {"bigram_vocab_size", "0"}}}) {
    options["precision"] = "bfloat16";
    ExpectFormula(Shape(options), 2, 7);
  }
}

// That each operation rounds as it should is shown by operations_test.cc; that they are called with what they should be, here.
TEST(DeviceBackend, ResidualStreamInBFloat16) {
  for (Options options : OptionsAlone()) {
    options["precision"] = options["residual_precision"] = "bfloat16";
    ExpectFormula(Shape(options), 2, 7);
  }
}

// More rows than slabs and than a chunk of logits, and table rows of several pieces: of bigrams behind a projection, and with their
// scale.
TEST(DeviceBackend, AgreesWithThePlainCompositionAtLargerShapes) {
  for (const char* bigram_dim : {"6", "32"}) {
    const Settings settings =
        Shape({{"num_heads", "2"}, {"num_kv_heads", "1"}, {"model_dim", "32"}, {"xsa_last_n", "2"}, {"bigram_dim", bigram_dim}});
    SCOPED_TRACE(bigram_dim);
    const NamedTensors parameters = RandomParameters(settings);
    const DeviceBatch batch(settings, 27, 305);
    const Computed computed = Compute(settings, parameters, batch);
    const Computed plain = ComputePlainly(settings, parameters, batch);
    EXPECT_NEAR(computed.loss, plain.loss, kValue);
    ExpectGradients(computed.gradients, plain.gradients, 1e-3);
  }
}

TEST_P(PassesTest, FakeQuantisesAsThePlainCompositionDoes) {
  for (const Options& grid : std::vector<Options>{{{"published_quirks", "0"}}, {{"published_quirks", "1"}}, {{"quantiser", "rtn"}}}) {
    Options options = grid;
    options["tie_embeddings"] = "0";
    const Settings settings = Shape(options);
    const NamedTensors parameters = RandomParameters(settings);
    const FixedSteps steps = settings.quantiser == "rtn" ? SomeSteps(parameters) : FixedSteps();
    const DeviceBatch batch(settings, 2, 30);
    const Computed computed = Compute(settings, parameters, batch, GetParam(), /*fake_quantise=*/true, 1, steps);
    const Computed plain = ComputePlainly(settings, parameters, batch, /*fake_quantise=*/true, steps);
    EXPECT_EQ(computed.rounded, plain.rounded);
    EXPECT_GT(computed.rounded, 0);
    EXPECT_NEAR(computed.loss, plain.loss, kValue);
    ExpectGradients(computed.gradients, plain.gradients, 1e-3);
  }
}

TEST(DeviceBackend, MicroBatchesAddUp) {
  for (const Options& precision : std::vector<Options>{{}, {{"precision", "bfloat16"}}, {{"precision", "bfloat16"}, {"residual_precision", "bfloat16"}}}) {
    const Settings settings = Shape(precision);
    const NamedTensors parameters = RandomParameters(settings);
    const DeviceBatch batch(settings, 2, 9);
    const Computed once = Compute(settings, parameters, batch), twice = Compute(settings, parameters, batch, 1, false, 2);
    EXPECT_NEAR(once.loss, twice.loss, 1e-9);
    ExpectNearInNorm(twice.gradients, once.gradients, 1e-5);
  }
}

}  // namespace
}  // namespace fairway::cuda
