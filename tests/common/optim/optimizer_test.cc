// Muon, AdamW and the clip against their formulas in float64, entry by entry.
#include "common/optim/cpu_optimizer.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_svdvals.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/scalar_tensor.h>
#include <gtest/gtest.h>

#include "common/optim/muon.h"
#include "tests/common/model/shapes.h"

namespace fairway {
namespace {

at::Tensor Random(std::vector<int64_t> shape, uint64_t seed) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randn(shape, generator, at::kFloat);
}

// The iteration of pull request 531 without a rounding; and the one of arXiv 2505.16932.
at::Tensor Formula(const at::Tensor& g, int64_t steps, bool polar_express = false, bool normalize_rows = false) {
  constexpr double kPolar[5][3] = {{8.156554524902461, -22.48329292557795, 15.878769915207462},
                                   {4.042929935166739, -2.808917465908714, 0.5000178451051316},
                                   {3.8916678022926607, -2.772484153217685, 0.5060648178503393},
                                   {3.285753657755655, -2.3681294933425376, 0.46449024233003106},
                                   {2.3465413258596377, -1.7097828382687081, 0.42323551169305323}};
  const double rows = g.size(0), columns = g.size(1);
  at::Tensor x = g.to(at::kDouble);
  if (normalize_rows) x = x / x.square().sum(1, /*keepdim=*/true).sqrt().clamp_min(1e-7);
  x = x / (x.square().sum().sqrt() + 1e-7);
  if (rows > columns) x = x.t();
  for (int64_t i = 0; i < steps; ++i) {
    const at::Tensor a = at::matmul(x, x.t());
    x = polar_express ? kPolar[i][0] * x + at::matmul(kPolar[i][1] * a + kPolar[i][2] * at::matmul(a, a), x)
                      : 3.4445 * x + at::matmul(-4.7750 * a + 2.0315 * at::matmul(a, a), x);
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

// What Muon makes of a gradient with Polar Express: the update, of a weight that is 0.
struct Polar {
  at::Tensor update, momentum;
};
Polar PolarExpress(const at::Tensor& g, int64_t steps, bool normalize_rows, const at::Tensor& before, float mu) {
  at::Tensor gradient = g.clone(), momentum = before.clone();
  const at::Tensor update = at::zeros(g.sizes(), at::kBFloat16);
  std::vector<char> scratch(MuonScratchBytes(g.size(0), g.size(1)) + 64);
  char* aligned = scratch.data() + 64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64;
  const MuonStep step{.rows = g.size(0), .columns = g.size(1), .momentum = mu, .gradient_factor = 1, .learning_rate = 1,
                      .weight_decay = 0, .iterations = steps, .polar_express = true, .normalize_rows = normalize_rows,
                      .bfloat16_momentum = true, .nesterov_momentum = mu};
  MuonUpdate(step, gradient.data_ptr<float>(), momentum.data_ptr<float>(), static_cast<BFloat16*>(update.data_ptr()), aligned);
  EXPECT_FALSE(gradient.any().item<bool>());
  return {update, momentum};
}

// The same as pull request 1855 composes it of bfloat16 tensors.
at::Tensor PolarComposition(const at::Tensor& g, int64_t steps, bool normalize_rows, at::Tensor buffer, double mu) {
  constexpr double kCoefficients[5][3] = {{8.156554524902461, -22.48329292557795, 15.878769915207462},
                                          {4.042929935166739, -2.808917465908714, 0.5000178451051316},
                                          {3.8916678022926607, -2.772484153217685, 0.5060648178503393},
                                          {3.285753657755655, -2.3681294933425376, 0.46449024233003106},
                                          {2.3465413258596377, -1.7097828382687081, 0.42323551169305323}};
  const at::Tensor half = g.to(at::kBFloat16);
  buffer.mul_(mu).add_(half);
  at::Tensor x = half.add(buffer, mu);
  if (normalize_rows) x = x / at::linalg_vector_norm(x.to(at::kFloat), 2, {1}, true).clamp_min(1e-7).to(at::kBFloat16);
  x = x / (at::linalg_vector_norm(x) + 1e-7);
  const bool tall = x.size(0) > x.size(1);
  if (tall) x = x.t();
  for (int64_t i = 0; i < std::min<int64_t>(steps, 5); ++i) {
    const auto& [a, b, c] = kCoefficients[i];
    const at::Tensor gram = at::matmul(x, x.t());
    const auto times = [](const at::Tensor& t, double factor) { return at::mul(t, at::scalar_tensor(factor, at::kDouble)); };
    x = times(x, a) + at::matmul(times(gram, b) + times(at::matmul(gram, gram), c), x);
  }
  return tall ? x.t() : x;
}

TEST(PolarExpressTest, IsItsCompositionOfBFloat16Tensors) {
  at::set_num_threads(1);
  const float mu = 0.9375;  // a bfloat16: PyTorch rounds the factor of the buffer to one
  for (const auto& [rows, columns] : {std::pair(12, 12), {8, 24}, {24, 8}, {1, 16}, {16, 1}, {33, 20}, {70, 130}, {131, 65}}) {
    for (int64_t steps : {0, 1, 3, 5, 9}) {
      for (const bool normalize_rows : {false, true}) {
        const at::Tensor g = Random({rows, columns}, 11), before = Random({rows, columns}, 12).to(at::kBFloat16);
        const at::Tensor buffer = before.clone(), expected = PolarComposition(g, steps, normalize_rows, buffer, mu);
        const Polar ours = PolarExpress(g, steps, normalize_rows, before.to(at::kFloat), mu);
        EXPECT_TRUE(ours.momentum.equal(buffer.to(at::kFloat)));
        // Sums in another order flip single roundings, which grow eightfold in the first iteration and fourfold in the next.
        EXPECT_LE(Distance(ours.update, expected.to(at::kDouble)), steps == 0 ? 1e-3 : steps == 1 ? 0.01 : 0.08)
            << rows << " x " << columns << ", " << steps << " steps, " << normalize_rows;
      }
    }
  }
}

TEST(PolarExpressTest, BringsSingularValuesNearOne) {
  for (const auto& [rows, columns] : {std::pair(16, 64), {64, 16}, {16, 24}}) {
    const at::Tensor g = Random({rows, columns}, 12);
    const at::Tensor singular = at::linalg_svdvals(PolarExpress(g, 5, false, at::zeros_like(g), 0).update.to(at::kDouble));
    EXPECT_GE(singular.min().item<double>(), 0.85) << rows << " x " << columns;
    EXPECT_LE(singular.max().item<double>(), 1.15) << rows << " x " << columns;
  }
}

TEST(PolarExpressTest, RowsOfAnySizeWeighAlikeOnceNormalised) {
  const at::Tensor g = Random({16, 24}, 13), scaled = g.clone();
  scaled[3].mul_(1 << 10);
  scaled[5].zero_();
  const at::Tensor update = PolarExpress(scaled, 5, true, at::zeros_like(g), 0).update.to(at::kFloat);
  EXPECT_FALSE(update[5].any().item<bool>());
  scaled[3].div_(1 << 10);
  EXPECT_TRUE(PolarExpress(scaled, 5, true, at::zeros_like(g), 0).update.to(at::kFloat).equal(update));
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

  // The group of the published script.
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
        p = p - rate * Formula(g + muon_momentum * momentum[name], settings.muon_backend_steps,
                               settings.muon_orthogonalize == "polar_express", settings.muon_row_normalize);
        continue;
      }
      const double rate = scale * (name == "lm_head.weight"  ? settings.head_lr
                                   : !Embedding(name)        ? settings.scalar_lr
                                   : settings.tie_embeddings ? settings.tied_embed_lr
                                                             : settings.embed_lr);
      const double own = Embedding(name) ? settings.embed_wd : settings.adam_wd;
      if (name != "lm_head.weight") p = p * (1 - rate * (own < 0 ? settings.weight_decay : own));
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
        // Polar Express begins with larger factors, which grow what bfloat16 rounds.
        const double rounding = settings.muon_orthogonalize == "polar_express" ? 0.3 : 0.08;
        EXPECT_LE(difference.square().sum().sqrt().item<double>(), rounding * static_cast<double>(step) * one_step)
            << name << " step " << step;
      } else {
        const double bound = tensor.scalar_type() == at::kBFloat16 ? storage : 2e-6;
        EXPECT_LE((difference / (before[name].abs() + 0.1)).max().item<double>(), bound) << name << " step " << step;
      }
    }
  }

  Settings settings;
  NamedTensors parameters, gradients;
  std::optional<CpuOptimizer> optimizer;
  std::map<std::string, at::Tensor> before, m, v, momentum;  // the formula's, float64
};

TEST_F(OptimizerTest, ThreeStepsAreTheirFormulas) {
  for (const Options& options : std::vector<Options>{{},
                                                     {{"tie_embeddings", "0"}, {"bigram_dim", "16"}},
                                                     {{"bigram_vocab_size", "0"}, {"num_layers", "1"}},
                                                     {{"muon_backend_steps", "1"}, {"mlp_mult", "3"}},
                                                     {{"embed_wd", "0.4"}, {"adam_wd", "0"}},
                                                     {{"muon_row_normalize", "1"}},
                                                     {{"muon_orthogonalize", "polar_express"}},
                                                     {{"muon_orthogonalize", "polar_express"}, {"muon_row_normalize", "1"}, {"mlp_mult", "3"}}}) {
    Begin(options);
    for (int64_t step : {1, 2, 3}) {
      SetGradients(100 * step);
      StepBoth(step, step == 2 ? 0.5 : 1, 0.9 + 0.01 * static_cast<double>(step));
      EXPECT_EQ(optimizer->adam_steps(), step);
    }
  }
}

// Weights of bfloat16 are rounded once per step, by up to 2^-9; their moments are float32 and err as float32 does. published_quirks
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

// The published bfloat16 of pull request 1855: whatever the gradients, momentum holds values of that type.
TEST_F(OptimizerTest, PublishedQuirksOf1855RoundMomentum) {
  for (const char* entry : {"531", "1855"}) {
    Begin({{"published_quirks", "1"}, {"published_entry", entry}, {"muon_orthogonalize", "polar_express"}, {"muon_row_normalize", "1"}});
    for (int64_t step : {1, 2}) {
      SetGradients(100 * step);
      StepBoth(step, 1, 0.92);
    }
    for (const auto& [name, tensor] : optimizer->State()) {
      if (!name.starts_with("muon/")) continue;
      EXPECT_EQ(tensor.to(at::kBFloat16).to(at::kFloat).equal(tensor), entry == std::string("1855")) << name;
    }
    EXPECT_FALSE(optimizer->ClipsPerRank());  // one process has nothing to average
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
