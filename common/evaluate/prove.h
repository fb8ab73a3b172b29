// Proves, on the path that scores, what a score claims to be: each target once, in an order that a decoder can follow, from
// distributions over the whole vocabulary that no later token changes. docs/truth.md says which dispute each part answers.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/evaluate/batch_observer.h"
#include "common/score/ledger.h"
#include "common/score/score.h"
#include "common/tokens/byte_table.h"
#include "common/tokens/shards.h"

namespace fairway {

inline constexpr double kSumTolerance = 1e-4;  // of a distribution's sum from 1
// Of a byte sidecar's sum from what the pieces spell, where nothing else says how long the text is. The tokenizer folds some text,
// as runs of blanks, which the sidecar counts in full. Scores that were withdrawn had blanks counted twice (17%) or marks of
// CaseOps (9%).
inline constexpr double kSidecarTolerance = 0.02;
inline constexpr int64_t kProofGroups = 2;     // groups of documents that are scored again, learning included, at most
inline constexpr int64_t kProofContext = 64;  // tokens before a target whose whole distribution is computed, at most

struct ProofReport {
  EventLedger::Result order;
  int64_t bytes = 0;          // in the denominator
  int64_t spelt_bytes = 0;    // of the text that the split's tokens spell, by the text of their pieces
  int64_t sidecar_bytes = -1; // by its byte sidecar; -1 without one
  int64_t repeated = 0;       // scores computed again: bit for bit the same
  int64_t flips = 0;          // tokens changed
  int64_t kept = 0;           // scores before a changed token: bit for bit the same
  int64_t sums = 0;           // distributions computed whole
  double worst_sum = 0;       // the largest distance of one from 1
  std::vector<std::string> failures;  // empty: proved
};

class Proof : public BatchObserver {
 public:
  // `state` gives a digest of all that scores depend on besides the text: weights, and tables of n-grams. `samples` targets are
  // looked into, spread over the split; fewer where computing cannot be repeated in its place, one of a batch.
  Proof(const ShardSet& val, const ByteTable& table, std::function<uint64_t()> state, int64_t samples, uint64_t seed);

  void OnBatch(const Batch& batch, const Compute& again) override;
  void OnAdded(int64_t begin, int64_t end, int64_t bytes) override;
  void OnLearnt(std::span<const TargetRange> targets) override;
  void OnTables(std::span<const TargetRange> targets) override;
  void OnReset(TargetRange targets, std::function<uint64_t()> digest) override;
  void OnDocuments(const Batch& documents, const Compute& again) override;
  void OnEnd(const Compute& afresh) override;

  // What was proved about an evaluation whose result is `score`. One that drops targets or scores some again is not proved, whether
  // or not it says so: plain evaluation of a split that is no multiple of its sequences, and the published sum. `text_proved`: the
  // split's number of bytes was counted against its text when the shards were made.
  ProofReport Finish(const Score& score, bool text_proved = false);
  // Every event in its order, a line each.
  std::string Events() const { return ledger_.Text(); }

 private:
  uint64_t State() const;
  // Takes the state that there is now, and tells the ledger that it came from these targets.
  void Changed(EventLedger::Event::Kind kind, std::span<const TargetRange> targets);
  void Look(const Batch& batch, const Compute& compute, bool one_window, int64_t samples);
  void Repeat(const Batch& batch, const Compute& compute);
  // A scored position to look into: a window of the batch, and the position in it.
  std::pair<const Window*, int64_t> Draw(const Batch& batch);
  void Flip(const Batch& batch, const Compute& compute, const Window& window, int64_t position);
  void Sum(const Batch& batch, const Compute& compute, const Window& window, int64_t position, int64_t at_a_time);
  void Fail(std::string text);

  const ShardSet& val_;
  const ByteTable& table_;
  std::function<uint64_t()> state_of_, adapters_;
  int64_t samples_, targets_, next_sample_ = 0, next_group_ = 0, added_ = 0;
  std::mt19937_64 random_;
  EventLedger ledger_;
  uint64_t base_, state_;    // digests: of the weights and tables, and of these and the adapters together
  std::vector<Batch> kept_;  // to be looked into at the end
  ProofReport report_;
};

}  // namespace fairway
