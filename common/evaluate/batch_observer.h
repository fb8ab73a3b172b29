// Observes an evaluation while it scores, to prove or to time it. The evaluation does not depend on the observer.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/score/windows.h"

namespace fairway {

// A run of windows with the tokens behind them.
struct Batch {
  std::vector<Window> windows;
  std::vector<uint16_t> tokens;  // from the first window's begin up to the last target of all
  std::vector<uint16_t> bytes;   // of text for each token, where the split has a byte sidecar
  int64_t width;
  std::vector<float> losses;     // [windows, width], of the scored positions
  // Where each window is scored by adapters of its own, which learn from its document alone: which ones, by number. Otherwise empty.
  std::vector<int64_t> adapters = {};

  int64_t offset_of(const Window& window) const { return window.begin - windows.front().begin; }
  const uint16_t* tokens_of(const Window& window) const { return tokens.data() + offset_of(window); }
};

// Targets [begin, end) of the split.
struct TargetRange {
  int64_t begin, end;
};

class BatchObserver {
 public:
  // Computes a batch's losses by the path that scores, in the state that it is in now.
  using Compute = std::function<void(Batch&)>;

  virtual ~BatchObserver() = default;
  // The losses of a batch were computed. `again` repeats that, of this batch or another one; empty where computing leaves something
  // behind that the next batch needs.
  virtual void OnBatch(const Batch& batch, const Compute& again) = 0;
  // Losses of targets [begin, end), and this number of bytes of text, were added to the score.
  virtual void OnAdded(int64_t begin, int64_t end, int64_t bytes) = 0;
  // One change of the weights learnt from these targets.
  virtual void OnLearnt(std::span<const TargetRange> targets) = 0;
  // The tables of n-grams took these targets in.
  virtual void OnTables(std::span<const TargetRange> targets) = 0;
  // The adapters that score these targets, and no others, were given their first values. `digest` is one of their values, as long
  // as no others are set.
  virtual void OnReset(TargetRange targets, std::function<uint64_t()> digest) = 0;
  // Documents side by side, one per window, were scored chunk by chunk by adapters that learnt in between. `again` repeats all of
  // that, learning included, from the adapters' first values.
  virtual void OnDocuments(const Batch& documents, const Compute& again) = 0;
  // All is scored. `afresh` computes a batch from its first window's first token on.
  virtual void OnEnd(const Compute& afresh) = 0;
};

}  // namespace fairway
