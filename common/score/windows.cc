#include "common/score/windows.h"

#include <algorithm>

namespace fairway {

WindowPlan WindowPlan::Sliding(int64_t targets, int64_t seq_len, int64_t stride) {
  WindowPlan plan;
  plan.targets_ = targets;
  plan.width_ = std::min(seq_len, targets);
  plan.stride_ = stride;
  plan.size_ = 1 + (targets - plan.width_ + stride - 1) / stride;
  return plan;
}

WindowPlan WindowPlan::Published(int64_t targets, int64_t seq_len, int64_t stride) {
  WindowPlan plan;
  plan.targets_ = targets / seq_len * seq_len;
  plan.dropped_ = targets - plan.targets_;
  plan.width_ = seq_len;
  plan.stride_ = stride;
  plan.size_ = (plan.targets_ + stride - 1) / stride;
  plan.rescores_ = true;
  return plan;
}

WindowPlan WindowPlan::Plain(int64_t targets, int64_t seq_len, int64_t group) {
  WindowPlan plan;
  plan.targets_ = targets / (seq_len * group) * (seq_len * group);
  plan.dropped_ = targets - plan.targets_;
  plan.width_ = plan.stride_ = seq_len;
  plan.size_ = plan.targets_ / seq_len;
  return plan;
}

Window WindowPlan::operator[](int64_t i) const {
  Window window;
  if (rescores_) {
    window.begin = i * stride_;
    window.length = std::min(width_, targets_ - window.begin);
    window.score_from = i == 0 ? 0 : std::max<int64_t>(window.length - stride_, 0);
  } else {
    window.begin = std::min(i * stride_, targets_ - width_);
    window.length = width_;
    const int64_t previous_end = (i - 1) * stride_ + width_;
    window.score_from = i == 0 ? 0 : previous_end - window.begin;
  }
  return window;
}

}  // namespace fairway
