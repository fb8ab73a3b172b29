// The score of a model on a split: mean loss and bits per byte (pull request 531), summed in float64.
#pragma once

#include <cstdint>

#include "common/score/windows.h"

namespace fairway {

struct Score {
  double val_loss = 0;   // nats per target
  double val_bpb = 0;    // bits per byte of text
  int64_t targets = 0;   // scored, each as often as it was
  int64_t bytes = 0;     // of text of these targets
  int64_t rescored = 0;  // of the targets, those that were scored before: 0 but for the published sliding sum
  int64_t dropped = 0;   // targets of the split that were never scored
};

// Adds up what the windows of `plan` score and checks it against the plan: a target that was skipped, or scored twice where the
// plan scores each once, throws std::logic_error at once.
class ScoreSum {
 public:
  explicit ScoreSum(const WindowPlan& plan) : plan_(plan) {}

  // The targets [first, end) were scored: the sum of their losses, and their bytes of text.
  void Add(int64_t first, int64_t end, double nats, int64_t bytes);

  double bits_per_byte() const;  // so far
  // Throws std::logic_error unless every target of the plan was scored.
  Score Finish() const;

 private:
  WindowPlan plan_;
  double nats_ = 0;
  int64_t next_ = 0;  // all targets below are scored, none from here on
  int64_t targets_ = 0, bytes_ = 0, rescored_ = 0;
};

}  // namespace fairway
