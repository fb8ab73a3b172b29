// The transformer of transformer.h as a sequence of fused operations (ops/) and matrix products, with a backward pass written
// by hand: the hot path of training and scoring in float32 on CPUs. transformer.h is what it is tested against.
//
// How it is organised:
//   - Threads walk through the layers together, each on its own rows (team.h); products are split by hand, so that a thread
//     reads back what it has just written.
//   - Sequences are computed a chunk at a time, as many as fit the caches; gradients add up.
//   - attn_scale, mlp_scale and bigram.scale are folded into the matrices before them, once a step (Prepare): x += A (s W)^T is
//     one product. Their gradients come from the matrix's: with G = dx^T A, dW = s G and ds_j = sum_k W_jk G_jk, once a step
//     (FinishGradients).
//   - Per layer, a backward pass keeps the block's input, normalised q and k with v, the attention's output, the stream between
//     attention and MLP and the MLP's hidden values; norms and activations are computed again.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/model/transformer.h"

namespace fairway {

// Where the time of a step goes, by operation, on the first thread: seconds since the profile was last cleared.
struct StepProfile {
  enum Operation { kEmbed, kNorm, kLinear, kQk, kAttention, kXsa, kRelu2, kHead, kWeights, kWait, kOperations };
  static const char* Name(Operation operation);
  std::array<double, kOperations> seconds{};
};

class FusedTransformer {
 public:
  // The fused path computes in float32: true where precision is float32.
  static bool Covers(const Settings& settings);

  // Works on the storage of `parameters` (as ParameterSpecs says) and, for training, of `gradients`: float32, same names, order
  // and shapes. REQUIRES: Covers(settings).
  FusedTransformer(const Settings& settings, NamedTensors parameters, NamedTensors gradients = {});
  ~FusedTransformer();

  // Takes the parameters as they are now: to be called after every change to them. With `fake_quantise`, matrices with an
  // export grid are replaced by their rounded values. Returns how many were.
  int64_t Prepare(bool fake_quantise = false);

  // Adds to the gradients those of share * (mean loss over all positions), and returns that mean loss in nats. Each sequence
  // points to T + 1 tokens: inputs and, one later, targets. Call FinishGradients after the last of a step.
  double AccumulateGradients(std::span<const uint16_t* const> sequences, int64_t T, double share);
  // Makes the gradients those of the parameters: see above.
  void FinishGradients();

  // Losses in nats of the targets at positions first … T - 1 of each sequence: float32 [sequences, T - first]. In the last
  // block, everything but keys and values is computed for these positions alone.
  void TokenLosses(std::span<const uint16_t* const> sequences, int64_t T, int64_t first, float* losses);

  // Times operations from now on; null: no more. `profile` must outlive this or the next call.
  void SetProfile(StepProfile* profile);

  // Bytes of working memory for chunks of `sequences` sequences of T tokens.
  static int64_t WorkspaceBytes(const Settings& settings, int64_t sequences, int64_t T, bool training);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairway
