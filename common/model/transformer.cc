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
#include <ATen/ops/lerp.h>
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

constexpr Grid kPublishedQatGrid{"int6", -32, 31};  // for every matrix: a quirk of pull request 531

at::Tensor Rms(const at::Tensor& x) { return at::rms_norm(x, {x.size(-1)}); }

at::ScalarType ComputeDType(const Settings& settings) {
  return settings.precision == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

// w on its grid, computed in float32, w's shape (pull request 531: late QAT). The export stores float16 scales, so training rounds
// to the same ones (its int8 codes alone come from the scale before that); published_quirks keeps the published float32 scale with
// its floor of 1/31.
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

std::vector<ParameterSpec> ParameterSpecs(const Settings& settings) {
  std::vector<ParameterSpec> specs;
  for (const Weight& weight : Plan(settings).weights) specs.push_back({weight, IsTable(weight.role) ? ComputeDType(settings) : at::kFloat});
  return specs;
}

Rotary RotaryTables(const Settings& settings, int64_t positions, int64_t first) {
  const int64_t rotated = Plan(settings).rotated;
  const bool quirks = settings.published_quirks && ComputeDType(settings) == at::kBFloat16;
  at::Tensor rates = at::pow(settings.rope_base, at::arange(0, rotated, 2, at::kFloat) / static_cast<double>(rotated)).reciprocal();
  // Both entries round the rates with the rest of the model; in pull request 531 positions and angles follow.
  if (quirks) rates = rates.to(at::kBFloat16);
  const at::ScalarType published = quirks && settings.published_entry == "531" ? at::kBFloat16 : at::kFloat;
  const at::ScalarType precise = first == 0 ? published : at::kDouble;
  const at::Tensor angles = at::outer(at::arange(first, first + positions, precise), rates.to(precise));
  const at::ScalarType used = quirks ? at::kBFloat16 : at::kFloat;
  return {angles.cos().to(used).to(at::kFloat), angles.sin().to(used).to(at::kFloat)};
}

std::optional<Grid> TrainingGrid(const std::string& name, int64_t rows, int64_t columns, const Settings& settings) {
  if (settings.published_quirks) return kPublishedQatGrid;
  if (TrainsOnBudgetSteps(settings)) return std::nullopt;
  return ExportGrid(name, rows, columns, settings);
}

Transformer::Transformer(const Settings& settings, NamedTensors parameters)
    : settings_(settings), plan_(settings), parameters_(std::move(parameters)), looped_(plan_.loops()), compute_(ComputeDType(settings)) {
  for (size_t i = 0; i < plan_.weights.size(); ++i) {
    matrices_.emplace_back();
    if (IsLinear(plan_.weights[i].role)) matrices_.back() = MatrixOf(static_cast<int>(i));
  }
}

at::Tensor Transformer::parameter(const std::string& name) const {
  const int weight = plan_.Find(name);
  if (weight == kNone) throw std::out_of_range("no parameter " + name);
  return of(weight);
}

Transformer::Matrix Transformer::MatrixOf(int weight) const {
  const auto& [name, tensor] = parameters_[weight];
  return {name, tensor, TrainingGrid(name, tensor.size(0), tensor.size(1), settings_), std::nullopt};
}

std::vector<Transformer::Matrix*> Transformer::Matrices() {
  std::vector<Matrix*> all;
  for (std::optional<Matrix>& matrix : matrices_)
    if (matrix) all.push_back(&*matrix);
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

at::Tensor Transformer::Linear(const at::Tensor& x, int weight) const {
  const Matrix& matrix = *matrices_[weight];
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
  // One position later, zeros at the first; and with `masked`, zeros where a document starts.
  const auto shifted = [&](const at::Tensor& x, bool masked) {
    const at::Tensor previous = before_last(at::constant_pad_nd(x, {0, 0, 1, 0}));
    return masked ? previous.masked_fill(ids.eq(kBos).unsqueeze(-1), 0) : previous;
  };
  at::Tensor x = at::embedding(of(plan_.tok_emb), ids);
  if (plan_.smear_window != kNone) {
    const at::Tensor logit = at::linear(x.narrow(-1, 0, settings_.gate_window), of(plan_.smear_window).to(x.scalar_type()));
    return Rms(x + of(plan_.smear_lambda).to(x.scalar_type()) * at::sigmoid(logit) * shifted(x, /*masked=*/true));
  }
  if (plan_.bigram_rows > 0) {
    const int64_t rows = plan_.bigram_rows - 1;
    const at::Tensor token = ids.to(at::kInt);
    at::Tensor hashed = at::full_like(token, rows);
    const at::Tensor pair = at::bitwise_xor(36313 * after_first(token), 27191 * before_last(token));
    after_first(hashed).copy_(at::remainder(pair, rows));
    if (settings_.reset_at_bos) hashed.masked_fill_(ids.eq(kBos), rows);
    at::Tensor bigram = at::embedding(of(plan_.bigram_embed), hashed.to(at::kLong));
    if (!plan_.bigram_proj.weights.empty()) bigram = Linear(bigram, plan_.bigram_proj.weights[0]);
    x = x + bigram * of(plan_.bigram_scale).to(bigram.scalar_type());
  }
  x = Rms(x);
  if (plan_.smear_gate == kNone) return x;
  const at::Tensor gate = at::sigmoid(of(plan_.smear_gate).to(x.scalar_type()));
  return (1 - gate) * x + gate * shifted(x, settings_.reset_at_bos);
}

at::Tensor Transformer::Adapted(at::Tensor output, AdapterTarget target, size_t visit, const at::Tensor& input) const {
  const at::Tensor added = adapter_ ? adapter_(target, visit, input) : at::Tensor();
  return added.defined() ? output + added : output;
}

at::Tensor Transformer::Attention(size_t visit, const at::Tensor& ids, const at::Tensor& n, const Rotary& rotary, const std::vector<int64_t>& starts) const {
  const LayerPlan& layer = LayerOf(visit);
  const int64_t B = n.size(0), T = n.size(1), D = n.size(2), half = plan_.rotated / 2;
  const int64_t H = plan_.H, Hkv = plan_.Hkv, d = plan_.d;
  const auto heads = [&](int weight, AdapterTarget target, int64_t count) {  // [B, count, T, d]
    return Adapted(Linear(n, weight), target, visit, n).view({B, T, count, d}).transpose(1, 2);
  };
  const at::Tensor cos = rotary.cos.to(compute_), sin = rotary.sin.to(compute_);
  const auto rotate = [&](const at::Tensor& x) {
    const at::Tensor x1 = x.narrow(-1, 0, half), x2 = x.narrow(-1, half, half);
    return at::cat({x1 * cos + x2 * sin, x2 * cos - x1 * sin, x.narrow(-1, 2 * half, d - 2 * half)}, -1);
  };
  const std::vector<int>& qkv = layer.qkv.weights;
  const at::Tensor k = rotate(Rms(heads(qkv[1], AdapterTarget::kKey, Hkv)));
  at::Tensor v = heads(qkv[2], AdapterTarget::kValue, Hkv);
  if (layer.value_embed != kNone) v = v + at::embedding(of(layer.value_embed), ids).view({B, T, Hkv, d}).transpose(1, 2);
  const at::Tensor q = rotate(Rms(heads(qkv[0], AdapterTarget::kQuery, H))) * of(layer.q_gain).to(compute_).view({1, H, 1, 1});
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i < std::max<size_t>(starts.size(), 1); ++i) {
    const int64_t first = starts.empty() ? 0 : starts[i], length = (i + 1 < starts.size() ? starts[i + 1] : T) - first;
    const auto part = [&](const at::Tensor& x) { return x.narrow(2, first, length); };
    parts.push_back(at::scaled_dot_product_attention(part(q), part(k), part(v), {}, 0.0, /*is_causal=*/true, std::nullopt, /*enable_gqa=*/true));
  }
  at::Tensor y = parts.size() == 1 ? parts[0] : at::cat(parts, 2);
  if (layer.exclusive) {
    // y <- y - (y . n) n with n = v / max(|v|, 1e-12), each value head against its group of query heads; in float32.
    const at::Tensor grouped = y.to(at::kFloat).view({B, Hkv, H / Hkv, T, d});
    const at::Tensor value = v.to(at::kFloat).unsqueeze(2);
    const at::Tensor u = value / at::linalg_vector_norm(value, 2, {-1}, /*keepdim=*/true).clamp_min(1e-12);
    y = (grouped - (grouped * u).sum(-1, /*keepdim=*/true) * u).view({B, H, T, d}).to(compute_);
  }
  if (layer.attn_gate != kNone) {
    const at::Tensor logits = at::linear(n.narrow(-1, 0, settings_.gate_window), of(layer.attn_gate).to(n.scalar_type()));  // [B, T, H]
    y = y * at::sigmoid(settings_.sparse_attn_gate_scale * logits).transpose(1, 2).unsqueeze(-1).to(compute_);
  }
  const at::Tensor out = Linear(y.transpose(1, 2).reshape({B, T, D}), layer.attn_proj.weights[0]);
  return of(layer.attn_scale).to(n.scalar_type()) * Adapted(out, AdapterTarget::kAttentionOutput, visit, n);
}

at::Tensor Transformer::Mlp(size_t visit, const at::Tensor& n) const {
  const LayerPlan& layer = LayerOf(visit);
  const at::Tensor h = Linear(n, layer.mlp_fc.weights[0]);
  const at::Tensor hidden = settings_.mlp_negative_slope == 0 ? at::relu(h) : at::leaky_relu(h, settings_.mlp_negative_slope);
  return of(layer.mlp_scale).to(n.scalar_type()) *
         Adapted(Linear(hidden * hidden, layer.mlp_proj.weights[0]), AdapterTarget::kMlp, visit, n);
}

at::Tensor Transformer::Logits(const at::Tensor& ids, const std::vector<int64_t>& starts) const {
  const at::Tensor x0 = Embed(ids);
  const at::ScalarType dtype = x0.scalar_type();
  const Rotary rotary = RotaryTables(settings_, ids.size(1));
  const std::vector<Visit>& visits = plan_.visits(looped_);
  std::vector<at::Tensor> outputs;
  at::Tensor x = x0, lane1;  // x: the stream, or lane 0
  for (size_t v = 0; v < visits.size(); ++v) {
    const Visit& visit = visits[v];
    const LayerPlan& layer = LayerOf(v);
    const auto normed = [&](const at::Tensor& of_stream) { return layer.input_scale == 1 ? Rms(of_stream) : Rms(of_stream) * layer.input_scale; };
    if (visit.enters_lanes) lane1 = x;
    if (visit.skip_from >= 0) {
      const at::Tensor skip = of(plan_.skip_weights).to(dtype)[visit.skip_row] * outputs[visit.skip_from];
      x = plan_.skip_gates == kNone ? x + skip : at::lerp(skip, x, at::sigmoid(of(plan_.skip_gates).to(dtype)[visit.skip_row]));
    }
    const at::Tensor mix = of(layer.resid_mix).to(dtype), mixed = mix[0] * x + mix[1] * x0;
    const at::Tensor attention = Attention(v, ids, normed(mixed), rotary, starts);
    if (visit.lanes) {
      const at::Tensor mlp = Mlp(v, normed(lane1));
      const at::Tensor resid = of(plan_.parallel_resid).to(dtype)[visit.layer], post = of(plan_.parallel_post).to(dtype)[visit.layer];
      const auto lane = [&](int64_t k, const at::Tensor& own) { return resid[k] * own + post[0][k] * attention + post[1][k] * mlp; };
      const at::Tensor lane0 = lane(0, x);
      lane1 = lane(1, lane1);
      x = lane0;
    } else {
      x = mixed + attention;
      x = x + Mlp(v, normed(x));
    }
    outputs.push_back(x);
  }
  if (lane1.defined()) x = settings_.parallel_final_lane == "attn" ? x : settings_.parallel_final_lane == "mlp" ? lane1 : (x + lane1) * 0.5;
  x = Rms(x);
  const int head = plan_.head.weights[0];
  if (observer_ && plan_.tied) observer_(plan_.weights[head].name, of(head), x);
  const at::Tensor logits =
      Adapted(plan_.tied ? at::linear(x.to(compute_), of(head).to(compute_)) : Linear(x, head), AdapterTarget::kHead, 0, x);
  return settings_.logit_softcap * at::tanh(logits / settings_.logit_softcap);
}

at::Tensor Transformer::Loss(const at::Tensor& ids, const at::Tensor& targets, const std::vector<int64_t>& starts) const {
  return at::cross_entropy_loss(Logits(ids, starts).flatten(0, 1).to(at::kFloat), targets.flatten());
}

at::Tensor Transformer::TokenLosses(const at::Tensor& ids, const at::Tensor& targets, const std::vector<int64_t>& starts) const {
  return at::cross_entropy_loss(Logits(ids, starts).flatten(0, 1).to(at::kFloat), targets.flatten(), {}, at::Reduction::None)
      .view_as(targets);
}

}  // namespace fairway
