// Everything a training run carries from step to step, and the step itself (pull request 531). No clock, no log, no
// files but the checkpoint: train.h holds the loop around it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/average/source.h"
#include "common/checkpoint/checkpoint.h"
#include "common/model/flat.h"
#include "common/optim/average.h"
#include "common/optim/exchange.h"
#include "common/optim/optimizer.h"
#include "common/parallel/communicator.h"
#include "common/runtime/runtime.h"
#include "common/settings/settings.h"
#include "common/tokens/shards.h"
#include "common/train/batches.h"

namespace fairway {

class Trainer {
 public:
  // Initial weights from settings.seed, the stream at its beginning. REQUIRES: settings.CheckTraining(world size) passed.
  // On `device`, or with null on the CPU.
  //
  // Ranks train one model together: each takes its share of every step's micro-batches, side by side in the stream, and all have the
  // same weights after it. What is called here is called by all of them, but for accessors, Save and FindNonFinite.
  Trainer(const Settings& settings, ShardSet train, cuda::Device* device = nullptr,
          Communicator& communicator = Communicator::Single());

  // Called between micro-batches, by all ranks together, and in a single process between the chunks of one: where it returns true, the
  // step is abandoned.
  void SetStop(std::function<bool()> stop);
  // Thrown by a call that is abandoned and cannot report it otherwise.
  struct Cancelled {};

  // Forward and backward over the step's micro-batches; the gradients of their mean loss are in gradients() afterwards: of several
  // ranks, those of a matrix on the rank that steps it.
  // Returns each micro-batch's loss in nats, in the order of the stream, all ranks' alike; none where the step was abandoned, and then
  // everything is as it was before.
  std::vector<float> AccumulateGradients();
  // Clips, steps the optimisers with every learning rate times `scale`, updates the EMA, counts the step, and takes an SWA
  // snapshot where the rule asks for one. Returns the gradient norm before clipping; where that is no finite number, nothing was done.
  double Update(double scale);
  // Counts the step and leaves its update out.
  void SkipUpdate();
  // The first tensor with an element that is no finite number: of all that a checkpoint holds; then, of the gradients, as "gradient
  // of NAME". Empty where there is none.
  std::string FindNonFinite() const;
  // Late QAT from now on, on the export's grid: where that follows from a budget, the steps are chosen here and stay (late_qat.h).
  // Returns how many matrices it replaces in each step. In a single process it may throw Cancelled, and has changed nothing then.
  int64_t StartFakeQuantisation();
  // To be called before each step, with the share of the training that is over: from the first on with at least enable_looping_at, and
  // for good, passes visit the looped segment num_loops + 1 times. Returns whether that begins now.
  bool LoopFrom(double fraction);
  // warmup_steps steps, and where the model has loops as many looped ones, or those before one that is given up, that leave no
  // trace: everything is put back to where it was, but with `keeps_momentum` Muon's momentum, which pull request 1855 forgets to
  // put back where ranks train together. `on_step` is called with 1, 2, …
  void WarmUp(const std::function<void(int64_t)>& on_step) { WarmUp(on_step, optimizer_->ClipsPerRank()); }
  void WarmUp(const std::function<void(int64_t)>& on_step, bool keeps_momentum);
  int64_t WarmUpSteps() const { return settings_.warmup_steps * (settings_.num_loops > 0 ? 2 : 1); }

  // The model with its weights as they are, for scoring between two steps. In a single process it may throw Cancelled.
  Engine& ModelForScoring();
  // Calls use(model) with the weights of `source` in their place, in their storage dtypes. REQUIRES: the averages it names have begun.
  void WithWeights(const Source& source, const std::function<void(Engine&)>& use);
  const NamedTensors& parameters() const { return parameters_.tensors(); }
  const NamedTensors& gradients() const { return gradients_.tensors(); }
  int64_t step() const { return step_; }  // steps taken
  int64_t skipped_updates() const { return skipped_updates_; }  // of these, the ones whose update was left out
  bool fake_quantises() const { return qat_first_step_.has_value(); }
  std::optional<double> qat_step() const { return qat_step_; }  // what late QAT's steps follow from, where a budget chose them
  int64_t ema_updates() const { return ema_ ? ema_->updates() : 0; }
  int64_t swa_snapshots() const { return swa_ ? swa_->snapshots() : 0; }
  double data_wait_seconds() const { return data_wait_before_ + batches_.wait_seconds(); }
  const ShardSet& shards() const { return batches_.shards(); }

  // Times operations from now on; null stops it. `profile` must outlive this or the next call.
  void SetProfile(StepProfile* profile);

  // Gathers the state that is distributed over ranks, and waits until the device has computed it: to be called before Save, which may
  // run on another thread, with a stream of its own.
  void ShareState();
  // Adds every tensor and counter that Restore needs. Whichever rank writes it, the checkpoint is the same.
  void Save(CheckpointWriter& writer, Counters& counters) const;
  // REQUIRES: the checkpoint is of the same settings. Continues bit for bit from where Save was called.
  void Restore(const CheckpointReader& checkpoint);

 private:
  // Late QAT's steps, yet to be filled in, of every linear layer that is exported as codes.
  FixedSteps EmptySteps() const;

  // Name in the checkpoint and storage of all that changes by steps, and late QAT's own once they are chosen.
  NamedTensors State() const;

  // What an update multiplies gradients of this norm by.
  double GradientFactor(double norm) const;

  // Throws Cancelled where the step is to be abandoned.
  void CheckStop() const;
  // All of this rank's micro-batches. May throw Cancelled.
  void AccumulateAll(const Engine::OnBlock& on_block);

  Settings settings_;
  Communicator& communicator_;
  Batches batches_;
  bool looped_ = false;  // as LoopFrom last had it
  FlatLayout layout_;
  FlatTensors parameters_, gradients_;
  std::unique_ptr<Engine> model_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<GradientExchange> exchange_;  // of several ranks
  std::optional<double> own_norm_;            // where each clips its own gradients: the largest of their norms
  std::optional<Ema> ema_;
  std::optional<Swa> swa_;
  int64_t step_ = 0, skipped_updates_ = 0;
  std::optional<int64_t> qat_first_step_;
  int64_t qat_replacements_ = 0;  // matrices, once per step each
  std::optional<double> qat_step_;  // where a budget chose late QAT's steps: what they follow from, and they
  FixedSteps qat_steps_;
  StepProfile* profile_ = nullptr;
  std::function<bool()> stop_;
  double data_wait_before_ = 0;  // of the processes that this run was resumed from
};

}  // namespace fairway
