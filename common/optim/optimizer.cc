#include "common/optim/optimizer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "common/model/ops/team.h"
#include "common/optim/flat_kernels.h"
#include "common/optim/muon.h"

namespace fairway {

Optimizer::Optimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters, FlatTensors gradients)
    : settings_(settings),
      parameters_(std::move(parameters)),
      gradients_(std::move(gradients)),
      // Compat keeps the moments in the parameter's dtype, as the framework's optimiser does.
      m_(layout, settings.compat ? layout.embeddings_dtype() : at::kFloat, Group::kEmbeddings, Group::kVectors,
         parameters_.device()),
      v_(layout, settings.compat ? layout.embeddings_dtype() : at::kFloat, Group::kEmbeddings, Group::kVectors,
         parameters_.device()),
      momentum_(layout, at::kFloat, Group::kMatrices, Group::kMatrices, parameters_.device()),
      adams_{{Group::kEmbeddings, settings.tie_embeddings ? settings.tied_embed_lr : settings.embed_lr, settings.weight_decay},
             {Group::kHead, settings.head_lr, 0},
             {Group::kVectors, settings.scalar_lr, settings.weight_decay}} {
  auto momentum = momentum_.tensors().begin();
  int64_t scratch = 0;
  for (size_t i = 0; i < layout.entries().size(); ++i) {
    if (layout.entries()[i].group != Group::kMatrices) continue;
    muons_.push_back({parameters_.tensors()[i].second, gradients_.tensors()[i].second, (momentum++)->second});
    scratch = std::max(scratch, MuonScratchBytes(muons_.back().parameter.size(0), muons_.back().parameter.size(1)));
  }
  const auto work = [](const Muon& muon) {
    return muon.parameter.numel() * std::min(muon.parameter.size(0), muon.parameter.size(1));
  };
  std::stable_sort(muons_.begin(), muons_.end(), [&](const Muon& a, const Muon& b) { return work(a) > work(b); });
  scratch_.assign(at::get_num_threads(), std::vector<char>(scratch + 64));
}

double Optimizer::GradientNorm() const {
  const at::Tensor& all = gradients_.buffers().front();
  // The blocks' sums are added in their order: the norm does not depend on the threads.
  constexpr int64_t kBlock = 1 << 18;
  std::vector<double> sums((all.numel() + kBlock - 1) / kBlock);
  RunTeam(at::get_num_threads(), [&](const Team& team) {
    const Rows mine = team.Share(static_cast<int64_t>(sums.size()));
    for (int64_t i = mine.first; i < mine.last; ++i)
      AddSquares(all.const_data_ptr<float>(), &sums[i], {i * kBlock, std::min((i + 1) * kBlock, all.numel())});
  });
  double squares = 0;
  for (double sum : sums) squares += sum;
  return std::sqrt(squares);
}

double Optimizer::ClipFactor(double norm) const {
  return settings_.grad_clip_norm > 0 ? std::min(1.0, settings_.grad_clip_norm / (norm + 1e-6)) : 1;
}

void Optimizer::StepAdam(const Adam& adam, double scale, double gradient_factor) {
  const double steps = static_cast<double>(adam_steps_);
  const AdamStep step{.learning_rate = static_cast<float>(adam.learning_rate * scale),
                      .beta1 = static_cast<float>(settings_.beta1),
                      .beta2 = static_cast<float>(settings_.beta2),
                      .eps = static_cast<float>(settings_.adam_eps),
                      .weight_decay = static_cast<float>(adam.weight_decay),
                      .gradient_factor = static_cast<float>(gradient_factor),
                      .correction1 = static_cast<float>(1 - std::pow(settings_.beta1, steps)),
                      .correction2 = static_cast<float>(1 - std::pow(settings_.beta2, steps))};
  const at::Tensor &parameter = parameters_.group(adam.group), &gradient = gradients_.group(adam.group);
  RunTeam(at::get_num_threads(), [&](const Team& team) {
    AdamUpdate(step, ElementsOf(parameter), gradient.data_ptr<float>(), ElementsOf(m_.group(adam.group)),
               ElementsOf(v_.group(adam.group)), team.Share(parameter.numel(), 16));
  });
}

void Optimizer::StepMuon(double scale, double momentum, double gradient_factor) {
  std::atomic<size_t> next{0};
  RunTeam(static_cast<int>(scratch_.size()), [&](const Team& team) {
    char* scratch = scratch_[team.rank].data();
    scratch += 64 - reinterpret_cast<uintptr_t>(scratch) % 64;
    for (size_t i = next++; i < muons_.size(); i = next++) {
      const Muon& muon = muons_[i];
      MuonUpdate({.rows = muon.parameter.size(0),
                  .columns = muon.parameter.size(1),
                  .momentum = static_cast<float>(momentum),
                  .gradient_factor = static_cast<float>(gradient_factor),
                  .learning_rate = static_cast<float>(settings_.matrix_lr * scale),
                  .weight_decay = static_cast<float>(settings_.muon_weight_decay),
                  .iterations = settings_.muon_backend_steps,
                  .square_by_triangle = !settings_.compat},
                 muon.parameter.data_ptr<float>(), muon.gradient.data_ptr<float>(), muon.momentum.data_ptr<float>(), scratch);
    }
  });
}

void Optimizer::Step(double scale, double momentum, double gradient_factor) {
  ++adam_steps_;
  StepClock clock(profile_);
  for (const Adam& adam : adams_) StepAdam(adam, scale, gradient_factor);
  clock.Done(StepProfile::kAdam);
  StepMuon(scale, momentum, gradient_factor);
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
