// The optimisers of specification 1, section 4: Muon for matrices, AdamW for embeddings, vectors and scalars, Adam for an
// untied output layer. Works on the parameters' own storage and their .grad().
#pragma once

#include "common/model/transformer.h"

namespace fairway {

// Orthogonalises g [rows, cols] approximately by `steps` Newton-Schulz iterations in bfloat16 and scales the result by
// sqrt(max(1, rows / cols)). Returns bfloat16 [rows, cols].
at::Tensor NewtonSchulz(const at::Tensor& g, int64_t steps);

class Optimizer {
 public:
  // REQUIRES: `parameters` outlive this and are those of ParameterSpecs(settings).
  Optimizer(const Settings& settings, const NamedTensors& parameters);

  // Scales all gradients to a global norm of at most grad_clip_norm (<= 0: leaves them). Returns the norm before.
  double ClipGradients();
  // One step with every learning rate times `scale`. A parameter without a gradient stays, but a matrix still decays.
  void Step(double scale, double momentum);
  void ClearGradients();

  // Moments and momenta under the names they have in a checkpoint (adam_m/NAME, adam_v/NAME, muon/NAME); shared storage.
  NamedTensors State() const;
  int64_t adam_steps() const { return adam_steps_; }
  void set_adam_steps(int64_t steps) { adam_steps_ = steps; }

 private:
  struct Adam {
    std::string name;
    at::Tensor parameter, m, v;
    double learning_rate, weight_decay;
  };
  struct Muon {
    std::string name;
    at::Tensor parameter, momentum;
  };
  void StepAdam(Adam& adam, double scale);

  Settings settings_;
  NamedTensors parameters_;
  std::vector<Adam> adams_;
  std::vector<Muon> muons_;
  int64_t adam_steps_ = 0;
};

}  // namespace fairway
