#include "common/evaluate/memory.h"

#include <algorithm>

#include "common/model/fused.h"

namespace fairway {
namespace {

double Elements(const ParameterSpec& spec) {
  double numel = 1;
  for (int64_t size : spec.shape) numel *= static_cast<double>(size);
  return numel;
}

}  // namespace

double EngineBytes(const Settings& s, int64_t sequences, bool training) {
  const int64_t T = s.train_seq_len, most = FusedTransformer::SequencesAtATime(s, s.ThreadCount(), sequences, T);
  double weights = 0;
  for (const ParameterSpec& spec : ParameterSpecs(s)) weights += Elements(spec);
  return static_cast<double>(FusedTransformer::WorkspaceBytes(s, most, T, training)) + 8 * weights;
}

double ScoringBytes(const Settings& s) {
  const int64_t plain = std::max<int64_t>(s.val_batch_size / 8 / s.train_seq_len, 1),
                windows = std::max(plain, s.eval_batch_seqs);
  // Two losses and a token of each position.
  double bytes = EngineBytes(s, windows, /*training=*/false) + 10.0 * windows * s.train_seq_len;
  if (s.method == "kv_cache") {  // queries, keys and values of two windows, and what attention works in
    const double row = s.model_dim + 2.0 * s.num_kv_heads * (s.model_dim / s.num_heads), T = s.train_seq_len;
    bytes += 4 * T * (2 * s.num_layers * row + 10.0 * s.ThreadCount() * (s.model_dim / s.num_heads) + s.model_dim);
  } else if (s.method == "ttt") {
    double weights = 0;
    for (const ParameterSpec& spec : ParameterSpecs(s)) weights += Elements(spec);
    const int64_t sequences = s.ttt_chunk_tokens / s.train_seq_len + 1;
    bytes += EngineBytes(s, sequences, /*training=*/true) + 8 * weights;  // gradients and momentum
  }
  return bytes;
}

double EstimateScoring(const Settings& s, double file_bytes, double content_bytes) {
  double weights = 0, largest = 0;
  for (const ParameterSpec& spec : ParameterSpecs(s)) {
    const double numel = Elements(spec);
    weights += 4 * numel;
    largest = std::max(largest, 8 * numel);  // on its way from codes
  }
  return kLibTorchBytes + file_bytes + content_bytes + weights + largest + ScoringBytes(s);
}

}  // namespace fairway
