#include "common/train/average.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

namespace fairway {

Ema::Ema(const NamedTensors& parameters, double decay) : parameters_(parameters), decay_(decay) {
  for (const auto& [name, parameter] : parameters) values_.emplace_back(name, at::zeros(parameter.sizes()));
}

void Ema::Update() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < values_.size(); ++i) {
    const at::Tensor weight = parameters_[i].second.detach().to(at::kFloat);
    if (updates_ == 0) {
      values_[i].second.copy_(weight);
    } else {
      values_[i].second.mul_(decay_).add_(weight, 1 - decay_);
    }
  }
  ++updates_;
}

Swa::Swa(const NamedTensors& parameters, bool compat) : parameters_(parameters) {
  for (const auto& [name, parameter] : parameters)
    sums_.emplace_back(name, at::zeros(parameter.sizes(), compat ? parameter.scalar_type() : at::kFloat));
}

void Swa::AddSnapshot() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < sums_.size(); ++i) sums_[i].second.add_(parameters_[i].second.detach());
  ++snapshots_;
}

}  // namespace fairway
