#include "common/calibrate/sdclip.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cholesky_inverse.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_cholesky.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/std.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/threads.h"
#include "common/plan/plan.h"
#include "common/quantise/grid.h"
#include "common/tokens/shuffled_windows.h"

namespace fairway {
namespace {

constexpr int64_t kTokens = 2048;  // that pass through the model at a time, or one window
constexpr int64_t kBlock = 128;  // columns whose errors reach those behind them together

std::vector<float> Floats(const at::Tensor& tensor) {
  const at::Tensor whole = tensor.to(at::kFloat).contiguous();
  return {whole.const_data_ptr<float>(), whole.const_data_ptr<float>() + whole.numel()};
}

at::Tensor TensorOf(const std::vector<float>& values, at::IntArrayRef shape) {
  return at::from_blob(const_cast<float*>(values.data()), shape, at::kFloat).clone();
}

double ClipSigmas(Role role, const Settings& settings) {
  switch (role) {
    case Role::kTokenEmbedding: return settings.embed_clip_sigmas;
    case Role::kMlpUp:
    case Role::kMlpDown: return settings.mlp_clip_sigmas;
    case Role::kQuery:
    case Role::kKey:
    case Role::kValue:
    case Role::kAttentionOutput: return settings.attn_clip_sigmas;
    default: return settings.matrix_clip_sigmas;
  }
}

// Columns [first, last) of a row, rounded one after another; what is left of the block's later columns makes good each error.
// `error` are the errors over the diagonal.
void RoundBlock(float* rest, float* error, int8_t* codes, float scale, float top, const float* upper, int64_t columns, int64_t first,
                int64_t last) {
  for (int64_t j = first; j < last; ++j) {
    const float* u = upper + j * columns;
    const float code = rest[j] == 0 ? 0 : RoundHalfEven(std::clamp(rest[j] / scale, -top, top));
    codes[j] = static_cast<int8_t>(code);
    const float missed = (rest[j] - code * scale) / u[j];
    error[j - first] = missed;
    for (int64_t k = j; k < last; ++k) rest[k] -= missed * u[k];
  }
}

}  // namespace

ScaledCodes QuantiseSdClip(const at::Tensor& weight, const at::Tensor& hessian, int64_t bits, double sigmas) {
  const int64_t rows = weight.size(0), columns = weight.size(1);
  const Grid grid = SymmetricGrid(bits);
  at::Tensor h = hessian.clone();
  const at::Tensor dead = h.diagonal().eq(0);
  h.diagonal().masked_fill_(dead, 1);
  h.diagonal().add_(h.diagonal().mean().mul(0.01));
  const at::Tensor order = h.diagonal().argsort(/*stable=*/true, /*dim=*/0, /*descending=*/true);
  at::Tensor rest = weight.index_select(1, order).contiguous();
  rest.masked_fill_(dead.index_select(0, order), 0);
  h = at::linalg_cholesky(h.index_select(0, order).index_select(1, order));
  h = at::cholesky_inverse(h);
  const at::Tensor upper = at::linalg_cholesky(h, /*upper=*/true).contiguous();

  const at::Tensor deviation = weight.std(at::IntArrayRef{1}, /*unbiased=*/true);
  const at::Tensor scales = (deviation * sigmas / static_cast<double>(grid.q_max)).clamp_min(1e-10).to(at::kHalf).contiguous();
  ScaledCodes result{.grid = grid, .codes = std::vector<int8_t>(rows * columns), .scales = std::vector<uint16_t>(rows)};
  std::memcpy(result.scales.data(), scales.const_data_ptr(), 2 * rows);
  const at::Tensor wide_scales = scales.to(at::kFloat);
  const float* scale = wide_scales.const_data_ptr<float>();
  std::vector<int8_t> ordered(rows * columns);
  for (int64_t first = 0; first < columns; first += kBlock) {
    const int64_t last = std::min(first + kBlock, columns);
    const at::Tensor errors = at::empty({rows, last - first}, at::kFloat);
    float* const r = rest.mutable_data_ptr<float>();
    float* const e = errors.mutable_data_ptr<float>();
    ParallelFor(rows, /*grain=*/16, at::get_num_threads(), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        RoundBlock(r + row * columns, e + row * (last - first), ordered.data() + row * columns, scale[row], static_cast<float>(grid.q_max),
                   upper.const_data_ptr<float>(), columns, first, last);
    });
    if (last < columns) rest.narrow(1, last, columns - last).sub_(at::mm(errors, upper.narrow(0, first, last - first).narrow(1, last, columns - last)));
  }
  const int64_t* place = order.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t j = 0; j < columns; ++j) result.codes[row * columns + place[j]] = ordered[row * columns + j];
  return result;
}

LowRankCorrection CorrectLowRank(const at::Tensor& error, const Settings& settings) {
  const auto [u, s, v] = at::linalg_svd(error, /*full_matrices=*/false);
  const int64_t rank = std::min(settings.lqer_rank, s.size(0));
  const at::Tensor a = u.narrow(1, 0, rank) * s.narrow(0, 0, rank), b = v.narrow(0, 0, rank);
  return QuantiseFactors(Floats(a), Floats(b), rank, settings.lqer_asym_enabled ? settings.lqer_asym_group : 0, settings.lqer_factor_bits);
}

Hessians MeasureHessians(const NamedTensors& weights, const Settings& settings, const ShardSet& train,
                         const std::function<void(int64_t, int64_t)>& progress) {
  const at::NoGradGuard no_gradients;
  Hessians hessians;
  at::Tensor input, product;  // of the last linear layer: the next one may have the same
  Transformer model(settings, weights);
  model.Observe([&](const std::string& name, const at::Tensor& weight, const at::Tensor& x) {
    if (!ExportGrid(name, weight.size(0), weight.size(1), settings)) return;
    if (!input.defined() || !x.is_same(input)) {
      const at::Tensor rows = x.reshape({-1, x.size(-1)}).to(at::kFloat);
      product = rows.t().mm(rows);
      input = x;
    }
    if (const auto [found, is_new] = hessians.try_emplace(name, product.clone()); !is_new) found->second.add_(product);
  });
  const int64_t T = settings.train_seq_len, batches = settings.gptq_calibration_batches;
  const int64_t of_micro_batch = settings.train_batch_tokens / settings.grad_micro_steps, windows = batches * (of_micro_batch / T);
  ShuffledWindows source(train, T, settings.published_quirks ? 0 : static_cast<uint64_t>(settings.calibration_seed));
  for (int64_t first = 0; first < windows;) {
    const int64_t count = std::min(std::max<int64_t>(kTokens / T, 1), windows - first);
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < count; ++i) {
      const std::vector<uint16_t> window = source.Take();
      ids.insert(ids.end(), window.begin(), window.end());
    }
    model.Logits(at::from_blob(ids.data(), {count, T}, at::kLong));
    input.reset();
    first += count;
    progress(first, windows);
  }
  for (auto& [name, hessian] : hessians) hessian.div_(static_cast<double>(batches));
  // Of a table whose rows are only looked up no error makes good another one.
  for (const auto& [name, weight] : weights)
    if (weight.dim() == 2 && IsTable(RoleOf(name)) && ExportGrid(name, weight.size(0), weight.size(1), settings))
      hessians.try_emplace(name, at::eye(weight.size(1), at::kFloat));
  return hessians;
}

double EstimateSdClip(const Settings& settings) {
  const Plan plan(settings);
  double moments = 0, largest = 0;
  for (const Weight& weight : plan.weights) {
    largest = std::max(largest, static_cast<double>(weight.numel()));
    if (weight.shape.size() == 2) moments += static_cast<double>(weight.shape[1]) * static_cast<double>(weight.shape[1]);
  }
  // float32 weights and their codes, errors of all matrices, Hessians; logits and what is made of them; the singular value
  // decomposition of the largest.
  const double tokens = static_cast<double>(std::max(kTokens, settings.train_seq_len));
  const double activations = tokens * (16.0 * static_cast<double>(settings.vocab_size) + 4 * 40.0 * static_cast<double>(settings.model_dim));
  return 9 * static_cast<double>(plan.parameters()) + 4 * moments + activations + 16 * largest + 64e6;
}

CodedMatrices QuantiseSdClip(const NamedTensors& weights, const Hessians& hessians, const Settings& settings) {
  CodedMatrices coded;
  struct Error {
    double norm;
    std::string name;
    at::Tensor tensor;
  };
  std::vector<Error> errors;
  for (const auto& [name, stored] : weights) {
    const at::Tensor weight = stored.detach().to(at::kFloat).contiguous();
    if (weight.dim() != 2) continue;
    if (settings.gated_attn_quant_gate && RoleOf(name) == Role::kAttentionGate && weight.numel() >= 32 && weight.numel() <= 8192) {
      coded[name] = {QuantiseRowMaximum(Floats(weight), weight.size(0), 8), std::nullopt};
      continue;
    }
    if (!ExportGrid(name, weight.size(0), weight.size(1), settings)) continue;
    const bool token = RoleOf(name) == Role::kTokenEmbedding;
    CodedMatrix& matrix = coded[name];
    matrix.matrix = QuantiseSdClip(weight, hessians.at(name), token ? settings.embed_bits : settings.matrix_bits,
                                   ClipSigmas(RoleOf(name), settings));
    const at::Tensor error = weight - TensorOf(matrix.matrix.Values(), weight.sizes());
    errors.push_back({error.norm().item<float>(), name, error});
  }
  if (!settings.lqer_enabled || settings.lqer_rank == 0) return coded;
  std::ranges::stable_sort(errors, std::ranges::greater(), &Error::norm);
  if (static_cast<int64_t>(errors.size()) > settings.lqer_top_k) errors.resize(settings.lqer_top_k);
  for (const Error& error : errors) coded[error.name].correction = CorrectLowRank(error.tensor, settings);
  return coded;
}

}  // namespace fairway
