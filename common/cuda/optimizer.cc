#include "common/cuda/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/ones_like.h>
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
  constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
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

DeviceOptimizer::DeviceOptimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters, FlatTensors gradients,
                                 Machine& machine)
    : settings_(settings),
      machine_(machine),
      parameters_(std::move(parameters)),
      gradients_(std::move(gradients)),
      // Compat keeps the moments in the parameter's dtype, as the framework's optimiser does.
      m_(layout, settings.compat ? layout.embeddings_dtype() : at::kFloat, Group::kEmbeddings, Group::kVectors,
         machine.device()),
      v_(layout, settings.compat ? layout.embeddings_dtype() : at::kFloat, Group::kEmbeddings, Group::kVectors,
         machine.device()),
      momentum_(layout, at::kFloat, Group::kMatrices, Group::kMatrices, machine.device()),
      nesterov_(at::zeros_like(momentum_.group(Group::kMatrices), at::kBFloat16)),
      adams_{{Group::kEmbeddings, settings.tie_embeddings ? settings.tied_embed_lr : settings.embed_lr, settings.weight_decay},
             {Group::kHead, settings.head_lr, 0},
             {Group::kVectors, settings.scalar_lr, settings.weight_decay}},
      norm_(ScalarBeside(parameters_)),
      factor_(ScalarBeside(parameters_)),
      inverse_factor_(ScalarBeside(parameters_)),
      learning_rate_(ScalarBeside(parameters_)),
      steps_(ScalarBeside(parameters_)) {
  std::map<std::pair<int64_t, int64_t>, Muons> by_shape;
  for (size_t i = 0; i < layout.entries().size(); ++i) {
    const FlatLayout::Entry& entry = layout.entries()[i];
    if (entry.group != Group::kMatrices) continue;
    const int64_t rows = entry.spec.shape[0], columns = entry.spec.shape[1];
    Muons& muons = by_shape[{rows, columns}];
    muons.scale = std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(columns)));
    muons.parameters.push_back(parameters_.tensors()[i].second);
    muons.nesterovs.push_back(nesterov_.narrow(0, entry.range.first - layout.range(Group::kMatrices).first, entry.range.size())
                                  .view(entry.spec.shape));
  }
  for (const auto& [shape, muons] : by_shape) muons_.push_back(muons);
}

void DeviceOptimizer::Step(double scale, double momentum, bool clip) {
  const at::NoGradGuard no_grad;
  const auto set = [](at::Tensor scalar, const at::Tensor& value) { scalar.copy_(value); };
  std::vector<at::Tensor> norms;
  for (const at::Tensor& gradients : gradients_.buffers())
    norms.push_back(at::linalg_vector_norm(gradients, 2, {}, false, at::kFloat));
  set(norm_, at::linalg_vector_norm(at::stack(norms)));
  at::Tensor factor = at::ones_like(norm_);
  if (clip && settings_.grad_clip_norm > 0) factor = (settings_.grad_clip_norm / (norm_ + 1e-6)).clamp_max(1);
  set(factor_, factor);
  set(inverse_factor_, factor.reciprocal());

  ++adam_steps_;
  at::Tensor(steps_).fill_(static_cast<double>(adam_steps_));
  for (const Adam& adam : adams_) {
    // Moments wider than the parameter (bfloat16 embeddings): the step is taken in the moments' dtype.
    const at::Tensor &parameter = parameters_.group(adam.group), &m = m_.group(adam.group);
    if (parameter.numel() == 0) continue;
    const at::Tensor weight = parameter.to(m.scalar_type());
    at::Tensor(learning_rate_).fill_(adam.learning_rate * scale);
    at::_fused_adamw_({weight}, {gradients_.group(adam.group).to(m.scalar_type())}, {m}, {v_.group(adam.group)}, {}, {steps_},
                      learning_rate_, settings_.beta1, settings_.beta2, adam.weight_decay, settings_.adam_eps,
                      /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/inverse_factor_);
    if (!weight.is_same(parameter)) parameter.copy_(weight);
  }

  const at::Tensor &gradient = gradients_.group(Group::kMatrices), &buffer = momentum_.group(Group::kMatrices);
  machine_.Launch(MuonMomentum{.count = gradient.numel(),
                      .factor = factor_.const_data_ptr<float>(),
                      .beta = static_cast<float>(momentum),
                      .gradient = gradient.const_data_ptr<float>(),
                      .momentum = buffer.mutable_data_ptr<float>(),
                      .nesterov = static_cast<BFloat16*>(nesterov_.mutable_data_ptr())});
  for (const Muons& muons : muons_) {
    const at::Tensor updates = NewtonSchulzOf(at::stack(muons.nesterovs), settings_.muon_backend_steps).contiguous();
    for (size_t i = 0; i < muons.parameters.size(); ++i) {
      const at::Tensor update = updates[static_cast<int64_t>(i)];
      machine_.Launch(MuonUpdate{.count = update.numel(),
                        .learning_rate = static_cast<float>(settings_.matrix_lr * scale),
                        .decay = static_cast<float>(settings_.muon_weight_decay),
                        .scale = static_cast<float>(muons.scale),
                        .update = static_cast<const BFloat16*>(update.const_data_ptr()),
                        .parameter = muons.parameters[i].mutable_data_ptr<float>()});
    }
  }
  for (const at::Tensor& gradients : gradients_.buffers()) gradients.zero_();
}

double DeviceOptimizer::GradientNorm() const { return norm_.item<float>(); }

NamedTensors DeviceOptimizer::State() const {
  NamedTensors state;
  for (size_t i = 0; i < m_.tensors().size(); ++i) {
    const std::string& name = m_.tensors()[i].first;
    state.emplace_back("adam_m/" + name, m_.tensors()[i].second);
    state.emplace_back("adam_v/" + name, v_.tensors()[i].second);
  }
  for (const auto& [name, tensor] : momentum_.tensors()) state.emplace_back("muon/" + name, tensor);
  return state;
}

}  // namespace fairway::cuda
