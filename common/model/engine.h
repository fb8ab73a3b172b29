// What computes the model: losses, and gradients by a backward pass. The weights belong to whoever made the engine.
#pragma once

#include <cstdint>
#include <span>

namespace fairway {

class Engine {
 public:
  virtual ~Engine() = default;

  // Takes the parameters as they are now: to be called after every change to them. With `fake_quantise`, matrices with an
  // export grid are replaced by their rounded values. Returns how many were.
  virtual int64_t Prepare(bool fake_quantise) = 0;

  // Adds to the gradients those of share * (mean loss over all positions), and returns that mean loss in nats. Each sequence
  // points to T + 1 tokens: inputs and, one later, targets. Call FinishGradients after the last of a step.
  virtual double AccumulateGradients(std::span<const uint16_t* const> sequences, int64_t T, double share) = 0;
  // Makes the gradients those of the parameters.
  virtual void FinishGradients() = 0;

  // Losses in nats of the targets at positions first … T - 1 of each sequence: float32 [sequences, T - first]. In the last
  // block, everything but keys and values is computed for these positions alone.
  virtual void TokenLosses(std::span<const uint16_t* const> sequences, int64_t T, int64_t first, float* losses) = 0;
};

}  // namespace fairway
