// Scores a model on the validation split (pull request 531).
//
// Tokens are read from the shards a batch at a time and checked on the way. The model must not be under fake quantisation: a
// score is of the weights as they are.
//
// Several ranks share the batches. All get the score of a single process, bit for bit: the same losses are summed in the same
// order. An observer sees every batch; with several ranks, those of this rank. With a mixture the windows are scored one at a time,
// each by the model mixed with n-grams over the windows before it. REQUIRES: then one rank, and not published_quirks.
#pragma once

#include <cstdint>
#include <functional>

#include "common/evaluate/batch_observer.h"
#include "common/evaluate/ngram_mixture.h"
#include "common/model/engine.h"
#include "common/model/transformer.h"
#include "common/parallel/communicator.h"
#include "common/score/score.h"
#include "common/settings/settings.h"
#include "common/tokens/byte_table.h"
#include "common/tokens/shards.h"

namespace fairway {

struct BatchDone {
  int64_t batch;                  // from 0
  int64_t windows_done, windows;  // this batch included; in all
  double bits_per_byte;           // of all that is scored so far
};
using OnBatch = std::function<void(const BatchDone&)>;

// Whole sequences of train_seq_len side by side, (val_batch_size / 8) / train_seq_len of them at a time, as published: the float32
// mean of a batch times its count is summed in float64, and targets beyond the last whole sequence are dropped. With
// packed_documents such a batch is one row of documents, of which attention sees one, and train_seq_len positions, at a time; under
// published_quirks the batches that are not full are dropped too (openai/parameter-golf pull request 1855). Throws InputError for a
// split shorter than one sequence or an id out of range, UsageError where val_batch_size holds no sequence.
Score EvaluatePlain(Engine& model, const ShardSet& val, const ByteTable& table, const Settings& settings,
                    const OnBatch& on_batch = {}, Communicator& communicator = Communicator::Single(), BatchObserver* observer = nullptr);

// Throws what EvaluatePlain would throw for this split and these settings: to be known before training.
void CheckPlain(const ShardSet& val, const Settings& settings);

// Windows of train_seq_len every eval_stride targets, eval_batch_seqs at a time; every target of the split exactly
// once, a split shorter than one sequence as one shorter window. With packed_documents a window's targets see no further back than
// their document's beginning. Under settings.published_quirks the published sum: whole
// sequences only, their tail scored again. Throws InputError for a split without a target or an id out of range.
// REQUIRES: IsSliding(settings).
Score EvaluateSliding(Engine& model, const ShardSet& val, const ByteTable& table, const Settings& settings,
                      const OnBatch& on_batch = {}, Communicator& communicator = Communicator::Single(), BatchObserver* observer = nullptr,
                      NgramMixture* mixture = nullptr);

// The same windows and targets, each position computed once (method = kv_cache): where a window's positions were those of an
// earlier one, their keys and values are the ones that came out then. So a target sees as many tokens as in EvaluateSliding, but
// keys and values of its context saw theirs from further back. Throws as EvaluateSliding does. REQUIRES: IsSliding(settings), not
// published_quirks; the engine is on a CPU.
Score EvaluateCached(Engine& model, const ShardSet& val, const ByteTable& table, const Settings& settings,
                     const OnBatch& on_batch = {}, BatchObserver* observer = nullptr,
                      NgramMixture* mixture = nullptr);

// EvaluateSliding of weights that learn from what has been scored (method = ttt; openai/parameter-golf pull requests 461 and
// 549): the windows are taken in chunks that score ttt_chunk_tokens targets; once a chunk is scored, ttt_steps steps of
// gradient descent with momentum, on the mean loss over the sequences of train_seq_len scored targets that no chunk has
// learnt from, change the parameters. The gradient's norm is clipped to 1, the learning rate falls from ttt_lr to 0 over the
// chunks. No weight has seen a target before it is scored.
// `model` works on `parameters` and on `gradients`, which are 0. REQUIRES: IsSliding(settings), not published_quirks.
Score EvaluateAdapting(Engine& model, const NamedTensors& parameters, const NamedTensors& gradients, const ShardSet& val,
                       const ByteTable& table, const Settings& settings, const OnBatch& on_batch = {}, BatchObserver* observer = nullptr,
                      NgramMixture* mixture = nullptr);

}  // namespace fairway
