#pragma once

#include <optional>

#include "common/base/clock.h"

namespace fairway {

// Counts seconds while it runs.
class Stopwatch {
 public:
  explicit Stopwatch(double seconds) : before_(seconds) {}
  static Stopwatch Started() {
    Stopwatch watch(0);
    watch.Start();
    return watch;
  }
  void Start() { begin_ = Clock::now(); }
  void Stop() {
    before_ = seconds();
    begin_.reset();
  }
  double seconds() const {
    return before_ + (begin_ ? SecondsSince(*begin_) : 0.0);
  }

 private:
  double before_;
  std::optional<Clock::time_point> begin_;
};

}  // namespace fairway
