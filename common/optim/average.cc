#include "common/optim/average.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros_like.h>

#include "common/model/ops/team.h"
#include "common/optim/flat_kernels.h"

namespace fairway {

Ema::Ema(const FlatLayout& layout, const FlatTensors& parameters, double decay, bool from_init)
    : parameters_(parameters),
      values_(layout, at::kFloat, Group::kEmbeddings, Group::kMatrices, parameters.device()),
      decay_(decay),
      from_init_(from_init) {
  if (!from_init) return;
  for (size_t i = 0; i < values_.tensors().size(); ++i) values_.tensors()[i].second.copy_(parameters_.tensors()[i].second);
}

void Ema::Update() {
  const float decay = updates_ == 0 && !from_init_ ? 0 : static_cast<float>(decay_);  // the first takes the weights as they are
  ++updates_;
  if (!parameters_.device().is_cpu()) {
    for (size_t i = 0; i < values_.tensors().size(); ++i)
      values_.tensors()[i].second.lerp_(parameters_.tensors()[i].second.to(at::kFloat), 1 - decay);
    return;
  }
  // The embeddings may be of another dtype, and so in a buffer of their own.
  float* average = values_.buffers().front().data_ptr<float>();
  for (const at::Tensor& buffer : parameters_.buffers()) {
    RunTeam(at::get_num_threads(),
            [&](const Team& team) { MovingAverage(decay, ElementsOf(buffer), average, team.Share(buffer.numel(), 16)); });
    average += buffer.numel();
  }
}

Swa::Swa(const NamedTensors& parameters, bool published_quirks) : parameters_(parameters) {
  for (const auto& [name, parameter] : parameters)
    sums_.emplace_back(name, at::zeros_like(parameter, published_quirks ? parameter.scalar_type() : at::kFloat));
}

void Swa::AddSnapshot() {
  for (size_t i = 0; i < sums_.size(); ++i) sums_[i].second.add_(parameters_[i].second);
  ++snapshots_;
}

}  // namespace fairway
