// The CPU's engine: the schedule's operations (schedule.h) fused for caches and registers (ops/), with a backward pass written by
// hand; the hot path of training and scoring, in float32 and in bfloat16. transformer.h is what it is tested against.
//
// How it is organised:
//   - Threads run the schedule together, each on its own rows (team.h), and within an operation on blocks of rows that stay in a
//     core's cache.
//   - Segments are computed a chunk at a time, as many as fit the outer caches; gradients add up.
//   - Weights are packed for the products once per step (packed_weights.h), in both directions, and rounded to their training grid then.
//   - The plan's scales are folded into the matrices before them: x += A (s W)^T is one product. Their gradients come from the
//     matrix's: with G = dx^T A, dW = s G and ds_j = sum_k W_jk G_jk, once per step (FinishGradients). The constant of ln_scale is
//     folded into the matrices behind it: (s u) W^T = u (s W)^T.
//   - Per visit, the forward pass keeps the block's input, normalised q and k with v, attention's output, the stream between
//     attention and MLP and the MLP's hidden values (activations.h); the backward pass computes norms and activations again.
//   - Under bfloat16, products take and give bfloat16; the residual stream, its gradient, norms, softmax, losses and the
//     gradients of all parameters are float32.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/model/engine.h"
#include "common/model/transformer.h"

namespace fairway {

class CpuEngine : public Engine {
 public:
  // Works on the storage of `parameters` (as ParameterSpecs says) and, for training, of `gradients`: float32, same names, order
  // and shapes.
  CpuEngine(const Settings& settings, NamedTensors parameters, NamedTensors gradients = {});
  ~CpuEngine() override;

  int64_t Prepare(bool fake_quantise) override;
  void FixSteps(const FixedSteps& steps) override;
  void SetLooped(bool looped) override;
  using Engine::AccumulateGradients;
  using Engine::AccumulateLastGradients;
  using Engine::TokenLosses;
  void AccumulateGradients(std::span<const Segment> segments, double share) override;
  void FinishGradients() override;
  void AccumulateLastGradients(std::span<const Segment> segments, double share, const OnBlock& on_block) override;
  std::vector<float> Losses() const override { return losses_; }
  void TokenLosses(std::span<const Segment> segments, int64_t first, float* losses) override;
  void ContinueLosses(const uint16_t* tokens, int64_t count, int64_t past, float* losses) override;

  void SetBetweenChunks(std::function<void()> between) override;
  void SetProfile(StepProfile* profile) override;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
  std::vector<float> losses_;
};

}  // namespace fairway
