#include "common/cuda/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <map>


namespace fairway::cuda {
namespace {

at::Tensor ScalarBeside(const FlatTensors& tensors) {
  return at::zeros({}, tensors.buffers().front().options().dtype(at::kFloat));
}

}  // namespace

at::Tensor NewtonSchulzOf(at::Tensor x, int64_t steps) {
  const auto &[a, b, c] = kNewtonSchulz;
  const bool tall = x.size(1) > x.size(2);
  x = x / (at::linalg_vector_norm(x, 2, {1, 2}, /*keepdim=*/true) + 1e-7);
  if (tall) x = x.transpose(1, 2);
  for (int64_t i = 0; i < steps; ++i) {
    const at::Tensor gram = at::bmm(x, x.transpose(1, 2));
    x = at::baddbmm(x, at::baddbmm(gram, gram, gram, b, c), x, a, 1);
  }
  if (tall) x = x.transpose(1, 2);
  return x;
}

namespace {

// x by a factor that is not rounded to x's type first, as a plain number may be.
at::Tensor Times(const at::Tensor& x, double factor) { return at::mul(x, at::scalar_tensor(factor, at::kDouble)); }

}  // namespace

at::Tensor PolarExpressOf(at::Tensor x, int64_t steps) {
  const bool tall = x.size(1) > x.size(2);
  x = x / (at::linalg_vector_norm(x, 2, {1, 2}, /*keepdim=*/true) + 1e-7);
  if (tall) x = x.transpose(1, 2);
  for (int64_t i = 0; i < std::min(steps, kPolarExpressIterations); ++i) {
    const auto& [a, b, c] = kPolarExpress[i];
    const at::Tensor gram = at::bmm(x, x.transpose(1, 2));
    x = Times(x, a) + at::bmm(Times(gram, b) + Times(at::bmm(gram, gram), c), x);
  }
  return tall ? x.transpose(1, 2) : x;
}

at::Tensor RowsNormalised(const at::Tensor& x) {
  return x / at::linalg_vector_norm(x, 2, {2}, /*keepdim=*/true, at::kFloat).clamp_min(1e-7).to(x.scalar_type());
}

DeviceOptimizer::DeviceOptimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters, FlatTensors gradients,
                                 Device& device, Communicator& communicator)
    : Optimizer(settings, layout, std::move(parameters), std::move(gradients), communicator),
      device_(device),
      inverse_factor_(ScalarBeside(parameters_)),
      learning_rate_(ScalarBeside(parameters_)),
      steps_(ScalarBeside(parameters_)) {
  std::map<std::pair<int64_t, int64_t>, MuonBatch> by_shape;
  size_t matrix = 0;
  for (const FlatLayout::Entry& entry : layout.entries()) {
    if (entry.spec.group != Group::kMatrices || !IsLocal(matrix++)) continue;
    const int64_t rows = entry.spec.shape[0], columns = entry.spec.shape[1];
    MuonBatch& muons = by_shape[{rows, columns}];
    muons.scale = std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(columns)));
    muons.updates.push_back(updates_.narrow(0, entry.range.first - partition_.others().last, entry.range.size()).view(entry.spec.shape));
  }
  for (const auto& [shape, muons] : by_shape) muons_.push_back(muons);
}

double DeviceOptimizer::Squares(FlatRange range) const {
  const at::Tensor gradients = gradients_.buffers().front().narrow(0, range.first, range.size());
  const double norm = at::linalg_vector_norm(gradients, 2, {}, false, at::kDouble).item<double>();
  return norm * norm;
}

void DeviceOptimizer::Step(double scale, double momentum, double gradient_factor) {
  inverse_factor_.fill_(1 / gradient_factor);
  steps_.fill_(static_cast<double>(++adam_steps_));
  for (const Adam& adam : adams_) {
    // Moments wider than the parameter (bfloat16 embeddings): the step is taken in the moments' dtype.
    const at::Tensor &parameter = parameters_.group(adam.group), &m = m_.group(adam.group);
    if (parameter.numel() == 0) continue;
    const at::Tensor weight = parameter.to(m.scalar_type());
    learning_rate_.fill_(adam.learning_rate * scale);
    at::_fused_adamw_({weight}, {gradients_.group(adam.group).to(m.scalar_type())}, {m}, {v_.group(adam.group)}, {}, {steps_},
                      learning_rate_, settings_.beta1, settings_.beta2, adam.weight_decay, settings_.adam_eps,
                      /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/inverse_factor_);
    if (!weight.is_same(parameter)) parameter.copy_(weight);
  }

  const at::Tensor &gradient = gradients_.group(Group::kMatrices), &buffer = momentum_.group(Group::kMatrices),
                   &parameter = parameters_.group(Group::kMatrices);
  for (size_t i = 0; i < partition_.matrices().size(); ++i) {
    if (!IsLocal(i)) continue;
    const FlatRange range = partition_.matrices()[i].range;
    const int64_t first = range.first - partition_.others().last;
    if (quirks_1855()) {
      const at::Tensor g = (gradient.narrow(0, first, range.size()) * gradient_factor).to(at::kBFloat16);
      const at::Tensor momentum_of = buffer.narrow(0, first, range.size()), half = (momentum_of * momentum).to(at::kBFloat16).add_(g);
      momentum_of.copy_(half);
      updates_.narrow(0, first, range.size()).copy_(g.add(half, momentum));
      continue;
    }
    device_.Launch(MuonMomentum{.count = range.size(),
                                 .factor = static_cast<float>(gradient_factor),
                                 .beta = static_cast<float>(momentum),
                                 .gradient = gradient.const_data_ptr<float>() + first,
                                 .momentum = buffer.mutable_data_ptr<float>() + first,
                                 .nesterov = static_cast<BFloat16*>(updates_.mutable_data_ptr()) + first});
  }
  for (const MuonBatch& muons : muons_) {
    at::Tensor x = at::stack(muons.updates);
    if (settings_.muon_row_normalize) x = RowsNormalised(x);
    x = settings_.muon_orthogonalize == "polar_express" ? PolarExpressOf(x, settings_.muon_backend_steps)
                                                        : NewtonSchulzOf(x, settings_.muon_backend_steps);
    x.mul_(muons.scale);
    for (size_t i = 0; i < muons.updates.size(); ++i) muons.updates[i].copy_(x[static_cast<int64_t>(i)]);
  }
  communicator_.Wait(ShareUpdates());
  device_.Launch(MuonUpdate{.count = parameter.numel(),
                             .learning_rate = static_cast<float>(settings_.matrix_lr * scale),
                             .decay = static_cast<float>(settings_.muon_weight_decay),
                             .update = static_cast<const BFloat16*>(updates_.const_data_ptr()),
                             .parameter = parameter.mutable_data_ptr<float>()});
  for (const at::Tensor& gradients : gradients_.buffers()) gradients.zero_();
}

}  // namespace fairway::cuda
