#include "common/evaluate/memory.h"

#include <algorithm>

#include "common/plan/plan.h"

namespace fairway {
namespace {

double Parameters(const Settings& settings) {
  double parameters = 0;
  for (const Weight& weight : Plan(settings).weights) parameters += static_cast<double>(weight.numel());
  return parameters;
}

}  // namespace

double ScoringBytes(const Settings& s) {
  const int64_t plain = std::max<int64_t>(s.val_batch_size / 8 / s.train_seq_len, 1),
                windows = std::max(plain, s.eval_batch_seqs);
  // Two losses and a token of each position.
  double bytes = EngineBytes(s, windows, /*training=*/false) + 10.0 * windows * s.train_seq_len;
  if (s.method == "kv_cache") {  // queries, keys and values of two windows, and what attention works in
    const double row = s.model_dim + 2.0 * s.num_kv_heads * (s.model_dim / s.num_heads), T = s.train_seq_len;
    bytes += 4 * T * (2 * s.num_layers * row + 10.0 * s.ThreadCount() * (s.model_dim / s.num_heads) + s.model_dim);
  } else if (s.method == "ttt") {
    const int64_t sequences = s.ttt_chunk_tokens / s.train_seq_len + 1;
    bytes += EngineBytes(s, sequences, /*training=*/true) + 8 * Parameters(s);  // gradients and momentum
  }
  return bytes;
}

double EstimateScoring(const Settings& s, double file_bytes, double content_bytes) {
  double largest = 0;  // of the tensors on their way from codes
  for (const Weight& weight : Plan(s).weights) largest = std::max(largest, 8 * static_cast<double>(weight.numel()));
  return kLibTorchBytes + file_bytes + content_bytes + 4 * Parameters(s) + largest + ScoringBytes(s);
}

}  // namespace fairway
