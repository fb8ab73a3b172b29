// Transformer against the formula written out, value by value and gradient by gradient.
#include "common/model/transformer.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/common/model/engines.h"

namespace fairway {
namespace {

// Float32 against float64. Activations are of the order of ten, up to five blocks of some dozen roundings each (2^-24,
// relative) stand between an id and its logit, and a norm of a head of two numbers amplifies what comes in by as much
// as it makes them larger. A wrong formula misses by 1e-2 and more.
constexpr double kValue = 5e-5;
constexpr double kGradient = 2e-4;  // relative to the largest entry of its tensor
constexpr double kNothing = 1e-6;   // where terms of order one cancel

class TransformerTest : public testing::Test {
 protected:
  TransformerTest() { at::set_num_threads(1); }  // handing such work to a second one takes longer than doing it

  static void ExpectFormula(const Settings& settings, int64_t B, int64_t T) {
    SCOPED_TRACE(ShapeOf(settings, B, T));
    const NamedTensors parameters = RandomParameters(settings);
    const Formula formula(settings, parameters);
    const Transformer model(settings, WithGradients(parameters));
    const at::Tensor ids = RandomIds(settings, B, T), targets = RandomIds(settings, B, T, 99);

    const at::Tensor logits = model.Logits(ids), expected = formula.Logits(ids);
    ASSERT_EQ(logits.sizes(), (std::vector<int64_t>{B, T, settings.vocab_size}));
    EXPECT_LE((logits - expected).abs().max().item<double>(), kValue);

    const at::Tensor losses = model.TokenLosses(ids, targets), expected_losses = formula.TokenLosses(ids, targets);
    ASSERT_EQ(losses.sizes(), targets.sizes());
    EXPECT_EQ(losses.scalar_type(), at::kFloat);
    EXPECT_LE((losses - expected_losses).abs().max().item<double>(), kValue);

    const at::Tensor loss = model.Loss(ids, targets), expected_loss = expected_losses.mean();
    EXPECT_EQ(loss.dim(), 0);
    EXPECT_NEAR(loss.item<double>(), expected_loss.item<double>(), kValue);
    loss.backward();
    expected_loss.backward();
    for (const auto& [name, tensor] : parameters) {
      const at::Tensor theirs = formula.parameter(name).grad(), ours = tensor.grad();
      if (!theirs.defined() || theirs.numel() == 0) {
        EXPECT_TRUE(!ours.defined() || ours.numel() == 0 || ours.abs().max().item<double>() == 0) << name;
        continue;
      }
      ASSERT_TRUE(ours.defined()) << name;
      const double largest = theirs.abs().max().item<double>();
      EXPECT_LE((ours - theirs).abs().max().item<double>(), kGradient * largest + kNothing)
          << name << " of up to " << largest;
    }
  }
};

TEST_F(TransformerTest, EveryOptionAlone) {
  for (const Options& options : OptionsAlone()) ExpectFormula(Shape(options), 2, 7);
}

TEST_F(TransformerTest, OptionsInPairs) {
  for (const Options& options : OptionsInPairs()) ExpectFormula(Shape(options), 1, 4);
}

// The list that drives the tests of every engine has every setting of the model that is no size.
TEST(EveryOption, HasEverySettingOfTheModel) {
  std::set<std::string> listed{"vocab_size", "num_layers", "model_dim", "num_heads", "num_kv_heads", "mlp_mult", "rope_base", "logit_softcap"};
  for (const Options& option : EveryOption())
    for (const auto& [name, value] : option) listed.insert(name);
  for (const SettingInfo& info : SettingTable())
    EXPECT_TRUE(!(info.scopes & scope::kModel) || listed.contains(std::string(info.name))) << info.name;
}

// Without loops in its passes a model is the same as one that has none.
TEST_F(TransformerTest, LoopsCanBeSwitchedOff) {
  const Settings settings = Shape({{"num_loops", "2"}, {"loop_start", "1"}, {"loop_end", "1"}});
  const NamedTensors parameters = RandomParameters(settings);
  Transformer model(settings, parameters);
  Formula formula(settings, parameters);
  const at::Tensor ids = RandomIds(settings, 1, 5);
  const at::Tensor looped = model.Logits(ids);
  model.SetLooped(false);
  formula.looped = false;
  EXPECT_LE((model.Logits(ids) - formula.Logits(ids)).abs().max().item<double>(), kValue);
  EXPECT_GT((model.Logits(ids) - looped).abs().max().item<double>(), 0.01);
}

// Attention stays inside a segment; the smear gate looks across its border, except at a document's start.
TEST_F(TransformerTest, Segments) {
  for (const Options& options : std::vector<Options>{{}, {{"smear_gate_enabled", "1"}, {"smear", "0"}, {"bigram_vocab_size", "0"}, {"gate_window", "5"}}}) {
    const Settings settings = Shape(options);
    const NamedTensors parameters = RandomParameters(settings);
    const Transformer model(settings, parameters);
    Formula formula(settings, parameters);
    formula.first_seen = [](int64_t t) { return t < 3 ? 0 : t < 4 ? 3 : 4; };
    const at::Tensor ids = RandomIds(settings, 1, 9);
    EXPECT_LE((model.Logits(ids, {0, 3, 4}) - formula.Logits(ids)).abs().max().item<double>(), kValue);
  }
}

TEST_F(TransformerTest, LayersHeadsAndGroups) {
  for (const char* layers : {"1", "2", "4", "5"}) ExpectFormula(Shape({{"num_layers", layers}}), 1, 5);
  for (const char* heads : {"1", "2", "4"})
    ExpectFormula(Shape({{"num_kv_heads", heads}, {"xsa_last_n", "2"}}), 2, 5);  // groups of 4, 2 and 1
  ExpectFormula(Shape({{"num_heads", "1"}, {"num_kv_heads", "1"}, {"mlp_mult", "0.1"}}), 2, 5);
}

TEST_F(TransformerTest, OnePosition) {
  ExpectFormula(Shape({}), 3, 1);
  ExpectFormula(Shape({{"reset_at_bos", "1"}, {"num_layers", "1"}}), 1, 1);
}

// Ids beyond 59,138 take the hash's product past 2^31, into the negative numbers.
TEST_F(TransformerTest, TheHashWrapsInThirtyTwoBits) {
  ExpectFormula(Shape({{"vocab_size", "65536"}, {"num_layers", "1"}, {"bigram_vocab_size", "999"}}), 1, 6);
}

TEST_F(TransformerTest, RandomShapes) {
  for (uint64_t seed = 1; seed <= 12; ++seed) ExpectFormula(RandomShape(seed), 1 + seed % 2, 3 + seed % 5);
}

// A later token changes nothing before it; one before a document's start changes only attention after it.
TEST_F(TransformerTest, NothingIsSeenBeforeItsTime) {
  const Settings settings = Shape({{"xsa_last_n", "2"}});
  const Transformer model(settings, RandomParameters(settings));
  const at::Tensor ids = RandomIds(settings, 1, 8);
  at::Tensor other = ids.clone();
  other[0][5] = (ids[0][5] + 1) % settings.vocab_size;
  const at::Tensor difference = (model.Logits(ids) - model.Logits(other)).abs().amax({0, 2});
  EXPECT_EQ(difference.narrow(0, 0, 5).max().item<float>(), 0);
  EXPECT_GT(difference.narrow(0, 5, 3).min().item<float>(), 0);
}

// bfloat16 holds 8 bits: each of some dozen products along the way errs by 2^-9 of its size, half of it in either
// direction.
TEST_F(TransformerTest, BFloat16StaysNearTheFormula) {
  for (const char* published_quirks : {"0", "1"}) {
    const Settings settings = Shape({{"precision", "bfloat16"}, {"published_quirks", published_quirks}, {"num_layers", "2"}});
    const NamedTensors parameters = RandomParameters(settings);
    const Transformer model(settings, parameters);
    const at::Tensor ids = RandomIds(settings, 2, 7), targets = RandomIds(settings, 2, 7, 99);
    EXPECT_EQ(model.Logits(ids).scalar_type(), at::kBFloat16);
    const at::Tensor losses = model.TokenLosses(ids, targets);
    EXPECT_EQ(losses.scalar_type(), at::kFloat);
    const double off = (losses - Formula(settings, parameters).TokenLosses(ids, targets)).abs().mean().item<double>();
    EXPECT_LE(off, 0.05);
    EXPECT_GT(off, 1e-4);  // or it would not be bfloat16
  }
}

}  // namespace
}  // namespace fairway
