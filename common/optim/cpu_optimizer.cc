#include "common/optim/cpu_optimizer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "common/model/ops/team.h"
#include "common/optim/flat_kernels.h"

namespace fairway {

CpuOptimizer::CpuOptimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters, FlatTensors gradients,
                           Communicator& communicator)
    : Optimizer(settings, layout, std::move(parameters), std::move(gradients), communicator) {
  int64_t scratch = 0;
  for (size_t i = 0; i < layout.entries().size(); ++i) {
    const FlatLayout::Entry& entry = layout.entries()[i];
    if (entry.spec.group != Group::kMatrices) continue;
    const size_t matrix = muons_.size();
    muons_.push_back({parameters_.tensors()[i].second, gradients_.tensors()[i].second, momentum_.tensors()[matrix].second,
                      updates_.narrow(0, entry.range.first - layout.range(Group::kMatrices).first, entry.range.size())});
    if (!IsLocal(matrix)) continue;
    own_.push_back(muons_.back());
    scratch = std::max(scratch, MuonScratchBytes(entry.spec.shape[0], entry.spec.shape[1]));
  }
  const auto work = [](const Muon& muon) {
    return muon.parameter.numel() * std::min(muon.parameter.size(0), muon.parameter.size(1));
  };
  std::stable_sort(own_.begin(), own_.end(), [&](const Muon& a, const Muon& b) { return work(a) > work(b); });
  scratch_.assign(at::get_num_threads(), std::vector<char>(scratch + 64));
}

double CpuOptimizer::Squares(FlatRange range) const {
  // The blocks' sums are added in their order: the norm does not depend on the threads.
  constexpr int64_t kBlock = 1 << 18;
  std::vector<double> sums((range.size() + kBlock - 1) / kBlock);
  RunTeam(at::get_num_threads(), [&](const Team& team) {
    const Rows mine = team.Share(static_cast<int64_t>(sums.size()));
    for (int64_t i = mine.first; i < mine.last; ++i)
      AddSquares(gradients_.buffers().front().const_data_ptr<float>(), &sums[i],
                 {range.first + i * kBlock, std::min(range.first + (i + 1) * kBlock, range.last)});
  });
  double squares = 0;
  for (double sum : sums) squares += sum;
  return squares;
}

void CpuOptimizer::StepAdam(const Adam& adam, double scale, double gradient_factor) {
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

MuonStep CpuOptimizer::StepOf(const Muon& muon, double scale, double momentum, double gradient_factor) const {
  const double rate = settings_.matrix_lr * scale;
  const double shape = std::sqrt(std::max(1.0, static_cast<double>(muon.parameter.size(0)) / static_cast<double>(muon.parameter.size(1))));
  return {.rows = muon.parameter.size(0),
          .columns = muon.parameter.size(1),
          .momentum = static_cast<float>(momentum),
          .gradient_factor = static_cast<float>(gradient_factor),
          .learning_rate = static_cast<float>(rate),
          .weight_decay = static_cast<float>(settings_.muon_weight_decay),
          .iterations = settings_.muon_backend_steps,
          .square_by_triangle = !settings_.published_quirks,
          .polar_express = settings_.muon_orthogonalize == "polar_express",
          .normalize_rows = settings_.muon_row_normalize,
          .bfloat16_momentum = quirks_1855(),
          // Of two bfloat16 tensors PyTorch's CPU rounds the factor that one is added with; what the buffer is multiplied by stays.
          .nesterov_momentum = BFloat16ToFloat(FloatToBFloat16(static_cast<float>(momentum))),
          .keep = static_cast<float>(1 - rate * settings_.muon_weight_decay),
          .rate = static_cast<float>(rate * shape)};
}

void CpuOptimizer::Step(double scale, double momentum, double gradient_factor) {
  ++adam_steps_;
  StepClock clock(profile_);
  std::atomic<size_t> next{0};
  RunTeam(static_cast<int>(scratch_.size()), [&](const Team& team) {
    char* scratch = scratch_[team.rank].data();
    scratch += 64 - reinterpret_cast<uintptr_t>(scratch) % 64;
    for (size_t i = next++; i < own_.size(); i = next++) {
      const Muon& muon = own_[i];
      MuonUpdate(StepOf(muon, scale, momentum, gradient_factor), muon.gradient.data_ptr<float>(), muon.momentum.data_ptr<float>(),
                 static_cast<BFloat16*>(muon.update.data_ptr()), scratch);
    }
  });
  clock.Done(StepProfile::kMuon);
  std::unique_ptr<Communicator::Transfer> updates = ShareUpdates();
  for (const Adam& adam : adams_) StepAdam(adam, scale, gradient_factor);
  clock.Done(StepProfile::kAdam);
  communicator_.Wait(std::move(updates));
  next = 0;
  RunTeam(at::get_num_threads(), [&](const Team&) {
    for (size_t i = next++; i < muons_.size(); i = next++) {
      const Muon& muon = muons_[i];
      MuonApply(StepOf(muon, scale, momentum, gradient_factor), static_cast<const BFloat16*>(muon.update.data_ptr()),
                muon.parameter.data_ptr<float>(), {0, muon.parameter.numel()});
      if (!IsLocal(i)) muon.gradient.zero_();
    }
  });
  clock.Done(StepProfile::kMuon);
}

}  // namespace fairway
