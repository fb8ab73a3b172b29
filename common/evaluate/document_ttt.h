// Per-document adaptation while scoring (method = ttt with ttt_lora_rank): low-rank adapters learn from the part of a document that
// has been scored, and base weights learn in phases from documents that have been scored (openai/parameter-golf pull requests 1530
// and 1855).
//
// An adapter adds (x A^T) B^T * alpha / rank to a linear layer's output: of every visit's queries, keys, values, attention output
// and MLP, and of the logits. A [rank, in] begins uniform within 1 / sqrt(in), B [out, rank] as 0. Each document of a group has its
// own. Chunk by chunk of ttt_chunk_size targets: score it with the window of at most ttt_eval_seq_len tokens of the document that
// ends with it, then one AdamW step on its mean loss, from the same forward pass. Nothing is learnt from a document's last chunk.
//
// A document goes from its BOS to the next one, which is its last target. Documents are taken in file order, ttt_batch_size at a
// time; no member of a group sees another, and weights that have learnt from a group are seen by later groups alone. After k /
// num_phases of the first phased_ttt_prefix_docs documents the base weights take steps of gradient descent on the documents that
// were scored since the phase before.
//
// With published_quirks as the published entry does it: documents sorted by length, groups from the longest on, targets beyond
// the last whole window of eval_seq_len dropped, phases that learn from all documents since the beginning, each with its next BOS.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/evaluate/batch_observer.h"
#include "common/evaluate/ngram_mixture.h"
#include "common/model/transformer.h"
#include "common/score/score.h"
#include "common/tokens/byte_table.h"
#include "common/tokens/shards.h"

namespace fairway {

struct DocumentTtt {
  // First values of a set of adapters for so many documents: A [documents, rank, in] by the names q_loras.VISIT.A, k_, v_, o_ and
  // mlp_loras.VISIT.A and lm_head_lora.A. Default: drawn from a generator of their own, whose seed is fixed.
  std::function<NamedTensors(int64_t documents)> first_values;
  // Called after each chunk of a group: where each document's scored targets begin in its window, their number, and the sum of
  // their losses.
  struct Chunk {
    int64_t width;
    std::vector<int64_t> offset, length;
    std::vector<double> nats;
    int64_t bytes;
  };
  std::function<void(const Chunk&)> on_chunk;
  // Called after each phase, with the mean loss of every step.
  std::function<void(const std::vector<double>&)> on_phase;
  // Called with the number of documents scored so far, of all, and the score so far in bits per byte.
  std::function<void(int64_t done, int64_t all, double bits_per_byte)> on_group;
};

// `parameters` are the base weights on a CPU; the phases change them. Throws InputError for a split without a target and where its
// tokens have no bytes of text. The observer sees batches of a group's chunks, each window with the number of its adapters, and
// whole groups; with published_quirks it sees the targets added alone. With a mixture a chunk's targets are scored by the model
// mixed with n-grams over the chunks before it, of all documents; adapters learn from the model's own losses, and these are what
// the observer sees of whole groups.
// REQUIRES: not published_quirks then.
Score EvaluateDocuments(const NamedTensors& parameters, const ShardSet& val, const ByteTable& table, const Settings& settings,
                        const DocumentTtt& ttt = {}, BatchObserver* observer = nullptr, NgramMixture* mixture = nullptr);

}  // namespace fairway
