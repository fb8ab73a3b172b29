// The transformer's forward and backward pass on a device, as common/model/cpu_engine.h has it on CPUs: fused operations
// (operations.h), the library's matrix products and attention, gradients written by hand. What is folded into the matrices is the
// same; more is kept, so that the backward pass computes no norm and no activation again; and all rows of a micro-batch go through
// an operation at once.
//
// Everything is put on one stream and nothing waits for it, so that a captured graph can replay it. On a device that is the CPU
// the same code computes the same: this is how tests prove it without a GPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <memory>

#include "common/cuda/device.h"
#include "common/cuda/inputs.h"
#include "common/model/transformer.h"

namespace fairway::cuda {

constexpr int64_t kHeadRows = 8192;  // rows of logits that exist at a time

// Numbers that one slab of rows leaves to be added up, at most.
inline int64_t PartialSums(const Plan& plan, int64_t window) { return std::max({4 * plan.D, plan.H * window, window + 1, int64_t{6}}); }

class Backend {
 public:
  virtual ~Backend() = default;

  // Takes the parameters as they are now; returns how many matrices were rounded to their export grid.
  virtual int64_t Prepare(bool fake_quantise) = 0;
  // From the next Prepare on, the matrices that are rounded are those named here, on these steps.
  virtual void FixSteps(const FixedSteps& steps) = 0;

  // Whether passes visit the looped segment num_loops + 1 times. Reserve is to be called after a change.
  virtual void SetLooped(bool looped) = 0;

  // Memory for passes over micro-batches of this shape; that of other shapes is given back. Before a pass of this shape, and not
  // between those that a graph has captured.
  virtual void Reserve(const BatchShape& shape, bool training) = 0;

  // Adds to the gradients those of `share` times the sum of the losses, and to `loss`, float64 [1] on the device, that sum.
  virtual void AccumulateGradients(const Inputs& in, float share, at::Tensor loss) = 0;
  // Makes the gradients those of the parameters.
  virtual void FinishGradients() = 0;

  // Losses in nats at positions first … T - 1: float32 [B, T - first] on the device. After attention, the last block is
  // computed for these positions alone. Of a row of segments, all: first is 0.
  virtual at::Tensor TokenLosses(const Inputs& in, int64_t first) = 0;
};

// Works on the storage of `parameters` and, for training, `gradients` (float32), all on the device; settings.precision says whether
// products take float32 or bfloat16, settings.residual_precision what the residual stream and its gradients are held in. Throws
// UsageError naming the settings where the library's attention does not take the head size.
std::unique_ptr<Backend> MakeBackend(const Settings& settings, const NamedTensors& parameters, const NamedTensors& gradients,
                                   Device& device);

}  // namespace fairway::cuda
