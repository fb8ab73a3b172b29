#include "common/evaluate/memory.h"

#include <algorithm>

#include "common/cuda/memory.h"
#include "common/plan/plan.h"
#include "common/settings/method.h"

namespace fairway {
double ScoringBytes(const Settings& s, at::Device device) {
  const auto passes = [&](int64_t sequences, bool training) {
    return device.is_cpu() ? EngineBytes(s, sequences, training) : DeviceEngineBytes(s, sequences, s.train_seq_len, training, device);
  };
  const int64_t plain = std::max<int64_t>(s.val_batch_size / 8 / s.train_seq_len, 1),
                windows = std::max(plain, s.eval_batch_seqs);
  // Two losses and a token of each position.
  double bytes = passes(windows, /*training=*/false) + 10.0 * windows * s.train_seq_len;
  if (s.method == "kv_cache") {  // queries, keys and values of two windows, and what attention works in
    const double row = s.model_dim + 2.0 * s.num_kv_heads * (s.model_dim / s.num_heads), T = s.train_seq_len;
    bytes += 4 * T * (2 * s.num_layers * row + 10.0 * s.ThreadCount() * (s.model_dim / s.num_heads) + s.model_dim);
  } else if (s.method == "ttt" && !LearnsByDocument(s)) {
    const int64_t sequences = s.ttt_chunk_tokens / s.train_seq_len + 1;
    bytes += passes(sequences, /*training=*/true) + 8 * static_cast<double>(Plan(s).parameters());  // gradients and momentum
  }
  return bytes;
}

double DocumentTttBytes(const Settings& s, int64_t documents, int64_t targets) {
  const Plan plan(s);
  const auto visits = static_cast<double>(plan.visits(plan.loops()).size()), D = static_cast<double>(plan.D), rank = static_cast<double>(s.ttt_lora_rank);
  const double outputs = visits * (3 * D + 2.0 * plan.Hkv * plan.d) + plan.V;
  // First values, values, gradients and both moments; and a copy for --prove.
  const double adapters = 4.0 * 7 * s.ttt_batch_size * rank * ((5 * visits + 1) * D + outputs);
  // Floats per token that the reference composition holds when its gradients begin, measured
  // (EvalSlidingTest.KeepsToTheMemoryThatItSaid): the logits before and after the softcap, their log-softmax, the gradients of
  // these and what is free between them, and what each visit's operations keep.
  const double per_token = 4 * (8.0 * plan.V + visits * (20 * D + 3.0 * plan.F));
  const double group = static_cast<double>(documents < 0 ? s.ttt_batch_size : std::min(s.ttt_batch_size, documents)) * s.ttt_eval_seq_len;
  const double phase = s.phased_ttt_prefix_docs > 0 ? static_cast<double>(s.global_ttt_batch_seqs) * s.train_seq_len : 0;
  return 4.0 * targets + adapters + per_token * std::max(group, phase) + (phase > 0 ? 8 * static_cast<double>(Plan(s).parameters()) : 0);
}

double EstimateScoring(const Settings& s, double file_bytes, double content_bytes, at::Device device) {
  // A file is unpacked by the host, tensor by tensor.
  if (!device.is_cpu()) return kDeviceLibraryBytes + 4 * static_cast<double>(Plan(s).parameters()) + ScoringBytes(s, device);
  double largest = 0;  // of the tensors on their way from codes
  for (const Weight& weight : Plan(s).weights) largest = std::max(largest, 8 * static_cast<double>(weight.numel()));
  return kLibTorchBytes + file_bytes + content_bytes + 4 * static_cast<double>(Plan(s).parameters()) + largest + ScoringBytes(s);
}

}  // namespace fairway
