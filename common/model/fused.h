// The transformer of transformer.h as a sequence of fused operations (ops/), with a backward pass written by hand: the hot path of
// training and scoring on CPUs, in float32 and in bfloat16. transformer.h is what it is tested against.
//
// How it is organised:
//   - Threads walk through the layers together, each on its own rows (team.h), and within them on pieces that stay in a core's
//     cache.
//   - Sequences are computed a chunk at a time, as many as fit the outer caches; gradients add up.
//   - Weights are packed for the products once a step (Prepare), in both directions, and rounded to their training grid then.
//   - attn_scale, mlp_scale and bigram.scale are folded into the matrices before them: x += A (s W)^T is one product. Their
//     gradients come from the matrix's: with G = dx^T A, dW = s G and ds_j = sum_k W_jk G_jk, once a step (FinishGradients). So
//     is ln_scale, a constant, into the matrices behind it: (s u) W^T = u (s W)^T.
//   - Per layer, a backward pass keeps the block's input, normalised q and k with v, the attention's output, the stream between
//     attention and MLP and the MLP's hidden values; norms and activations are computed again.
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

class FusedTransformer : public Engine {
 public:
  // Works on the storage of `parameters` (as ParameterSpecs says) and, for training, of `gradients`: float32, same names, order
  // and shapes.
  FusedTransformer(const Settings& settings, NamedTensors parameters, NamedTensors gradients = {});
  ~FusedTransformer() override;

  int64_t Prepare(bool fake_quantise) override;
  void FixSteps(const FixedSteps& steps) override;
  void AccumulateGradients(std::span<const uint16_t* const> sequences, int64_t T, double share) override;
  void FinishGradients() override;
  void AccumulateLastGradients(std::span<const uint16_t* const> sequences, int64_t T, double share, const OnBlock& on_block) override;
  std::vector<float> Losses() const override { return losses_; }
  void TokenLosses(std::span<const uint16_t* const> sequences, int64_t T, int64_t first, float* losses) override;
  void ContinueLosses(const uint16_t* tokens, int64_t count, int64_t past, float* losses) override;

  void SetProfile(StepProfile* profile) override;

  // How many of `all` sequences of T tokens so many threads work on at a time: a chunk.
  static int64_t SequencesAtATime(const Settings& settings, int64_t threads, int64_t all, int64_t T);
  // Bytes of working memory for chunks of `sequences` sequences of T tokens.
  static int64_t WorkspaceBytes(const Settings& settings, int64_t sequences, int64_t T, bool training);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
  std::vector<float> losses_;
};

}  // namespace fairway
