#include "common/train/trainer.h"

#include <cmath>
#include <exception>

#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros_like.h>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/checkpoint/counter_names.h"
#include "common/model/initialise.h"
#include "common/model/tensors.h"
#include "common/settings/schedule.h"
#include "common/train/late_qat.h"

namespace fairway {
namespace {

constexpr char kDataPosition[] = "data.position";  // tokens of the stream consumed
constexpr char kAdamSteps[] = "adam.steps";

FlatTensors InitialFlatParameters(const Settings& settings, const FlatLayout& layout, at::Device device) {
  FlatTensors flat(layout, layout.embeddings_dtype(), Group::kEmbeddings, Group::kMatrices, device);
  const NamedTensors initial = InitialParameters(settings);
  for (size_t i = 0; i < initial.size(); ++i) flat.tensors()[i].second.copy_(initial[i].second);
  return flat;
}

}  // namespace

Trainer::Trainer(const Settings& settings, ShardSet train, cuda::Device* device, Communicator& communicator)
    : settings_(settings),
      communicator_(communicator),
      batches_(settings, std::move(train), communicator.rank(), communicator.world_size()),
      layout_(settings),
      parameters_(InitialFlatParameters(settings, layout_, TorchDevice(device))),
      gradients_(layout_, at::kFloat, Group::kEmbeddings, Group::kMatrices, TorchDevice(device)),
      model_(MakeEngine(settings, parameters_.tensors(), gradients_.tensors(), device)),
      optimizer_(MakeOptimizer(settings, layout_, parameters_, gradients_, device, communicator)) {
  model_->SetLooped(false);
  if (communicator.world_size() > 1) exchange_.emplace(Partition(layout_, communicator.world_size()), gradients_, communicator);
  if (settings.ema_enabled) ema_.emplace(layout_, parameters_, settings.ema_decay, settings.ema_from_init);
  if (settings.swa_enabled) swa_.emplace(parameters(), settings.published_quirks);
}

bool Trainer::LoopFrom(double fraction) {
  if (looped_ || settings_.num_loops == 0 || fraction < settings_.enable_looping_at) return false;
  looped_ = true;
  model_->SetLooped(true);
  return true;
}

void Trainer::SetStop(std::function<bool()> stop) {
  stop_ = std::move(stop);
  // Ranks have chunks of their own sizes, and decide together.
  if (communicator_.world_size() == 1) model_->SetBetweenChunks([this] { CheckStop(); });
}

void Trainer::CheckStop() const {
  if (stop_ && stop_()) throw Cancelled();
}

void Trainer::AccumulateAll(const Engine::OnBlock& on_block) {
  const int64_t micro_steps = settings_.grad_micro_steps / communicator_.world_size();
  const double share = 1 / static_cast<double>(settings_.grad_micro_steps);
  for (int64_t micro = 0; micro < micro_steps; ++micro) {
    CheckStop();
    const MicroBatch batch = batches_.Take();
    if (micro + 1 < micro_steps || !exchange_ || optimizer_->ClipsPerRank()) model_->AccumulateGradients(batch.segments, share);
    else model_->AccumulateLastGradients(batch.segments, share, on_block);
  }
}

std::vector<float> Trainer::AccumulateGradients() {
  const int64_t ranks = communicator_.world_size(), micro_steps = settings_.grad_micro_steps / ranks;
  const int64_t position = batches_.position();
  const int64_t replaced = model_->Prepare(fake_quantises());
  std::exception_ptr failure;  // the engine's threads let nothing through
  try {
    AccumulateAll([&](int64_t block) {
      try {
        if (!failure) exchange_->BlocksFrom(block);
      } catch (...) {
        failure = std::current_exception();
      }
    });
  } catch (const Cancelled&) {
    for (const at::Tensor& gradients : gradients_.buffers()) gradients.zero_();
    batches_.Seek(position);
    return {};
  }
  if (failure) std::rethrow_exception(failure);
  qat_replacements_ += replaced;
  if (!exchange_) {
    model_->FinishGradients();
    return model_->Losses();
  }
  if (optimizer_->ClipsPerRank()) {
    model_->FinishGradients();
    own_norm_ = optimizer_->ClipPerRank();
  }
  exchange_->Finish();
  // Rank by rank there, side by side in the stream.
  const std::vector<float> mine = model_->Losses();
  const std::vector<double> of_ranks = communicator_.Gather(std::vector<double>(mine.begin(), mine.end()));
  std::vector<float> losses;
  for (int64_t micro = 0; micro < micro_steps; ++micro)
    for (int64_t rank = 0; rank < ranks; ++rank) losses.push_back(static_cast<float>(of_ranks[rank * micro_steps + micro]));
  return losses;
}

double Trainer::Update(double scale) {
  StepClock clock(profile_);
  const double norm = own_norm_ ? *own_norm_ : optimizer_->GradientNorm();
  clock.Done(StepProfile::kClip);
  if (!std::isfinite(norm)) return norm;
  optimizer_->Step(scale, MuonMomentum(settings_, step_), GradientFactor(norm));
  clock = StepClock(profile_);
  if (ema_) ema_->Update();
  ++step_;
  if (swa_ && scale < settings_.swa_start_frac && step_ % settings_.swa_every == 0) swa_->AddSnapshot();
  clock.Done(StepProfile::kAverage);
  return norm;
}

double Trainer::GradientFactor(double norm) const {
  return own_norm_ ? 1 / static_cast<double>(communicator_.world_size()) : optimizer_->ClipFactor(norm);
}

void Trainer::SetProfile(StepProfile* profile) {
  profile_ = profile;
  model_->SetProfile(profile);
  optimizer_->SetProfile(profile);
}

void Trainer::SkipUpdate() {
  for (const at::Tensor& gradients : gradients_.buffers()) gradients.zero_();
  ++step_;
  ++skipped_updates_;
}

std::string Trainer::FindNonFinite() const {
  const auto finite = [](const at::Tensor& tensor) { return at::isfinite(tensor).all().item<bool>(); };
  for (const auto& [name, tensor] : State())
    if (!finite(tensor.detach())) return name;
  for (const auto& [name, gradient] : gradients())
    if (!finite(gradient)) return "gradient of " + name;
  return "";
}

FixedSteps Trainer::EmptySteps() const {
  FixedSteps steps;
  const auto options = at::TensorOptions().dtype(at::kFloat).device(parameters().front().second.device());
  for (const auto& [name, weight] : parameters()) {
    if (weight.dim() != 2 || IsTable(RoleOf(name)) || !ExportGrid(name, weight.size(0), weight.size(1), settings_)) continue;
    steps[name] = {at::zeros({weight.size(0)}, options), at::zeros({weight.size(1)}, options)};
  }
  return steps;
}

int64_t Trainer::StartFakeQuantisation() {
  if (TrainsOnBudgetSteps(settings_)) {
    NamedTensors weights;
    for (const auto& [name, weight] : parameters()) weights.emplace_back(name, weight.cpu());
    const auto between = [&] {
      if (communicator_.world_size() == 1) CheckStop();
    };
    const StepsToTrainOn found = FindStepsToTrainOn(weights, settings_, shards(), communicator_, between);
    qat_step_ = found.step;
    qat_steps_ = EmptySteps();
    const auto fill = [](at::Tensor tensor, std::vector<float> values) {
      tensor.copy_(at::from_blob(values.data(), {tensor.numel()}, at::kFloat));
    };
    for (auto& [name, steps] : qat_steps_) {
      fill(steps.rows, found.matrices.at(name).rows);
      fill(steps.columns, found.matrices.at(name).columns);
    }
    model_->FixSteps(qat_steps_);
  }
  qat_first_step_ = step_;
  return model_->Prepare(/*fake_quantise=*/true);
}

Engine& Trainer::ModelForScoring() {
  model_->Prepare(/*fake_quantise=*/false);
  return *model_;
}

void Trainer::WithWeights(const Source& source, const std::function<void(Engine&)>& use) {
  NamedTensors last;
  for (const auto& [name, tensor] : parameters()) last.emplace_back(name, tensor.clone());
  NamedTensors weights = parameters();
  for (size_t i = 0; i < weights.size(); ++i) {
    at::Tensor sum = at::zeros_like(weights[i].second, at::kFloat);
    for (const auto& [set, share] : source) {
      if (set == "last") sum.add_(last[i].second, share);
      else if (set == "ema") sum.add_(ema_->values()[i].second, share);
      else sum.add_(swa_->sums()[i].second, share / static_cast<double>(swa_->snapshots()));
    }
    weights[i].second.copy_(sum);
  }
  const auto put_back = [&] {
    for (size_t i = 0; i < weights.size(); ++i) weights[i].second.copy_(last[i].second);
  };
  try {
    use(ModelForScoring());
  } catch (...) {
    put_back();
    throw;
  }
  put_back();
}

void Trainer::WarmUp(const std::function<void(int64_t)>& on_step, bool keeps_momentum) {
  NamedTensors before;
  for (const auto& [name, tensor] : State()) before.emplace_back(name, tensor.clone());
  if (keeps_momentum) batches_.Take();  // the published script compiles on it first
  for (int64_t i = 0; i < WarmUpSteps(); ++i) {
    model_->SetLooped(i >= settings_.warmup_steps);
    if (AccumulateGradients().empty()) break;
    if (keeps_momentum)
      optimizer_->Step(/*scale=*/1, MuonMomentum(settings_, i % settings_.warmup_steps),
                       GradientFactor(own_norm_ ? 0 : optimizer_->GradientNorm()));
    else
      optimizer_->Step(/*scale=*/1, settings_.muon_momentum);
    on_step(i + 1);
  }
  model_->SetLooped(looped_);
  NamedTensors state = State();
  for (size_t i = 0; i < state.size(); ++i)
    if (!keeps_momentum || !state[i].first.starts_with("muon/")) state[i].second.copy_(before[i].second);
  optimizer_->set_adam_steps(0);
  batches_.Seek(0);
}

void Trainer::ShareState() {
  optimizer_->ShareMomentum();
  parameters().front().second.flatten()[0].item();  // behind all that this thread has put on the device's stream
}

NamedTensors Trainer::State() const {
  NamedTensors state = parameters();
  if (ema_)
    for (const auto& [name, tensor] : ema_->values()) state.emplace_back("ema/" + name, tensor);
  if (swa_)
    for (const auto& [name, tensor] : swa_->sums()) state.emplace_back("swa_sum/" + name, tensor);
  for (const auto& [name, steps] : qat_steps_) {
    state.emplace_back("qat/" + name + ".scale", steps.rows);
    state.emplace_back("qat/" + name + ".column", steps.columns);
  }
  const NamedTensors optimizer = optimizer_->State();
  state.insert(state.end(), optimizer.begin(), optimizer.end());
  return state;
}

void Trainer::Save(CheckpointWriter& writer, Counters& counters) const {
  for (const auto& [name, tensor] : State()) AddTensor(writer, name, tensor);
  counters.Set(counter::kSteps, static_cast<double>(step_));
  counters.Set(counter::kTokens, static_cast<double>(step_ * settings_.train_batch_tokens));
  counters.Set(counter::kSkippedUpdates, static_cast<double>(skipped_updates_));
  counters.Set(counter::kDataWaitSeconds, data_wait_seconds());
  counters.Set(kDataPosition, static_cast<double>(batches_.position()));
  counters.Set(kAdamSteps, static_cast<double>(optimizer_->adam_steps()));
  if (ema_) counters.Set(counter::kEmaUpdates, static_cast<double>(ema_->updates()));
  if (swa_) counters.Set(counter::kSwaSnapshots, static_cast<double>(swa_->snapshots()));
  if (settings_.num_loops > 0) counters.Set(counter::kLooped, looped_);
  counters.Set(counter::kQatReplacements, static_cast<double>(qat_replacements_));
  if (qat_first_step_) counters.Set(counter::kQatFirstStep, static_cast<double>(*qat_first_step_));
  if (qat_step_) counters.Set(counter::kQatStep, *qat_step_);
  for (const auto& [name, steps] : qat_steps_)
    counters.Set(counter::kQatWidthPrefix + name, (steps.rows.log().mean() + steps.columns.log().mean()).exp().item<double>());
}

void Trainer::Restore(const CheckpointReader& checkpoint) {
  const Counters& counters = checkpoint.counters();
  if (counters.Has(counter::kQatStep)) {
    qat_step_ = counters.Get(counter::kQatStep);
    qat_steps_ = EmptySteps();
  }
  for (const auto& [name, tensor] : State()) CopyTensor(checkpoint, name, tensor);
  if (qat_step_) model_->FixSteps(qat_steps_);
  const auto count = [&](const char* name) { return checkpoint.Count(name); };
  step_ = count(counter::kSteps);
  skipped_updates_ = count(counter::kSkippedUpdates);
  batches_.Seek(count(kDataPosition));
  optimizer_->set_adam_steps(count(kAdamSteps));
  if (ema_) ema_->set_updates(count(counter::kEmaUpdates));
  if (swa_) swa_->set_snapshots(count(counter::kSwaSnapshots));
  looped_ = counters.Get(counter::kLooped) != 0;
  model_->SetLooped(looped_);
  qat_replacements_ = count(counter::kQatReplacements);
  data_wait_before_ = counters.Get(counter::kDataWaitSeconds);
  if (counters.Has(counter::kQatFirstStep)) qat_first_step_ = count(counter::kQatFirstStep);
}

}  // namespace fairway
