// CpuEngine against the formula in float64 at small shapes, and against the plain composition at larger ones: losses,
// every gradient, fake quantisation, chunks, threads, scored positions.
#include "common/model/cpu_engine.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "tests/common/model/engines.h"

namespace fairway {
namespace {

// As in transformer_test.cc: float32 against float64, and the reasons.
constexpr double kValue = 5e-5;
constexpr double kGradient = 2e-4;

Computed Compute(const Settings& settings, const NamedTensors& parameters, const Batch& batch, double share = 1,
                 bool fake_quantise = false, const FixedSteps& steps = {}) {
  Computed result{.loss = 0, .gradients = ZerosLike(parameters), .rounded = 0};
  CpuEngine model(settings, parameters, result.gradients);
  if (!steps.empty()) model.FixSteps(steps);
  result.rounded = model.Prepare(fake_quantise);
  model.AccumulateGradients(batch.sequences, batch.ids.size(1), share);
  result.loss = model.Losses().at(0);
  model.FinishGradients();
  return result;
}

// By one thread and by three: most of the time goes into the formula.
void ExpectFormula(const Settings& settings, int64_t B, int64_t T) {
  SCOPED_TRACE(ShapeOf(settings, B, T));
  const NamedTensors parameters = RandomParameters(settings);
  const Formula formula(settings, parameters);
  const Batch batch(settings, B, T);
  at::set_num_threads(1);
  const at::Tensor losses = formula.TokenLosses(batch.ids, batch.targets);
  losses.mean().backward();
  for (const int threads : {1, 3}) {
    SCOPED_TRACE(threads);
    at::set_num_threads(threads);
    const Computed computed = Compute(settings, parameters, batch);
    EXPECT_NEAR(computed.loss, losses.mean().item<double>(), kValue);
    ExpectGradients(computed.gradients, FormulaGradients(formula, parameters), kGradient);

    CpuEngine model(settings, parameters);
    for (int64_t first : {int64_t{0}, T / 2, T - 1}) {
      std::vector<float> scored(B * (T - first));
      model.TokenLosses(batch.sequences, T, first, scored.data());
      for (int64_t b = 0; b < B; ++b)
        for (int64_t t = first; t < T; ++t)
          EXPECT_NEAR(scored[b * (T - first) + t - first], losses[b][t].item<double>(), kValue) << b << " " << t;
    }
  }
}

TEST(CpuEngineFormula, EveryOptionAlone) {
  for (const Options& options : OptionsAlone()) ExpectFormula(Shape(options), 2, 7);
  ExpectFormula(Shape({{"vocab_size", "65536"}, {"num_layers", "1"}, {"bigram_vocab_size", "999"}}), 1, 6);
}

TEST(CpuEngineFormula, OptionsInPairs) {
  for (const Options& options : OptionsInPairs()) ExpectFormula(Shape(options), 1, 4);
}

class CpuEngineTest : public testing::TestWithParam<int> {
 protected:
  CpuEngineTest() { at::set_num_threads(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Threads, CpuEngineTest, testing::Values(1, 3));

// Segments of several lengths, in chunks of one, of some and of all: the same as the plain composition of one row with their starts.
TEST_P(CpuEngineTest, SegmentsOfARow) {
  for (Options options : OptionsAlone()) {
    // The hashed bigram and the smear of every position see nothing before a segment; the smear gate does.
    if (!options.contains("smear_gate_enabled")) options["smear"] = options["bigram_vocab_size"] = "0";
    for (const char* at_a_time : {"0", "1", "2"}) {
      options["micro_batch_seqs"] = at_a_time;
      const Settings settings = Shape(options);
      SCOPED_TRACE(ShapeOf(settings, 1, 12) + " at a time " + at_a_time);
      const NamedTensors parameters = RandomParameters(settings);
      const Batch batch(settings, 1, 12);
      const std::vector<int64_t> starts{0, 5, 6, 10};
      std::vector<Segment> segments;
      for (size_t i = 0; i < starts.size(); ++i)
        segments.push_back({.tokens = batch.tokens.data() + starts[i],
                            .length = (i + 1 < starts.size() ? starts[i + 1] : 12) - starts[i],
                            .position = starts[i],
                            .continues = i > 0});
      Transformer plain(settings, WithGradients(parameters));
      const at::Tensor losses = plain.TokenLosses(batch.ids, batch.targets, starts);
      losses.mean().backward();
      const NamedTensors gradients = ZerosLike(parameters);
      CpuEngine model(settings, parameters, gradients);
      model.AccumulateGradients(segments, 1);
      model.FinishGradients();
      EXPECT_NEAR(model.Losses().at(0), losses.mean().item<double>(), kValue);
      NamedTensors expected;
      for (const auto& [name, tensor] : plain.parameters()) expected.emplace_back(name, tensor.grad());
      ExpectGradients(gradients, expected, kGradient);
      std::vector<float> scored(12);
      model.TokenLosses(segments, 0, scored.data());
      for (int64_t t = 0; t < 12; ++t) EXPECT_NEAR(scored[t], losses[0][t].item<double>(), kValue) << t;
    }
  }
}

TEST_P(CpuEngineTest, LoopsCanBeSwitchedOff) {
  const Settings settings = Shape({{"num_loops", "2"}, {"loop_start", "1"}, {"loop_end", "1"}});
  const NamedTensors parameters = RandomParameters(settings), gradients = ZerosLike(parameters);
  const Batch batch(settings, 2, 7);
  Transformer plain(settings, parameters);
  CpuEngine model(settings, parameters, gradients);
  for (const bool looped : {true, false, true}) {
    plain.SetLooped(looped);
    model.SetLooped(looped);
    model.Prepare(/*fake_quantise=*/false);
    model.AccumulateGradients(batch.sequences, 7, 1);
    EXPECT_NEAR(model.Losses().at(0), plain.Loss(batch.ids, batch.targets).item<double>(), kValue);
  }
}

TEST(CpuEngineFormula, RandomShapes) {
  for (uint64_t seed = 1; seed <= 12; ++seed) ExpectFormula(RandomShape(seed), 1 + seed % 3, 2 + seed % 5);
  ExpectFormula(Shape({{"num_layers", "1"}}), 3, 1);
}

// Shapes that fill several blocks of attention, rows of logits and chunks, unevenly; float32 against float32, so the noise of
// both sides: sums of some hundred terms more than at the small shapes.
TEST_P(CpuEngineTest, AgreesWithThePlainCompositionAtLargerShapes) {
  for (const auto& [heads, kv_heads, width, T] : std::vector<std::array<int64_t, 4>>{{4, 2, 96, 301}, {2, 1, 128, 530}, {3, 3, 120, 65}}) {
    const Settings settings = Shape({{"num_heads", std::to_string(heads)}, {"num_kv_heads", std::to_string(kv_heads)},
                                     {"model_dim", std::to_string(width)}, {"num_layers", "3"}, {"vocab_size", "300"},
                                     {"xsa_last_n", "2"}, {"mlp_mult", "3"}});
    const NamedTensors parameters = RandomParameters(settings);
    const Batch batch(settings, 5, T);
    const Computed computed = Compute(settings, parameters, batch);
    const Computed plain = ComputePlainly(settings, parameters, batch);
    EXPECT_NEAR(computed.loss, plain.loss, kValue);
    ExpectGradients(computed.gradients, plain.gradients, 1e-3);
  }
}

// bfloat16 against float64. How far roundings carry depends on the shape; what they may do is twice what they do to the plain
// composition in bfloat16, and a little where that one is lucky. Losses are held to a unit of 2^-7 of themselves.
TEST_P(CpuEngineTest, BFloat16StaysWithinItsRoundings) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    Settings settings = RandomShape(seed);
    settings.Set("precision", "bfloat16", Origin::kCommandLine, "test");
    if (seed % 2 == 0) settings.Set("vocab_size", "25", Origin::kCommandLine, "test");  // rows that end within a word
    const NamedTensors parameters = RandomParameters(settings);
    const Formula formula(settings, parameters);
    const int64_t B = 1 + static_cast<int64_t>(seed % 3), T = 17;
    const Batch batch(settings, B, T);
    SCOPED_TRACE(ShapeOf(settings, B, T));
    const at::Tensor losses = formula.TokenLosses(batch.ids, batch.targets);
    losses.mean().backward();
    const Computed computed = Compute(settings, parameters, batch);
    const Transformer plain(settings, WithGradients(RandomParameters(settings)));
    plain.Loss(batch.ids, batch.targets).backward();
    EXPECT_NEAR(computed.loss, losses.mean().item<double>(), 0x1p-7 * losses.mean().item<double>());
    for (const auto& [name, gradient] : computed.gradients) {
      const at::Tensor expected = formula.parameter(name).grad();
      if (!expected.defined() || expected.numel() == 0) continue;
      const double apart = (gradient - expected).norm().item<double>(), norm = expected.norm().item<double>();
      const double of_plain = (plain.parameter(name).grad() - expected).norm().item<double>();
      EXPECT_LE(apart, 2 * of_plain + 0.1 * norm + 1e-4) << name << " of norm " << norm << ", seed " << seed;
      EXPECT_GT(apart, 1e-5 * norm) << name << " was not computed in bfloat16";
    }
    CpuEngine model(settings, parameters);
    std::vector<float> scored(B * 5);
    model.TokenLosses(batch.sequences, T, T - 5, scored.data());
    for (int64_t b = 0; b < B; ++b)
      for (int64_t t = 0; t < 5; ++t)
        EXPECT_NEAR(scored[b * 5 + t], losses[b][T - 5 + t].item<double>(), 0.1) << "seed " << seed;
  }
}

TEST_P(CpuEngineTest, ChunksAddUp) {
  const NamedTensors parameters = RandomParameters(Shape({}));
  const Batch batch(Shape({}), 5, 9);
  const Computed whole = Compute(Shape({{"micro_batch_seqs", "5"}}), parameters, batch, 0.5);
  for (const char* at_a_time : {"1", "2", "4"}) {
    const Computed parts = Compute(Shape({{"micro_batch_seqs", at_a_time}}), parameters, batch, 0.5);
    EXPECT_NEAR(parts.loss, whole.loss, kValue);
    ExpectGradients(parts.gradients, whole.gradients, 1e-5);
  }
}

TEST_P(CpuEngineTest, TheSameThreadsGiveTheSameBits) {
  const Settings settings = Shape({{"model_dim", "64"}, {"vocab_size", "100"}});
  const NamedTensors parameters = RandomParameters(settings);
  const Batch batch(settings, 3, 120);
  const Computed once = Compute(settings, parameters, batch), again = Compute(settings, parameters, batch);
  EXPECT_EQ(once.loss, again.loss);
  for (size_t i = 0; i < parameters.size(); ++i)
    EXPECT_TRUE(once.gradients[i].second.equal(again.gradients[i].second)) << once.gradients[i].first;
}

// The grids of every class of matrix, on and off, published and not.
TEST_P(CpuEngineTest, FakeQuantisesAsThePlainCompositionDoes) {
  for (const Options& grid : std::vector<Options>{{{"published_quirks", "0"}}, {{"published_quirks", "1"}}, {{"quantiser", "rtn"}}}) {
    Options options = grid;
    options["tie_embeddings"] = "0";
    const Settings settings = Shape(options);
    const NamedTensors parameters = RandomParameters(settings);
    const FixedSteps steps = settings.quantiser == "rtn" ? SomeSteps(parameters) : FixedSteps();
    const Batch batch(settings, 2, 30);
    const Computed computed = Compute(settings, parameters, batch, 1, /*fake_quantise=*/true, steps);
    const Computed plain = ComputePlainly(settings, parameters, batch, /*fake_quantise=*/true, steps);
    EXPECT_EQ(computed.rounded, plain.rounded);
    EXPECT_GT(computed.rounded, 0);
    EXPECT_NEAR(computed.loss, plain.loss, kValue);
    ExpectGradients(computed.gradients, plain.gradients, 1e-3);
  }
}

// The last call of a step reports each block, from the last to the first, when nothing is added to its matrices' gradients any
// more; in the end all are, bit for bit, what FinishGradients makes of them. A step whose last micro-batch reports layers as they
// are done, beside one that is finished in the end: every option, in chunks and not.
TEST_P(CpuEngineTest, StreamedGradientsAreThoseOfTheWholeStep) {
  // On several threads what differs is who finishes which rows: of scaled matrices and of others.
  const bool all = GetParam() == 1;
  for (Options options : all ? OptionsAlone() : std::vector<Options>{{}, {{"ln_scale", "1"}}}) {
    for (const char* at_a_time : {"0", "1"}) {
      options["micro_batch_seqs"] = at_a_time;
      const Settings settings = Shape(options);
      SCOPED_TRACE(ShapeOf(settings, 2, 9) + " at a time " + at_a_time);
      const NamedTensors parameters = RandomParameters(settings);
      const Batch first(settings, 2, 9), second(settings, 2, 9, /*seed=*/5);
      NamedTensors whole = ZerosLike(parameters), streamed = ZerosLike(parameters);
      CpuEngine finished(settings, parameters, whole), telling(settings, parameters, streamed);
      for (CpuEngine* model : {&finished, &telling}) {
        model->Prepare(/*fake_quantise=*/false);
        model->AccumulateGradients(first.sequences, 9, 0.5);
      }
      finished.AccumulateGradients(second.sequences, 9, 0.5);
      finished.FinishGradients();
      std::vector<int64_t> layers;
      telling.AccumulateLastGradients(second.sequences, 9, 0.5, [&](int64_t layer) { layers.push_back(layer); });
      EXPECT_FALSE(layers.empty());
      EXPECT_EQ(telling.Losses(), finished.Losses());
      ExpectGradients(streamed, whole, 1e-6);
    }
  }
}

TEST_P(CpuEngineTest, TellsOfBlocksAsTheirGradientsAreDone) {
  for (Options options : OptionsAlone()) {
    options["micro_batch_seqs"] = "1";
    const Settings settings = Shape(options);
    SCOPED_TRACE(ShapeOf(settings, 3, 9));
    const NamedTensors parameters = RandomParameters(settings);
    const Batch batch(settings, 3, 9);
    for (const bool fake_quantise : {false, true}) {
      const Computed expected = Compute(settings, parameters, batch, 1, fake_quantise);
      const NamedTensors gradients = ZerosLike(parameters);
      CpuEngine model(settings, parameters, gradients);
      model.Prepare(fake_quantise);
      std::vector<int64_t> blocks, all;
      for (int64_t i = settings.num_layers; i-- > 0;) all.push_back(i);
      NamedTensors when_told;
      model.AccumulateLastGradients(batch.sequences, 9, 1, [&](int64_t block) {
        blocks.push_back(block);
        for (const auto& [name, gradient] : gradients)
          if (name.starts_with("blocks." + std::to_string(block) + ".") && name.ends_with(".weight"))
            when_told.emplace_back(name, gradient.clone());
      });
      EXPECT_EQ(blocks, all);
      EXPECT_EQ(when_told.size(), all.size() * 6 + (settings.value_embed_every > 0 ? all.size() / settings.value_embed_every : 0));
      for (const auto& [name, gradient] : when_told)
        for (const auto& [other, final] : gradients) EXPECT_TRUE(other != name || gradient.equal(final)) << name;
      for (size_t i = 0; i < gradients.size(); ++i)
        EXPECT_TRUE(gradients[i].second.equal(expected.gradients[i].second)) << gradients[i].first;
    }
  }
}

TEST_P(CpuEngineTest, TheProfileCountsEveryOperation) {
  const Settings settings = Shape({});
  const NamedTensors parameters = RandomParameters(settings), gradients = ZerosLike(parameters);
  const Batch batch(settings, 2, 9);
  CpuEngine model(settings, parameters, gradients);
  StepProfile profile;
  model.SetProfile(&profile);
  model.Prepare(/*fake_quantise=*/false);
  model.AccumulateGradients(batch.sequences, 9, 1);
  model.FinishGradients();
  // The last ones are the optimiser's.
  for (int i = 0; i < StepProfile::kClip; ++i) EXPECT_GT(profile.seconds[i], 0) << StepProfile::kNames[i];
}

}  // namespace
}  // namespace fairway
