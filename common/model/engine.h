// What computes the model: losses, and gradients by a backward pass. The weights belong to whoever made the engine.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/model/step_profile.h"

namespace fairway {

class Engine {
 public:
  virtual ~Engine() = default;

  // Takes the parameters as they are now: to be called after every change to them. With `fake_quantise`, matrices with an
  // export grid are replaced by their rounded values. Returns how many were.
  virtual int64_t Prepare(bool fake_quantise) = 0;

  // Adds to the gradients those of share * (mean loss over all positions). Each sequence points to T + 1 tokens: inputs and, one
  // later, targets. Call FinishGradients after the last of a step.
  virtual void AccumulateGradients(std::span<const uint16_t* const> sequences, int64_t T, double share) = 0;
  // Makes the gradients those of the parameters.
  virtual void FinishGradients() = 0;
  // Hears, on the calling thread, that the gradients of the matrices in blocks `block` and later are those of the parameters.
  using OnBlock = std::function<void(int64_t block)>;
  // The last call of AccumulateGradients in a step, and FinishGradients with it. `on_block` hears of blocks while the backward pass
  // goes on below them, where the engine can tell; it does not throw.
  virtual void AccumulateLastGradients(std::span<const uint16_t* const> sequences, int64_t T, double share, const OnBlock& on_block) {
    (void)on_block;
    AccumulateGradients(sequences, T, share);
    FinishGradients();
  }
  // The mean losses, in nats, of all calls of AccumulateGradients since the last one of Prepare. Waits for the device, which
  // nothing else that concerns gradients does.
  virtual std::vector<float> Losses() const = 0;

  // Losses in nats of the targets at positions first … T - 1 of each sequence: float32 [sequences, T - first]. In the last
  // block, everything but keys and values is computed for these positions alone.
  virtual void TokenLosses(std::span<const uint16_t* const> sequences, int64_t T, int64_t first, float* losses) = 0;

  // Times operations from now on, where the engine can tell them apart: on a CPU. Null: no more. `profile` must outlive this or
  // the next call.
  virtual void SetProfile(StepProfile*) {}
};

}  // namespace fairway
