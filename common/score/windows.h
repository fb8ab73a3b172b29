// Which targets an evaluation scores, and from how much context (pull request 531).
//
// A split of tokens t[0..N] has N targets: target i is t[i+1], predicted from tokens up to t[i]. A window reads tokens
// [begin, begin + length) and so predicts the targets of the same numbers; it scores those from begin + score_from on.
#pragma once

#include <cstdint>

namespace fairway {

struct Window {
  int64_t begin = 0, length = 0, score_from = 0;

  int64_t first_scored() const { return begin + score_from; }
  int64_t end() const { return begin + length; }
  bool operator==(const Window&) const = default;
};

// The windows of one evaluation in order, computed as they are asked for: a published split has 970,000 of them.
class WindowPlan {
 public:
  // Windows of `seq_len` begin at the multiples of `stride`; the first scores all of its targets, each later one those
  // that no window has scored yet. The last is shifted back to end at the last target. Every target is scored exactly
  // once. Fewer targets than seq_len: one shorter window. REQUIRES: targets >= 1, 1 <= stride <= seq_len.
  static WindowPlan Sliding(int64_t targets, int64_t seq_len, int64_t stride);

  // As published: of the targets that fill whole sequences, a window at every multiple of `stride`, shortened by the
  // end, which scores its last `stride` targets at most. So the windows that reach past the end score the tail again
  // (a quirk of pull request 531). May have no windows.
  static WindowPlan Published(int64_t targets, int64_t seq_len, int64_t stride);

  // Plain evaluation: whole sequences side by side, a multiple of `group` of them, the rest is dropped (a quirk of pull request
  // 531). May have no windows.
  static WindowPlan Plain(int64_t targets, int64_t seq_len, int64_t group = 1);

  int64_t size() const { return size_; }
  Window operator[](int64_t i) const;  // REQUIRES: 0 <= i < size()

  int64_t targets() const { return targets_; }  // scored at least once: 0 .. targets() - 1
  int64_t dropped() const { return dropped_; }  // targets of the split beyond those, never scored
  int64_t width() const { return width_; }      // tokens of the longest window
  bool rescores() const { return rescores_; }   // a target may be scored more than once

 private:
  int64_t targets_ = 0, dropped_ = 0, width_ = 0, stride_ = 0, size_ = 0;
  bool rescores_ = false;
};

}  // namespace fairway
