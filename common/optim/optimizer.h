// The optimisers of pull request 531: Muon for matrices, AdamW for embeddings, vectors and scalars, Adam for an
// untied output layer, over flat parameters and gradients. What the CPU's (cpu_optimizer.h) and a device's (cuda/optimizer.h) have in
// common: state, clipping, what ranks exchange.
#pragma once

#include "common/model/flat.h"
#include "common/model/step_profile.h"
#include "common/optim/partition.h"
#include "common/parallel/communicator.h"

namespace fairway {

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  // The 2-norm of all gradients together.
  double GradientNorm() const;
  // What clips gradients of this norm to grad_clip_norm (<= 0: leaves them): a factor for Step.
  double ClipFactor(double norm) const;
  // Whether each of several ranks clips its own gradients before they are summed (published_quirks of pull request 1855).
  bool ClipsPerRank() const;
  // Clips gradients that are this rank's share of the mean over all ranks: afterwards their sum over the ranks is
  // world_size times the mean of what each has clipped, rounded to bfloat16 where Muon steps them. Returns the largest norm of a
  // rank's own mean gradient; where that is no finite number, nothing was done.
  double ClipPerRank();
  // One step with every learning rate times `scale` and every gradient times `gradient_factor`. The gradients are 0 afterwards.
  virtual void Step(double scale, double momentum, double gradient_factor = 1) = 0;
  // Gives all ranks the momentum that each keeps of its own matrices: State holds everything then.
  void ShareMomentum();

  // Times its parts from now on; null stops it.
  void SetProfile(StepProfile* profile) { profile_ = profile; }

  // Moments and momenta under the names they have in a checkpoint (adam_m/NAME, adam_v/NAME, muon/NAME); shared storage.
  NamedTensors State() const;
  int64_t adam_steps() const { return adam_steps_; }
  void set_adam_steps(int64_t steps) { adam_steps_ = steps; }

 protected:
  // Works on the memory of both, its moments beside them. REQUIRES: they are of `layout`, the parameters with the model's dtypes,
  // the gradients float32.
  //
  // Of several ranks each steps the matrices that the partition assigns to it, and all take the update; gradients are as
  // GradientExchange leaves them. GradientNorm, Step and ShareMomentum are called by all ranks together.
  Optimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters, FlatTensors gradients, Communicator& communicator);

  struct Adam {
    Group group;
    double learning_rate, weight_decay;
  };

  // The sum of the squares of these gradients.
  virtual double Squares(FlatRange range) const = 0;
  // Whether this rank steps a matrix, by its number among the matrices.
  bool IsLocal(size_t matrix) const { return partition_.matrices()[matrix].rank == communicator_.rank(); }
  // Sends this rank's updates to all, and receives theirs.
  std::unique_ptr<Communicator::Transfer> ShareUpdates();

  // Whether published_quirks takes those of pull request 1855: gradients and momentum of matrices are rounded to bfloat16.
  bool quirks_1855() const { return settings_.published_quirks && settings_.published_entry == "1855"; }

  const Settings settings_;
  const FlatTensors parameters_, gradients_, m_, v_, momentum_;
  const at::Tensor updates_;  // Muon's, bfloat16 in the layout's order
  const std::vector<Adam> adams_;
  const Partition partition_;
  Communicator& communicator_;
  int64_t adam_steps_ = 0;
  StepProfile* profile_ = nullptr;

 private:
  // One message for each matrix, of what a group-wide tensor holds of it.
  std::vector<Message> Matrices(const at::Tensor& of_group) const;
};

}  // namespace fairway
