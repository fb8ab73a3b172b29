// The optimisers of specification 1, section 4, on a device: what common/optim/optimizer.h does on CPUs, without ever waiting
// for the device. Norm and clip factor stay there; Newton-Schulz runs on all matrices of one shape at once.
#pragma once

#include <memory>
#include <vector>

#include "common/cuda/machine.h"
#include "common/model/flat.h"

namespace fairway::cuda {

class DeviceOptimizer {
 public:
  // Works on the memory of both, of `layout`, with the model's dtypes, on the machine's device.
  DeviceOptimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters, FlatTensors gradients,
                  Machine& machine);

  // One step with every learning rate times `scale`, gradients clipped to grad_clip_norm where `clip`. The gradients are 0
  // afterwards.
  void Step(double scale, double momentum, bool clip);
  // The 2-norm of all gradients together before the last step. Waits for the device.
  double GradientNorm() const;

  // Moments and momenta under the names they have in a checkpoint, as Optimizer::State has them; shared storage.
  NamedTensors State() const;
  int64_t adam_steps() const { return adam_steps_; }
  void set_adam_steps(int64_t steps) { adam_steps_ = steps; }

 private:
  struct Adam {
    Group group;
    double learning_rate, weight_decay;
  };
  // Matrices of one shape.
  struct Muons {
    std::vector<at::Tensor> nesterovs, parameters;
    double scale;
  };

  const Settings settings_;
  Machine& machine_;
  const FlatTensors parameters_, gradients_, m_, v_, momentum_;
  const at::Tensor nesterov_;  // bfloat16, in the matrices' order
  const std::vector<Adam> adams_;
  std::vector<Muons> muons_;
  const at::Tensor norm_, factor_, inverse_factor_, learning_rate_, steps_;  // float32 scalars
  int64_t adam_steps_ = 0;
};

// NewtonSchulz of optim/optimizer.h on x, bfloat16 [matrices, rows, columns], without its last scaling.
at::Tensor NewtonSchulzOf(at::Tensor x, int64_t steps);

}  // namespace fairway::cuda
