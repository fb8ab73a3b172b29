// Computes the model: losses, and gradients by a backward pass. The caller owns the weights.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/model/positions.h"
#include "common/model/step_profile.h"
#include "common/model/transformer.h"

namespace fairway {

class Engine {
 public:
  virtual ~Engine() = default;

  // Takes the parameters as they are now: to be called after every change to them. With `fake_quantise`, matrices with an
  // export grid are replaced by their rounded values. Returns how many were.
  virtual int64_t Prepare(bool fake_quantise) = 0;
  // From the next Prepare on, the matrices that are replaced are those named here, on these steps.
  virtual void FixSteps(const FixedSteps& steps) = 0;

  // Whether passes visit the looped segment num_loops + 1 times, or each layer once. At first they do, where the model has loops.
  virtual void SetLooped(bool looped) = 0;

  // Adds to the gradients those of share * (mean loss over all positions). Call FinishGradients after the last of a step.
  virtual void AccumulateGradients(std::span<const Segment> segments, double share) = 0;
  // Of sequences of T + 1 tokens each.
  void AccumulateGradients(std::span<const uint16_t* const> sequences, int64_t T, double share) {
    AccumulateGradients(SegmentsOf(sequences, T), share);
  }
  // Makes the gradients those of the parameters.
  virtual void FinishGradients() = 0;
  // Called on the calling thread when the gradients of the matrices in blocks `block` and later are those of the parameters.
  using OnBlock = std::function<void(int64_t block)>;
  // The last call of AccumulateGradients in a step, and FinishGradients with it. `on_block` is called for blocks while the backward
  // pass continues with earlier ones, where the engine supports it; it must not throw.
  virtual void AccumulateLastGradients(std::span<const Segment> segments, double share, const OnBlock& on_block) {
    (void)on_block;
    AccumulateGradients(segments, share);
    FinishGradients();
  }
  void AccumulateLastGradients(std::span<const uint16_t* const> sequences, int64_t T, double share, const OnBlock& on_block) {
    AccumulateLastGradients(SegmentsOf(sequences, T), share, on_block);
  }
  // The mean losses, in nats, of all calls of AccumulateGradients since the last one of Prepare. Waits for the device, which
  // nothing else that concerns gradients does.
  virtual std::vector<float> Losses() const = 0;

  // Losses in nats of the targets at the positions of each segment from `first` on: float32, one after the other. In the last
  // visit, everything but keys and values is computed for these positions alone. REQUIRES: first is less than any length.
  virtual void TokenLosses(std::span<const Segment> segments, int64_t first, float* losses) = 0;
  // Of sequences of T + 1 tokens: float32 [sequences, T - first].
  void TokenLosses(std::span<const uint16_t* const> sequences, int64_t T, int64_t first, float* losses) {
    TokenLosses(SegmentsOf(sequences, T), first, losses);
  }

  // Continues one long text, each position of which is computed once: losses in nats, float32 [count], of `count` targets at
  // the positions after those of the last call. Keys and values of earlier calls are kept as they came out then; attention sees
  // those of the last `past` positions before this call's first and, causally, this call's own. past = 0 begins a text, at
  // position 0. `tokens` points to count + 1 tokens of the text, with the one before them where past > 0. On a CPU alone.
  // REQUIRES: past is at most the number of positions of the text so far, and of those that the last call saw or computed.
  virtual void ContinueLosses(const uint16_t* tokens, int64_t count, int64_t past, float* losses) = 0;

  // Called from now on, where the engine can, before each chunk that AccumulateGradients and TokenLosses compute at a time. It may
  // throw: what is accumulated so far is then worth nothing, and Prepare begins anew.
  virtual void SetBetweenChunks(std::function<void()>) {}

  // Times operations from now on, where the engine can separate them: on a CPU. Null stops it. `profile` must outlive this or
  // the next call.
  virtual void SetProfile(StepProfile*) {}
};

}  // namespace fairway
