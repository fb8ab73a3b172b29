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

#include "common/quantise/grid.h"

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

Optimizer::Optimizer(const Settings& settings, const NamedTensors& parameters)
    : settings_(settings), parameters_(parameters) {
  for (const auto& [name, parameter] : parameters) {
    const bool embedding = name == "tok_emb.weight" || name == "bigram.embed.weight", head = name == "lm_head.weight";
    if (!embedding && !head && parameter.dim() == 2 && !IsControlTensor(name, settings)) {
      muons_.push_back({name, parameter, at::zeros(parameter.sizes())});
      continue;
    }
    const double learning_rate = head                        ? settings.head_lr
                                 : !embedding                ? settings.scalar_lr
                                 : settings.tie_embeddings ? settings.tied_embed_lr
                                                             : settings.embed_lr;
    // Compat keeps the moments in the parameter's dtype, as the framework's optimiser does.
    const at::ScalarType moments = settings.compat ? parameter.scalar_type() : at::kFloat;
    adams_.push_back({name, parameter, at::zeros(parameter.sizes(), moments), at::zeros(parameter.sizes(), moments),
                      learning_rate, head ? 0.0 : settings.weight_decay});
  }
}

double Optimizer::ClipGradients() {
  std::vector<at::Tensor> norms;
  for (const auto& [name, parameter] : parameters_) {
    if (!parameter.grad().defined()) continue;
    // Compat: the norm of a bfloat16 gradient is a bfloat16 number.
    const auto dtype = settings_.compat ? parameter.scalar_type() : at::kFloat;
    norms.push_back(at::linalg_vector_norm(parameter.grad(), 2, {}, false, dtype).to(at::kFloat));
  }
  const double norm = at::linalg_vector_norm(at::stack(norms)).item<float>();
  if (settings_.grad_clip_norm > 0) {
    const double factor = std::min(1.0, settings_.grad_clip_norm / (norm + 1e-6));
    for (const auto& [name, parameter] : parameters_)
      if (parameter.grad().defined()) parameter.mutable_grad().mul_(factor);
  }
  return norm;
}

void Optimizer::StepAdam(Adam& adam, double scale) {
  if (!adam.parameter.grad().defined()) return;
  // Moments wider than the parameter (bfloat16 embeddings): the step is taken in the moments' dtype.
  const at::ScalarType dtype = adam.m.scalar_type();
  at::Tensor weight = adam.parameter.detach().to(dtype);
  const at::Tensor steps = at::full({}, static_cast<double>(adam_steps_), at::kFloat);
  at::_fused_adamw_({weight}, {adam.parameter.grad().to(dtype)}, {adam.m}, {adam.v}, {}, {steps},
                    adam.learning_rate * scale, settings_.beta1, settings_.beta2, adam.weight_decay, settings_.adam_eps,
                    /*amsgrad=*/false, /*maximize=*/false);
  if (dtype != adam.parameter.scalar_type()) adam.parameter.copy_(weight);
}

void Optimizer::Step(double scale, double momentum) {
  const at::NoGradGuard no_grad;
  ++adam_steps_;
  for (Adam& adam : adams_) StepAdam(adam, scale);
  const double learning_rate = settings_.matrix_lr * scale;
  for (Muon& muon : muons_) {
    muon.parameter.mul_(1 - learning_rate * settings_.muon_weight_decay);
    if (!muon.parameter.grad().defined()) continue;
    muon.momentum.mul_(momentum).add_(muon.parameter.grad());
    const at::Tensor nesterov = muon.parameter.grad().add(muon.momentum, momentum);
    muon.parameter.add_(NewtonSchulz(nesterov, settings_.muon_backend_steps).to(at::kFloat), -learning_rate);
  }
}

void Optimizer::ClearGradients() {
  for (auto& [name, parameter] : parameters_) parameter.mutable_grad() = at::Tensor();
}

NamedTensors Optimizer::State() const {
  NamedTensors state;
  for (const Adam& adam : adams_) {
    state.emplace_back("adam_m/" + adam.name, adam.m);
    state.emplace_back("adam_v/" + adam.name, adam.v);
  }
  for (const Muon& muon : muons_) state.emplace_back("muon/" + muon.name, muon.momentum);
  return state;
}

}  // namespace fairway
