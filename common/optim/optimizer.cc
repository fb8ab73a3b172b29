#include "common/optim/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace fairway {

at::Tensor NewtonSchulz(const at::Tensor& g, int64_t steps) {
  constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
  const double rows = g.size(0), cols = g.size(1);
  at::Tensor x = g.to(at::kBFloat16);
  x = x / (at::linalg_vector_norm(x) + 1e-7);
  if (rows > cols) x = x.t();
  for (int64_t i = 0; i < steps; ++i) {
    const at::Tensor gram = at::matmul(x, x.t());
    x = a * x + at::matmul(b * gram + at::matmul(c * gram, gram), x);
  }
  if (rows > cols) x = x.t();
  return x * std::sqrt(std::max(1.0, rows / cols));
}

Optimizer::Optimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters, FlatTensors gradients)
    : settings_(settings),
      parameters_(std::move(parameters)),
      gradients_(std::move(gradients)),
      // Compat keeps the moments in the parameter's dtype, as the framework's optimiser does.
      m_(layout, settings.compat ? layout.embeddings_dtype() : at::kFloat, Group::kEmbeddings, Group::kVectors),
      v_(layout, settings.compat ? layout.embeddings_dtype() : at::kFloat, Group::kEmbeddings, Group::kVectors),
      momentum_(layout, at::kFloat, Group::kMatrices, Group::kMatrices),
      adams_{{Group::kEmbeddings, settings.tie_embeddings ? settings.tied_embed_lr : settings.embed_lr, settings.weight_decay},
             {Group::kHead, settings.head_lr, 0},
             {Group::kVectors, settings.scalar_lr, settings.weight_decay}} {
  auto momentum = momentum_.tensors().begin();
  for (size_t i = 0; i < layout.entries().size(); ++i) {
    if (layout.entries()[i].group == Group::kMatrices)
      muons_.push_back({parameters_.tensors()[i].second, gradients_.tensors()[i].second, (momentum++)->second});
  }
}

double Optimizer::GradientNorm() const {
  std::vector<at::Tensor> norms;
  // Compat: the norm of a bfloat16 gradient is a bfloat16 number.
  for (const auto& [name, gradient] : gradients_.tensors())
    norms.push_back(at::linalg_vector_norm(gradient, 2, {}, false, settings_.compat ? gradient.scalar_type() : at::kFloat)
                        .to(at::kFloat));
  return at::linalg_vector_norm(at::stack(norms)).item<float>();
}

double Optimizer::ClipFactor(double norm) const {
  return settings_.grad_clip_norm > 0 ? std::min(1.0, settings_.grad_clip_norm / (norm + 1e-6)) : 1;
}

void Optimizer::StepAdam(const Adam& adam, double scale) {
  // Moments wider than the parameter (bfloat16 embeddings): the step is taken in the moments' dtype.
  const at::Tensor &parameter = parameters_.group(adam.group), &m = m_.group(adam.group);
  const at::Tensor weight = parameter.to(m.scalar_type());
  const at::Tensor steps = at::full({}, static_cast<double>(adam_steps_), at::kFloat);
  at::_fused_adamw_({weight}, {gradients_.group(adam.group).to(m.scalar_type())}, {m}, {v_.group(adam.group)}, {}, {steps},
                    adam.learning_rate * scale, settings_.beta1, settings_.beta2, adam.weight_decay, settings_.adam_eps,
                    /*amsgrad=*/false, /*maximize=*/false);
  if (!weight.is_same(parameter)) parameter.copy_(weight);
}

void Optimizer::Step(double scale, double momentum, double gradient_factor) {
  const at::NoGradGuard no_grad;
  for (const at::Tensor& gradients : gradients_.buffers()) gradients.mul_(gradient_factor);
  ++adam_steps_;
  StepClock clock(profile_);
  for (const Adam& adam : adams_) StepAdam(adam, scale);
  clock.Done(StepProfile::kAdam);
  const double learning_rate = settings_.matrix_lr * scale;
  for (const Muon& muon : muons_) {
    muon.parameter.mul_(1 - learning_rate * settings_.muon_weight_decay);
    muon.momentum.mul_(momentum).add_(muon.gradient);
    const at::Tensor nesterov = muon.gradient.add(muon.momentum, momentum);
    muon.parameter.add_(NewtonSchulz(nesterov, settings_.muon_backend_steps).to(at::kFloat), -learning_rate);
  }
  for (const at::Tensor& gradients : gradients_.buffers()) gradients.zero_();
  clock.Done(StepProfile::kMuon);
}

NamedTensors Optimizer::State() const {
  NamedTensors state;
  for (size_t i = 0; i < m_.tensors().size(); ++i) {
    const std::string& name = m_.tensors()[i].first;
    state.emplace_back("adam_m/" + name, m_.tensors()[i].second);
    state.emplace_back("adam_v/" + name, v_.tensors()[i].second);
  }
  for (const auto& [name, tensor] : momentum_.tensors()) state.emplace_back("muon/" + name, tensor);
  return state;
}

}  // namespace fairway
