#include "common/model/transformer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_xor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/remainder.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/round.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/quantise/steps.h"
#include "common/tokens/shard_format.h"

namespace fairway {
namespace {

constexpr Grid kPublishedQatGrid{"int6", -32, 31};  // for every matrix: specification 3, row 7

at::Tensor Rms(const at::Tensor& x) { return at::rms_norm(x, {x.size(-1)}); }

at::ScalarType ComputeDType(const Settings& settings) {
  return settings.precision == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

// w on its grid, computed in float32, w's shape (specification 1, section 4: late QAT). The export stores float16 scales, so
// training rounds to the same ones (its int8 codes alone come from the scale before that); published_quirks keeps the published float32
// scale with its floor of 1/31.
at::Tensor FakeQuantise(const at::Tensor& w, const Grid& grid, bool published_quirks) {
  const at::Tensor w32 = w.to(at::kFloat);
  const double floor = published_quirks ? 1.0 / grid.q_max : 0x1p-24;  // the least float16
  const at::Tensor scale = (w32.abs().amax(/*dim=*/1, /*keepdim=*/true) / static_cast<double>(grid.q_max)).clamp_min(floor);
  const at::Tensor stored = published_quirks ? scale : scale.to(at::kHalf).to(at::kFloat);
  return at::clamp(at::round(w32 / (grid == kInt8 ? scale : stored)), grid.q_min, grid.q_max) * stored;
}
at::Tensor FakeQuantise(const at::Tensor& w, const TensorSteps& steps) {
  const at::Tensor widths = steps.rows.unsqueeze(1) * steps.columns;
  return at::clamp(at::round(w.to(at::kFloat) / widths), -kLargestCode, kLargestCode) * widths;
}

}  // namespace

std::vector<ParameterSpec> ParameterSpecs(const Settings& s) {
  const int64_t D = s.model_dim, kv_dim = s.num_kv_heads * (D / s.num_heads), F = static_cast<int64_t>(s.mlp_mult * D);
  const int64_t encoder = s.num_layers / 2;
  const at::ScalarType embedding = ComputeDType(s);
  std::vector<ParameterSpec> specs;
  const auto add = [&](std::string name, std::vector<int64_t> shape, at::ScalarType dtype = at::kFloat) {
    specs.push_back({std::move(name), std::move(shape), dtype});
  };
  add("skip_weights", {std::min(encoder, s.num_layers - encoder), D});
  add("tok_emb.weight", {s.vocab_size, D}, embedding);
  if (s.bigram_vocab_size > 0) {
    add("bigram.scale", {});
    add("bigram.embed.weight", {s.bigram_vocab_size, s.bigram_dim}, embedding);
    if (s.bigram_dim != D) add("bigram.proj.weight", {D, s.bigram_dim});
  }
  if (s.smear) add("smear.gate", {D});
  for (int64_t i = 0; i < s.num_layers; ++i) {
    const std::string block = StringPrintf("blocks.%ld.", i);
    add(block + "attn_scale", {D});
    add(block + "mlp_scale", {D});
    add(block + "resid_mix", {2, D});
    add(block + "attn.q_gain", {s.num_heads});
    add(block + "attn.c_q.weight", {D, D});
    add(block + "attn.c_k.weight", {kv_dim, D});
    add(block + "attn.c_v.weight", {kv_dim, D});
    add(block + "attn.proj.weight", {D, D});
    add(block + "mlp.fc.weight", {F, D});
    add(block + "mlp.proj.weight", {D, F});
  }
  if (!s.tie_embeddings) add("lm_head.weight", {s.vocab_size, D});
  return specs;
}

bool IsTable(std::string_view name) { return name.ends_with("emb.weight") || name.ends_with("embed.weight"); }

Rotary RotaryTables(const Settings& settings, int64_t positions, int64_t first) {
  const at::ScalarType compute = ComputeDType(settings);
  // The published script casts the frequency buffer to bfloat16 with the model, and everything after it follows
  // (specification 3, row 21).
  const at::ScalarType table = settings.published_quirks && compute == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  const int64_t d = settings.model_dim / settings.num_heads;
  const int64_t turned = settings.rope_dims > 0 ? settings.rope_dims : d;
  const at::Tensor exponent = at::arange(0, turned, 2, at::kFloat) / static_cast<double>(turned);
  const at::Tensor frequency =
      at::constant_pad_nd(at::pow(settings.rope_base, exponent).reciprocal(), {0, (d - turned) / 2}).to(table);
  const at::ScalarType precise = first == 0 ? table : at::kDouble;
  const at::Tensor angle = at::outer(at::arange(first, first + positions, precise), frequency.to(precise));
  return {angle.cos().to(compute), angle.sin().to(compute)};
}

double InputScale(const Settings& settings, int64_t layer) {
  return settings.ln_scale ? 1 / std::sqrt(static_cast<double>(layer + 1)) : 1;
}

std::optional<Grid> TrainingGrid(const std::string& name, const at::Tensor& weight, const Settings& settings) {
  if (settings.published_quirks) return kPublishedQatGrid;
  if (TrainsOnBudgetSteps(settings)) return std::nullopt;
  return ExportGrid(name, weight.size(0), weight.size(1), settings);
}

Transformer::Transformer(const Settings& settings, NamedTensors parameters)
    : settings_(settings),
      parameters_(std::move(parameters)),
      compute_(ComputeDType(settings)) {
  for (int64_t i = 0; i < settings.num_layers; ++i) {
    const std::string block = StringPrintf("blocks.%ld.", i);
    layers_.push_back({.attn_scale = parameter(block + "attn_scale"),
                       .mlp_scale = parameter(block + "mlp_scale"),
                       .resid_mix = parameter(block + "resid_mix"),
                       .q_gain = parameter(block + "attn.q_gain"),
                       .c_q = MatrixOf(block + "attn.c_q.weight"),
                       .c_k = MatrixOf(block + "attn.c_k.weight"),
                       .c_v = MatrixOf(block + "attn.c_v.weight"),
                       .attn_proj = MatrixOf(block + "attn.proj.weight"),
                       .mlp_fc = MatrixOf(block + "mlp.fc.weight"),
                       .mlp_proj = MatrixOf(block + "mlp.proj.weight"),
                       .exclusive = i >= settings.num_layers - settings.xsa_last_n,
                       .scale = InputScale(settings, i)});
  }
  if (settings.bigram_vocab_size > 0 && settings.bigram_dim != settings.model_dim)
    bigram_proj_ = MatrixOf("bigram.proj.weight");
  if (!settings.tie_embeddings) lm_head_ = MatrixOf("lm_head.weight");
}

at::Tensor Transformer::parameter(const std::string& name) const {
  for (const auto& [own, tensor] : parameters_)
    if (own == name) return tensor;
  throw std::out_of_range("no parameter " + name);
}

Transformer::Matrix Transformer::MatrixOf(const std::string& name) const {
  const at::Tensor weight = parameter(name);
  return {name, weight, TrainingGrid(name, weight, settings_), std::nullopt};
}

std::vector<Transformer::Matrix*> Transformer::Matrices() {
  std::vector<Matrix*> all;
  for (Layer& layer : layers_)
    for (Matrix* matrix : {&layer.c_q, &layer.c_k, &layer.c_v, &layer.attn_proj, &layer.mlp_fc, &layer.mlp_proj}) all.push_back(matrix);
  if (bigram_proj_) all.push_back(&*bigram_proj_);
  if (lm_head_) all.push_back(&*lm_head_);
  return all;
}

void Transformer::FixSteps(const FixedSteps& steps) {
  for (Matrix* matrix : Matrices()) {
    const auto own = steps.find(matrix->name);
    matrix->grid.reset();
    matrix->steps = own != steps.end() ? std::optional(own->second) : std::nullopt;
  }
}

int64_t Transformer::SetFakeQuantisation(bool on) {
  fake_quantise_ = on;
  int64_t matrices = 0;
  for (const Matrix* matrix : Matrices()) matrices += matrix->rounded();
  return on ? matrices : 0;
}

at::Tensor Transformer::Linear(const at::Tensor& x, const Matrix& matrix) const {
  if (observer_) observer_(matrix.name, matrix.weight, x);
  at::Tensor w = matrix.weight.to(compute_);
  if (fake_quantise_ && matrix.rounded() && at::GradMode::is_enabled()) {
    // The gradient passes straight through: w + (grid(w) - w), the bracket a constant.
    const at::Tensor own = matrix.weight.detach();
    const at::Tensor rounded = matrix.steps ? FakeQuantise(own, *matrix.steps) : FakeQuantise(own, *matrix.grid, settings_.published_quirks);
    w = w + (rounded.to(compute_) - w.detach());
    ++fake_quantisations_;
  }
  return at::linear(x.to(compute_), w);
}

at::Tensor Transformer::Embed(const at::Tensor& ids) const {
  const auto after_first = [](const at::Tensor& x) { return x.narrow(1, 1, x.size(1) - 1); };
  const auto before_last = [](const at::Tensor& x) { return x.narrow(1, 0, x.size(1) - 1); };
  const at::Tensor starts = ids.eq(kBos);  // of documents; looked at only under reset_at_bos
  at::Tensor x = at::embedding(parameter("tok_emb.weight"), ids);
  if (settings_.bigram_vocab_size > 0) {
    const int64_t rows = settings_.bigram_vocab_size - 1;
    const at::Tensor token = ids.to(at::kInt);
    at::Tensor hashed = at::full_like(token, rows);
    const at::Tensor pair = at::bitwise_xor(36313 * after_first(token), 27191 * before_last(token));
    after_first(hashed).copy_(at::remainder(pair, rows));
    if (settings_.reset_at_bos) hashed.masked_fill_(starts, rows);
    at::Tensor bigram = at::embedding(parameter("bigram.embed.weight"), hashed.to(at::kLong));
    if (bigram_proj_) bigram = Linear(bigram, *bigram_proj_);
    x = x + bigram * parameter("bigram.scale").to(bigram.scalar_type());
  }
  x = Rms(x);
  if (!settings_.smear) return x;
  const at::Tensor gate = at::sigmoid(parameter("smear.gate").to(x.scalar_type()));
  // x one position later, zeros at the first.
  at::Tensor previous = before_last(at::constant_pad_nd(x, {0, 0, 1, 0}));
  if (settings_.reset_at_bos) previous = previous.masked_fill(starts.unsqueeze(-1), 0);
  return (1 - gate) * x + gate * previous;
}

at::Tensor Transformer::Attention(const Layer& layer, const at::Tensor& u, const Rotary& rotary) const {
  const int64_t B = u.size(0), T = u.size(1), D = u.size(2);
  const int64_t H = settings_.num_heads, Hkv = settings_.num_kv_heads, d = D / H;
  const auto heads = [&](const Matrix& projection, int64_t count) {  // [B, count, T, d]
    return Linear(u, projection).view({B, T, count, d}).transpose(1, 2);
  };
  const auto rotate = [&](const at::Tensor& x) {
    const at::Tensor x1 = x.narrow(-1, 0, d / 2), x2 = x.narrow(-1, d / 2, d / 2);
    return at::cat({x1 * rotary.cos + x2 * rotary.sin, x2 * rotary.cos - x1 * rotary.sin}, -1);
  };
  const at::Tensor k = rotate(Rms(heads(layer.c_k, Hkv))), v = heads(layer.c_v, Hkv);
  const at::Tensor q = rotate(Rms(heads(layer.c_q, H))) * layer.q_gain.to(compute_).view({1, H, 1, 1});
  at::Tensor y = at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/true, std::nullopt, /*enable_gqa=*/true);
  if (layer.exclusive) {
    // y <- y - (y . n) n with n = v / max(|v|, 1e-12), each value head against its group of query heads; in float32.
    const at::Tensor grouped = y.to(at::kFloat).view({B, Hkv, H / Hkv, T, d});
    const at::Tensor value = v.to(at::kFloat).unsqueeze(2);
    const at::Tensor n = value / at::linalg_vector_norm(value, 2, {-1}, /*keepdim=*/true).clamp_min(1e-12);
    y = (grouped - (grouped * n).sum(-1, /*keepdim=*/true) * n).view({B, H, T, d}).to(compute_);
  }
  return Linear(y.transpose(1, 2).reshape({B, T, D}), layer.attn_proj);
}

at::Tensor Transformer::Block(const Layer& layer, at::Tensor x, const at::Tensor& x0, const Rotary& rotary) const {
  const at::ScalarType dtype = x.scalar_type();
  const at::Tensor mix = layer.resid_mix.to(dtype);
  const auto normed = [&] { return layer.scale == 1 ? Rms(x) : Rms(x) * layer.scale; };
  x = mix[0] * x + mix[1] * x0;
  x = x + layer.attn_scale.to(dtype) * Attention(layer, normed(), rotary);
  const at::Tensor h = Linear(normed(), layer.mlp_fc);
  const at::Tensor hidden = settings_.mlp_negative_slope == 0 ? at::relu(h) : at::leaky_relu(h, settings_.mlp_negative_slope);
  return x + layer.mlp_scale.to(dtype) * Linear(hidden * hidden, layer.mlp_proj);
}

at::Tensor Transformer::Logits(const at::Tensor& ids) const {
  const at::Tensor x0 = Embed(ids);
  const Rotary rotary = RotaryTables(settings_, ids.size(1));
  const at::Tensor skip_weights = parameter("skip_weights").to(x0.scalar_type());
  const int64_t encoder = settings_.num_layers / 2;
  std::vector<at::Tensor> skips;
  at::Tensor x = x0;
  for (int64_t i = 0; i < settings_.num_layers; ++i) {
    if (i >= encoder && !skips.empty()) {
      x = x + skip_weights[i - encoder] * skips.back();
      skips.pop_back();
    }
    x = Block(layers_[i], x, x0, rotary);
    if (i < encoder) skips.push_back(x);
  }
  x = Rms(x);
  const at::Tensor logits =
      lm_head_ ? Linear(x, *lm_head_) : at::linear(x.to(compute_), parameter("tok_emb.weight").to(compute_));
  return settings_.logit_softcap * at::tanh(logits / settings_.logit_softcap);
}

at::Tensor Transformer::Loss(const at::Tensor& ids, const at::Tensor& targets) const {
  return at::cross_entropy_loss(Logits(ids).flatten(0, 1).to(at::kFloat), targets.flatten());
}

at::Tensor Transformer::TokenLosses(const at::Tensor& ids, const at::Tensor& targets) const {
  return at::cross_entropy_loss(Logits(ids).flatten(0, 1).to(at::kFloat), targets.flatten(), {}, at::Reduction::None)
      .view_as(targets);
}

}  // namespace fairway
