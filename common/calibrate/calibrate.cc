#include "common/calibrate/calibrate.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_cholesky.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/cholesky_inverse.h>

#include <algorithm>
#include <random>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/cuda/device.h"
#include "common/evaluate/memory.h"
#include "common/model/flat.h"

namespace fairway {
namespace {

std::vector<double> Doubles(const at::Tensor& tensor) {
  const at::Tensor whole = tensor.to(at::kDouble).contiguous();
  return {whole.const_data_ptr<double>(), whole.const_data_ptr<double>() + whole.numel()};
}

bool HasGrid(const std::string& name, const at::Tensor& weight, const Settings& settings) {
  return weight.dim() == 2 && ExportGrid(name, weight.size(0), weight.size(1), settings);
}

// Sums of squared gradients by row and by column.
struct Squares {
  at::Tensor rows, columns;
};

std::map<std::string, Cost> MeasureCosts(const NamedTensors& weights, const Settings& settings,
                                         const std::vector<std::vector<uint16_t>>& windows, const std::function<void()>& done) {
  const FlatLayout layout(settings);
  FlatTensors parameters(layout, layout.embeddings_dtype()), gradients(layout, at::kFloat);
  for (size_t i = 0; i < weights.size(); ++i) parameters.tensors()[i].second.copy_(weights[i].second);
  const std::unique_ptr<Engine> engine = MakeEngine(settings, parameters.tensors(), gradients.tensors(), nullptr);
  std::map<std::string, Squares> sums;
  engine->Prepare(/*fake_quantise=*/false);
  const int64_t T = settings.calibration_tokens;
  for (const std::vector<uint16_t>& window : windows) {
    for (const at::Tensor& buffer : gradients.buffers()) buffer.zero_();
    const uint16_t* const sequence = window.data();
    engine->AccumulateGradients({&sequence, 1}, T, /*share=*/1);
    engine->FinishGradients();
    for (const auto& [name, gradient] : gradients.tensors()) {
      if (!HasGrid(name, gradient, settings)) continue;
      const at::Tensor squares = gradient * gradient;
      const at::Tensor rows = squares.sum(1).to(at::kDouble), columns = squares.sum(0).to(at::kDouble);
      Squares& sum = sums[name];
      sum.rows = sum.rows.defined() ? sum.rows + rows : rows;
      sum.columns = sum.columns.defined() ? sum.columns + columns : columns;
    }
    done();
  }
  // The gradient of a window's mean loss squares to 1 / T of what a single token's does.
  const double scale = static_cast<double>(T) / static_cast<double>(windows.size());
  std::map<std::string, Cost> costs;
  double largest = 0;
  for (const auto& [name, sum] : sums) {
    const auto rows = static_cast<double>(sum.rows.numel()), columns = static_cast<double>(sum.columns.numel());
    costs[name] = {sum.rows.sum().item<double>() * scale / (rows * columns), Doubles(sum.rows * (scale / columns)),
                   Doubles(sum.columns * (scale / rows))};
    largest = std::max(largest, costs[name].mean);
  }
  // A matrix that gradients do not reach costs nothing as far as these windows say; a step must be finite.
  for (auto& [name, cost] : costs) cost.mean = std::max({cost.mean, 1e-8 * largest, 1e-30});
  return costs;
}

std::map<std::string, Feedback> MeasureFeedback(const NamedTensors& weights, const Settings& settings,
                                                const std::vector<std::vector<uint16_t>>& windows,
                                                const std::function<void()>& done) {
  const at::NoGradGuard no_gradients;
  std::map<std::string, at::Tensor> moments;
  Transformer model(settings, weights);
  model.Observe([&](const std::string& name, const at::Tensor& weight, const at::Tensor& x) {
    if (!HasGrid(name, weight, settings)) return;
    const at::Tensor rows = x.reshape({-1, x.size(-1)}).to(at::kFloat);
    const at::Tensor product = rows.t().mm(rows).to(at::kDouble);
    at::Tensor& sum = moments[name];
    sum = sum.defined() ? sum + product : product;
  });
  const int64_t T = settings.calibration_tokens;
  for (const std::vector<uint16_t>& window : windows) {
    const std::vector<int64_t> ids(window.begin(), window.begin() + T);
    model.Logits(at::from_blob(const_cast<int64_t*>(ids.data()), {1, T}, at::kLong));
    done();
  }
  std::map<std::string, Feedback> feedback;
  for (const auto& [name, sum] : moments) {
    feedback[name] = MakeFeedback(sum, static_cast<int64_t>(windows.size()) * T, settings.hessian_damping,
                                  settings.hessian_order == "descending");
    done();
  }
  return feedback;
}

}  // namespace

Feedback MakeFeedback(const at::Tensor& moments, int64_t count, double damping, bool descending) {
  const int64_t n = moments.size(0);
  at::Tensor h = moments / static_cast<double>(count);
  // Inputs that are all zero leave nothing to take a share of.
  const double added = std::max(damping * h.diagonal().mean().item<double>(), 1e-12);
  h = h + added * at::eye(n, at::kDouble);
  const at::Tensor order = descending ? h.diagonal().argsort(/*stable=*/true, /*dim=*/0, /*descending=*/true) : at::arange(n, at::kLong);
  h = h.index_select(0, order).index_select(1, order);
  const at::Tensor inverse = at::cholesky_inverse(at::linalg_cholesky(h));
  const at::Tensor upper = at::linalg_cholesky(inverse, /*upper=*/true).to(at::kFloat).contiguous();
  Feedback feedback;
  feedback.order.assign(order.const_data_ptr<int64_t>(), order.const_data_ptr<int64_t>() + n);
  feedback.upper.assign(upper.const_data_ptr<float>(), upper.const_data_ptr<float>() + n * n);
  return feedback;
}

Calibration Calibrate(const NamedTensors& weights, const Settings& settings, const ShardSet& train,
                      const std::function<void(int64_t, int64_t)>& progress) {
  const int64_t T = settings.calibration_tokens, places = train.tokens() - T;
  if (places < 1) {
    throw InputError(train.files().front(), StringPrintf("the training split holds %ld tokens where a calibration window needs %ld",
                                                         train.tokens(), T + 1));
  }
  std::mt19937_64 random(static_cast<uint64_t>(settings.calibration_seed));
  std::vector<std::vector<uint16_t>> windows(settings.calibration_windows, std::vector<uint16_t>(T + 1));
  for (std::vector<uint16_t>& window : windows)
    train.Read(static_cast<int64_t>(random() % static_cast<uint64_t>(places)), T + 1, window.data());

  const bool hessian = settings.quantiser == "hessian";
  int64_t all = static_cast<int64_t>(windows.size()), so_far = 0;
  if (hessian) {
    all *= 2;
    for (const auto& [name, weight] : weights) all += HasGrid(name, weight, settings) && !name.ends_with("emb.weight") && !name.ends_with("embed.weight");
  }
  const auto done = [&] { progress(++so_far, all); };
  Calibration calibration;
  calibration.costs = MeasureCosts(weights, settings, windows, done);
  if (hessian) calibration.feedback = MeasureFeedback(weights, settings, windows, done);
  return calibration;
}

double EstimateCalibration(const Settings& settings) {
  double weights = 0, moments = 0;
  for (const ParameterSpec& spec : ParameterSpecs(settings)) {
    double numel = 1;
    for (const int64_t size : spec.shape) numel *= static_cast<double>(size);
    weights += numel;
    if (spec.shape.size() == 2) moments += static_cast<double>(spec.shape[1]) * static_cast<double>(spec.shape[1]);
  }
  Settings window = settings;
  window.train_seq_len = settings.calibration_tokens;
  // Parameters, gradients, one tensor's squares; for hessian the plain model's activations are fewer than the engine's.
  const double costs = 12 * weights + EngineBytes(window, 1, /*training=*/true);
  return kLibTorchBytes + costs + (settings.quantiser == "hessian" ? 12 * moments + 64e6 : 0);
}

}  // namespace fairway
