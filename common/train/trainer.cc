#include "common/train/trainer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/checkpoint/counter_names.h"
#include "common/model/initialise.h"
#include "common/model/tensors.h"
#include "common/optim/schedule.h"

namespace fairway {
namespace {

constexpr char kDataPosition[] = "data.position";  // tokens of the stream consumed
constexpr char kAdamSteps[] = "adam.steps";

FlatTensors InitialFlatParameters(const Settings& settings, const FlatLayout& layout) {
  FlatTensors flat(layout, layout.embeddings_dtype());
  const NamedTensors initial = InitialParameters(settings);
  for (size_t i = 0; i < initial.size(); ++i) flat.tensors()[i].second.copy_(initial[i].second);
  return flat;
}

}  // namespace

Trainer::Trainer(const Settings& settings, ShardSet train)
    : settings_(settings),
      stream_(std::move(train)),
      layout_(settings),
      parameters_(InitialFlatParameters(settings, layout_)),
      gradients_(layout_, layout_.embeddings_dtype()),
      model_(settings, Leaves(parameters_, gradients_)),
      optimizer_(settings, layout_, parameters_, gradients_) {
  if (const int64_t held = shards().tokens(); held <= settings.train_seq_len) {
    throw InputError(shards().files().front(), StringPrintf("the training split holds %ld tokens where at least %ld are needed",
                                                            held, settings.train_seq_len + 1));
  }
  if (settings.ema_enabled) ema_.emplace(model_.parameters(), settings.ema_decay);
  if (settings.swa_enabled) swa_.emplace(model_.parameters(), settings.compat);
}

std::vector<float> Trainer::AccumulateGradients() {
  const int64_t tokens = settings_.train_batch_tokens / settings_.grad_micro_steps, T = settings_.train_seq_len;
  const int64_t sequences = tokens / T;
  const int64_t at_a_time = settings_.micro_batch_seqs > 0 ? std::min(settings_.micro_batch_seqs, sequences) : sequences;
  std::vector<float> losses;
  for (int64_t micro = 0; micro < settings_.grad_micro_steps; ++micro) {
    // One token more than there are targets; the next span starts after it (specification 1, section 4).
    const std::vector<uint16_t> span = stream_.Take(tokens + 1);
    const at::Tensor ids = at::empty({tokens + 1}, at::kLong);
    std::copy(span.begin(), span.end(), ids.mutable_data_ptr<int64_t>());
    const at::Tensor inputs = ids.narrow(0, 0, tokens).view({sequences, T});
    const at::Tensor targets = ids.narrow(0, 1, tokens).view({sequences, T});
    double loss_of_micro = 0;
    for (int64_t first = 0; first < sequences; first += at_a_time) {
      const int64_t count = std::min(at_a_time, sequences - first);
      const double share = static_cast<double>(count) / static_cast<double>(sequences);
      const at::Tensor loss = model_.Loss(inputs.narrow(0, first, count), targets.narrow(0, first, count));
      loss_of_micro += share * loss.item<float>();
      (loss * (share / static_cast<double>(settings_.grad_micro_steps))).backward();
    }
    losses.push_back(static_cast<float>(loss_of_micro));
  }
  return losses;
}

double Trainer::Update(double scale) {
  const double norm = optimizer_.GradientNorm();
  optimizer_.Step(scale, MuonMomentum(settings_, step_), optimizer_.ClipFactor(norm));
  if (ema_) ema_->Update();
  ++step_;
  if (swa_ && scale < settings_.swa_start_frac && step_ % settings_.swa_every == 0) swa_->AddSnapshot();
  return norm;
}

int64_t Trainer::StartFakeQuantisation() {
  qat_first_step_ = step_;
  return model_.SetFakeQuantisation(true);
}

void Trainer::WarmUp(const std::function<void(int64_t)>& on_step) {
  const at::NoGradGuard no_grad;
  NamedTensors before;
  for (const auto& [name, tensor] : State()) before.emplace_back(name, tensor.detach().clone());
  for (int64_t i = 1; i <= settings_.warmup_steps; ++i) {
    {
      const at::AutoGradMode with_grad(true);
      AccumulateGradients();
    }
    optimizer_.Step(/*scale=*/1, settings_.muon_momentum);
    on_step(i);
  }
  NamedTensors state = State();
  for (size_t i = 0; i < state.size(); ++i) state[i].second.copy_(before[i].second);
  optimizer_.set_adam_steps(0);
  stream_.Seek(0);
}

NamedTensors Trainer::State() const {
  NamedTensors state = model_.parameters();
  if (ema_)
    for (const auto& [name, tensor] : ema_->values()) state.emplace_back("ema/" + name, tensor);
  if (swa_)
    for (const auto& [name, tensor] : swa_->sums()) state.emplace_back("swa_sum/" + name, tensor);
  const NamedTensors optimizer = optimizer_.State();
  state.insert(state.end(), optimizer.begin(), optimizer.end());
  return state;
}

void Trainer::Save(CheckpointWriter& writer, Counters& counters) const {
  for (const auto& [name, tensor] : State()) AddTensor(writer, name, tensor);
  counters.Set(counter::kSteps, static_cast<double>(step_));
  counters.Set(counter::kTokens, static_cast<double>(step_ * settings_.train_batch_tokens));
  counters.Set(counter::kDataWaitSeconds, data_wait_seconds());
  counters.Set(kDataPosition, static_cast<double>(stream_.position()));
  counters.Set(kAdamSteps, static_cast<double>(optimizer_.adam_steps()));
  if (ema_) counters.Set(counter::kEmaUpdates, static_cast<double>(ema_->updates()));
  if (swa_) counters.Set(counter::kSwaSnapshots, static_cast<double>(swa_->snapshots()));
  counters.Set(counter::kQatReplacements, static_cast<double>(qat_replacements_before_ + model_.fake_quantisations()));
  if (qat_first_step_) counters.Set(counter::kQatFirstStep, static_cast<double>(*qat_first_step_));
}

void Trainer::Restore(const CheckpointReader& checkpoint) {
  for (const auto& [name, tensor] : State()) CopyTensor(checkpoint, name, tensor.detach());
  const Counters& counters = checkpoint.counters();
  const auto count = [&](const char* name) { return static_cast<int64_t>(counters.Get(name)); };
  step_ = count(counter::kSteps);
  stream_.Seek(count(kDataPosition));
  optimizer_.set_adam_steps(count(kAdamSteps));
  if (ema_) ema_->set_updates(count(counter::kEmaUpdates));
  if (swa_) swa_->set_snapshots(count(counter::kSwaSnapshots));
  qat_replacements_before_ = count(counter::kQatReplacements);
  data_wait_before_ = counters.Get(counter::kDataWaitSeconds);
  if (counters.Has(counter::kQatFirstStep)) {
    model_.SetFakeQuantisation(true);
    qat_first_step_ = count(counter::kQatFirstStep);
  }
}

}  // namespace fairway
