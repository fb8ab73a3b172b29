// Where the time of a training step goes.
#pragma once

#include <array>
#include <chrono>

namespace fairway {

// By operation, on the first thread: seconds since the profile was made.
struct StepProfile {
  enum Operation {
    kEmbed, kNorm, kLinear, kQk, kAttention, kXsa, kHead, kGradients, kWeights, kWait, kClip, kAdam, kMuon, kAverage, kOperations
  };
  static constexpr const char* kNames[kOperations] = {
      "embed", "norm", "linear", "qk", "attention", "xsa", "head", "gradients", "weights", "wait", "clip", "adam", "muon", "average"};
  std::array<double, kOperations> seconds{};
};

// Times operations one after the other. Without a profile it does nothing.
class StepClock {
 public:
  explicit StepClock(StepProfile* profile) : profile_(profile) {
    if (profile_ != nullptr) last_ = std::chrono::steady_clock::now();
  }
  // What was done since the last call was `operation`.
  void Done(StepProfile::Operation operation) {
    if (profile_ == nullptr) return;
    const auto now = std::chrono::steady_clock::now();
    profile_->seconds[operation] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  StepProfile* profile_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace fairway
