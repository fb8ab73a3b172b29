// Muon, AdamW and the clip against their formulas in float64, entry by entry.
#include "common/optim/optimizer.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_svdvals.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <gtest/gtest.h>

#include "common/optim/muon.h"
#include "tests/common/model/shapes.h"

namespace fairway {
namespace {

at::Tensor Random(std::vector<int64_t> shape, uint64_t seed) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randn(shape, generator, at::kFloat);
}

// The iteration of specification 1, section 4 without a rounding.
at::Tensor Formula(const at::Tensor& g, int64_t steps) {
  const double rows = g.size(0), columns = g.size(1);
  at::Tensor x = g.to(at::kDouble);
  x = x / (x.square().sum().sqrt() + 1e-7);
  if (rows > columns) x = x.t();
  for (int64_t i = 0; i < steps; ++i) {
    const at::Tensor a = at::matmul(x, x.t());
    x = 3.4445 * x + at::matmul(-4.7750 * a + 2.0315 * at::matmul(a, a), x);
  }
  if (rows > columns) x = x.t();
  return x * std::sqrt(std::max(1.0, rows / columns));
}

double Distance(const at::Tensor& ours, const at::Tensor& formula) {
  return (ours.to(at::kDouble) - formula).norm().item<double>() / formula.norm().item<double>();
}

// bfloat16 rounds by up to 2^-9. One iteration magnifies small singular values by 3.4445 and what was rounded with
// them.
double RoundingAfter(int64_t steps) {
  return steps == 0 ? 0.004 : steps == 1 ? 0.02 : 0.05;
}

// What Muon makes of a gradient without momentum: the update, which is what weights that are 0 lose at learning rate 1.
at::Tensor NewtonSchulz(const at::Tensor& g, int64_t steps, bool square_by_triangle = true) {
  at::Tensor p = at::zeros(g.sizes()), gradient = g.clone(), momentum = at::zeros(g.sizes());
  const at::Tensor update = at::zeros(g.sizes(), at::kBFloat16);
  std::vector<char> scratch(MuonScratchBytes(g.size(0), g.size(1)) + 64);
  char* aligned = scratch.data() + 64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64;
  const MuonStep step{.rows = g.size(0), .columns = g.size(1), .momentum = 0, .gradient_factor = 1, .learning_rate = 1,
                      .weight_decay = 0, .iterations = steps, .square_by_triangle = square_by_triangle};
  auto* u = static_cast<BFloat16*>(update.data_ptr());
  MuonUpdate(step, gradient.data_ptr<float>(), momentum.data_ptr<float>(), u, aligned);
  MuonApply(step, u, p.data_ptr<float>(), {0, p.numel()});
  EXPECT_TRUE(momentum.equal(g));
  EXPECT_FALSE(gradient.any().item<bool>());
  return -p;
}

// The composition of tensors that the published script computes, with its roundings: ours sums in another order alone.
at::Tensor Composition(const at::Tensor& g, int64_t steps) {
  const double rows = g.size(0), columns = g.size(1);
  at::Tensor x = g.to(at::kBFloat16);
  x = x / (at::linalg_vector_norm(x) + 1e-7);
  if (rows > columns) x = x.t();
  for (int64_t i = 0; i < steps; ++i) {
    const at::Tensor a = at::matmul(x, x.t());
    x = 3.4445 * x + at::matmul(-4.7750 * a + at::matmul(2.0315 * a, a), x);
  }
  if (rows > columns) x = x.t();
  return x * std::sqrt(std::max(1.0, rows / columns));
}

TEST(NewtonSchulzTest, IsItsFormula) {
  at::set_num_threads(1);
  for (const auto& [rows, columns] : {std::pair(12, 12), {8, 24}, {24, 8}, {1, 16}, {16, 1}, {33, 20}, {70, 130}, {131, 65}}) {
    for (int64_t steps : {0, 1, 5}) {
      const at::Tensor g = Random({rows, columns}, 11), ours = NewtonSchulz(g, steps);
      EXPECT_TRUE(ours.to(at::kBFloat16).to(at::kFloat).equal(ours));
      // Flipped roundings of 2^-9 grow from one iteration to the next.
      EXPECT_LE(Distance(ours, Composition(g, steps).to(at::kDouble)), steps == 0 ? 0 : steps == 1 ? 0.005 : 0.04)
          << rows << " x " << columns << ", " << steps << " steps";
      // With the whole square nothing but single flipped roundings is left.
      EXPECT_LE(Distance(NewtonSchulz(g, steps, false), Composition(g, steps).to(at::kDouble)), steps == 0 ? 0 : 0.004)
          << rows << " x " << columns << ", " << steps << " steps";
      EXPECT_LE(Distance(ours, Formula(g, steps)), RoundingAfter(steps))
          << rows << " x " << columns << ", " << steps << " steps";
    }
  }
}

// Five steps take singular values from about 0.01 of the norm up to between 0.68 and 1.15, times sqrt(rows / columns)
// where there are more rows.
TEST(NewtonSchulzTest, IsNearlyOrthogonal) {
  for (const auto& [rows, columns] : {std::pair(16, 64), {64, 16}, {16, 24}}) {
    const double scale = std::sqrt(std::max(1.0, static_cast<double>(rows) / columns));
    const at::Tensor singular =
        at::linalg_svdvals(NewtonSchulz(Random({rows, columns}, 12), 5).to(at::kDouble)) / scale;
    EXPECT_GE(singular.min().item<double>(), 0.66) << rows << " x " << columns;
    EXPECT_LE(singular.max().item<double>(), 1.2) << rows << " x " << columns;
  }
}

TEST(NewtonSchulzTest, NothingComesOfNothing) {
  EXPECT_EQ(NewtonSchulz(at::zeros({6, 4}), 5).abs().max().item<float>(), 0);
}

class OptimizerTest : public testing::Test {
 protected:
  OptimizerTest() { at::set_num_threads(1); }

  void Begin(const Options& options) {
    Options all = {{"tied_embed_lr", "0.031"},   {"embed_lr", "0.11"},   {"head_lr", "0.009"},
                   {"matrix_lr", "0.023"},       {"scalar_lr", "0.017"}, {"weight_decay", "0.2"},
                   {"muon_weight_decay", "0.3"}, {"beta1", "0.8"},       {"beta2", "0.9"},
                   {"adam_eps", "0.01"},         {"grad_clip_norm", "0"}};
    for (const auto& [name, value] : options) all[name] = value;
    settings = Shape(all);
    const FlatLayout layout(settings);
    const FlatTensors flat(layout, layout.embeddings_dtype()), flat_gradients(layout, at::kFloat);
    const NamedTensors random = RandomParameters(settings);
    for (size_t i = 0; i < random.size(); ++i) flat.tensors()[i].second.copy_(random[i].second);
    parameters = flat.tensors();
    gradients = flat_gradients.tensors();
    optimizer.emplace(settings, layout, flat, flat_gradients);
    before.clear();
    for (const auto& [name, tensor] : parameters) before[name] = tensor.to(at::kDouble).clone();
    m = v = momentum = {};
  }

  void SetGradients(uint64_t seed) {
    for (size_t i = 0; i < gradients.size(); ++i)
      gradients[i].second.copy_(Random(gradients[i].second.sizes().vec(), seed + i).mul(0.1));
  }

  static bool Embedding(const std::string& name) { return name == "tok_emb.weight" || name == "bigram.embed.weight"; }

  // The group of specification 1, section 2's table.
  static bool IsMuon(const std::string& name) {
    return name.ends_with(".weight") && !Embedding(name) && name != "lm_head.weight";
  }

  // Moves `before` by the formulas.
  void StepFormula(int64_t step, double scale, double muon_momentum, double factor) {
    for (const auto& [name, gradient] : gradients) {
      at::Tensor& p = before[name];
      const at::Tensor g = gradient.to(at::kDouble) * factor;
      if (IsMuon(name)) {
        const double rate = settings.matrix_lr * scale;
        p = p * (1 - rate * settings.muon_weight_decay);
        momentum[name] = momentum[name].defined() ? muon_momentum * momentum[name] + g : g;
        p = p - rate * Formula(g + muon_momentum * momentum[name], settings.muon_backend_steps);
        continue;
      }
      const double rate = scale * (name == "lm_head.weight"  ? settings.head_lr
                                   : !Embedding(name)        ? settings.scalar_lr
                                   : settings.tie_embeddings ? settings.tied_embed_lr
                                                             : settings.embed_lr);
      if (name != "lm_head.weight") p = p * (1 - rate * settings.weight_decay);
      m[name] = (m[name].defined() ? settings.beta1 * m[name] : at::zeros_like(g)) + (1 - settings.beta1) * g;
      v[name] = (v[name].defined() ? settings.beta2 * v[name] : at::zeros_like(g)) + (1 - settings.beta2) * g * g;
      const double n = static_cast<double>(step);
      p = p - rate * (m[name] / (1 - std::pow(settings.beta1, n))) /
                  ((v[name] / (1 - std::pow(settings.beta2, n))).sqrt() + settings.adam_eps);
    }
  }

  // One step of ours beside one of the formula, and their distance. Muon: Newton-Schulz's bfloat16, as above, times the
  // learning rate. AdamW: float32's roundings, or `storage` of the value where it is stored in bfloat16.
  void StepBoth(int64_t step, double scale, double muon_momentum, double storage = 1e-6, double factor = 1) {
    StepFormula(step, scale, muon_momentum, factor);
    optimizer->Step(scale, muon_momentum, factor);
    for (const auto& [name, gradient] : gradients) EXPECT_FALSE(gradient.any().item<bool>()) << name;
    for (const auto& [name, tensor] : parameters) {
      if (tensor.numel() == 0) continue;
      const at::Tensor difference = (tensor.to(at::kDouble) - before[name]).abs();
      if (IsMuon(name)) {
        const double one_step = settings.matrix_lr * scale * std::sqrt(std::max(tensor.size(0), tensor.size(1)));
        EXPECT_LE(difference.square().sum().sqrt().item<double>(), 0.08 * static_cast<double>(step) * one_step)
            << name << " step " << step;
      } else {
        const double bound = tensor.scalar_type() == at::kBFloat16 ? storage : 2e-6;
        EXPECT_LE((difference / (before[name].abs() + 0.1)).max().item<double>(), bound) << name << " step " << step;
      }
    }
  }

  Settings settings;
  NamedTensors parameters, gradients;
  std::optional<Optimizer> optimizer;
  std::map<std::string, at::Tensor> before, m, v, momentum;  // the formula's, float64
};

TEST_F(OptimizerTest, ThreeStepsAreTheirFormulas) {
  for (const Options& options : std::vector<Options>{{},
                                                     {{"tie_embeddings", "0"}, {"bigram_dim", "16"}},
                                                     {{"bigram_vocab_size", "0"}, {"num_layers", "1"}},
                                                     {{"muon_backend_steps", "1"}, {"mlp_mult", "3"}}}) {
    Begin(options);
    for (int64_t step : {1, 2, 3}) {
      SetGradients(100 * step);
      StepBoth(step, step == 2 ? 0.5 : 1, 0.9 + 0.01 * static_cast<double>(step));
      EXPECT_EQ(optimizer->adam_steps(), step);
    }
  }
}

// Weights of bfloat16 are rounded once a step, by up to 2^-9; their moments are float32 and err as float32 does. Compat
// keeps the moments in bfloat16 too.
TEST_F(OptimizerTest, EmbeddingsInBFloat16) {
  for (const char* published_quirks : {"0", "1"}) {
    Begin({{"precision", "bfloat16"}, {"published_quirks", published_quirks}});
    for (int64_t step : {1, 2}) {
      SetGradients(100 * step);
      StepBoth(step, 1, 0.9, static_cast<double>(step) * std::ldexp(1.0, -8));
    }
    for (const auto& [name, tensor] : optimizer->State()) {
      const bool table = name.ends_with("tok_emb.weight") || name.ends_with("bigram.embed.weight");
      EXPECT_EQ(tensor.scalar_type(), table && published_quirks == std::string("1") ? at::kBFloat16 : at::kFloat) << name;
      if (published_quirks == std::string("0") && name == "adam_m/tok_emb.weight") {
        EXPECT_LE((tensor - m.at("tok_emb.weight")).abs().max().item<double>(), 1e-8);
      }
    }
  }
}

TEST_F(OptimizerTest, StateIsNamedAndShared) {
  Begin({{"tie_embeddings", "0"}});
  std::map<std::string, at::Tensor> state;
  for (const auto& [name, tensor] : optimizer->State()) state[name] = tensor;
  size_t expected = 0;
  for (const auto& [name, tensor] : parameters) {
    expected += IsMuon(name) ? 1 : 2;
    EXPECT_EQ(state.contains("muon/" + name), IsMuon(name)) << name;
    EXPECT_EQ(state.contains("adam_m/" + name), !IsMuon(name)) << name;
    EXPECT_EQ(state.contains("adam_v/" + name), !IsMuon(name)) << name;
  }
  EXPECT_EQ(state.size(), expected);
  SetGradients(1);
  optimizer->Step(1, 0.9);
  EXPECT_GT(state.at("adam_v/smear.gate").abs().max().item<float>(), 0);
  EXPECT_GT(state.at("muon/blocks.0.mlp.fc.weight").abs().max().item<float>(), 0);
}

// Control tensors by name: a matrix on the list is AdamW's.
TEST_F(OptimizerTest, ControlPatternsKeepMatricesFromMuon) {
  Begin({{"control_tensor_name_patterns", "attn.c_k,attn_scale"}});
  for (const auto& [name, tensor] : optimizer->State()) {
    EXPECT_FALSE(name.starts_with("muon/") && name.find("attn.c_k") != std::string::npos) << name;
    EXPECT_FALSE(name.starts_with("adam_m/") && name.find("attn.c_v") != std::string::npos) << name;
  }
}

// A matrix without a gradient, and without one so far, decays.
TEST_F(OptimizerTest, MatricesDecayWithoutAGradient) {
  Begin({});
  SetGradients(1);
  for (auto& [name, gradient] : gradients)
    if (name == "blocks.1.mlp.fc.weight") gradient.zero_();
  StepBoth(1, 1, 0.9);
  for (const auto& [name, tensor] : parameters) {
    if (name != "blocks.1.mlp.fc.weight") continue;
    EXPECT_LE((tensor - before[name]).abs().max().item<double>(), 1e-6);
  }
}

TEST_F(OptimizerTest, NormOfAllGradients) {
  Begin({});
  for (uint64_t seed : {1, 2}) {
    SetGradients(seed);
    double sum = 0;
    for (const auto& [name, gradient] : gradients) sum += gradient.to(at::kDouble).square().sum().item<double>();
    EXPECT_NEAR(optimizer->GradientNorm(), std::sqrt(sum), 1e-5 * std::sqrt(sum));
  }
}

TEST_F(OptimizerTest, ClipsOnlyWhatIsAboveTheBound) {
  Begin({{"grad_clip_norm", "0.3"}});
  EXPECT_DOUBLE_EQ(optimizer->ClipFactor(2), 0.3 / (2 + 1e-6));
  EXPECT_EQ(optimizer->ClipFactor(0.29), 1);
  EXPECT_EQ(optimizer->ClipFactor(0), 1);
  for (const char* off : {"0", "-1"}) {
    Begin({{"grad_clip_norm", off}});
    EXPECT_EQ(optimizer->ClipFactor(2), 1);
  }
}

// Gradients times a factor.
TEST_F(OptimizerTest, ClippedStepsAreTheirFormulas) {
  Begin({});
  for (int64_t step : {1, 2}) {
    SetGradients(100 * step);
    StepBoth(step, 1, 0.9, 1e-6, 0.25);
  }
}

}  // namespace
}  // namespace fairway
