// The optimisers of specification 1, section 4: Muon for matrices, AdamW for embeddings, vectors and scalars, Adam for an
// untied output layer, over flat parameters and gradients.
#pragma once

#include "common/model/flat.h"
#include "common/model/step_profile.h"

namespace fairway {

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Works on the memory of both, its moments beside them. REQUIRES: they are of `layout`, the parameters with the model's dtypes, the gradients float32.
  Optimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters, FlatTensors gradients);

  // The 2-norm of all gradients together.
  virtual double GradientNorm() const;
  // What clips gradients of this norm to grad_clip_norm (<= 0: leaves them): a factor for Step.
  double ClipFactor(double norm) const;
  // One step with every learning rate times `scale` and every gradient times `gradient_factor`. The gradients are 0 afterwards.
  virtual void Step(double scale, double momentum, double gradient_factor = 1);

  // Times its parts from now on; null: no more.
  void SetProfile(StepProfile* profile) { profile_ = profile; }

  // Moments and momenta under the names they have in a checkpoint (adam_m/NAME, adam_v/NAME, muon/NAME); shared storage.
  NamedTensors State() const;
  int64_t adam_steps() const { return adam_steps_; }
  void set_adam_steps(int64_t steps) { adam_steps_ = steps; }

 protected:
  struct Adam {
    Group group;
    double learning_rate, weight_decay;
  };

  const Settings settings_;
  const FlatTensors parameters_, gradients_, m_, v_, momentum_;
  const std::vector<Adam> adams_;
  int64_t adam_steps_ = 0;

 private:
  struct Muon {
    at::Tensor parameter, gradient, momentum;
  };
  void StepAdam(const Adam& adam, double scale, double gradient_factor);
  void StepMuon(double scale, double momentum, double gradient_factor);

  std::vector<Muon> muons_;  // the most work first
  std::vector<std::vector<char>> scratch_;  // of each thread
  StepProfile* profile_ = nullptr;
};

}  // namespace fairway
