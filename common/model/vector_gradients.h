// Gradients of vectors and scalars add up per thread, and are put together once per step.
#pragma once

#include <algorithm>
#include <vector>

#include "common/model/packed_weights.h"
#include "common/plan/plan.h"

namespace fairway {

// One thread's share, by the weight's number in the plan.
class VectorGradients {
 public:
  explicit VectorGradients(const Plan& plan) : values_(plan.weights.size()) {
    for (size_t i = 0; i < plan.weights.size(); ++i) {
      const Role role = plan.weights[i].role;
      if (role == Role::kControl || role == Role::kAttentionGate) values_[i].resize(plan.weights[i].numel());
    }
    if (plan.parallel_resid != kNone) lanes.resize(plan.L);
  }
  void Clear() {
    for (std::vector<float>& values : values_) std::fill(values.begin(), values.end(), 0.0f);
    std::fill(lanes.begin(), lanes.end(), LaneSums{});
  }
  float* of(int weight) { return weight == kNone ? nullptr : values_[weight].data(); }

  // In the order of their weights, so that a number of threads gives one result.
  void AddTo(const Plan& plan, const WeightMemory& memory) {
    for (int64_t i = 0; i < static_cast<int64_t>(lanes.size()); ++i) {
      for (int k = 0; k < 2; ++k) of(plan.parallel_resid)[2 * i + k] += static_cast<float>(lanes[i].resid[k]);
      for (int k = 0; k < 4; ++k) of(plan.parallel_post)[4 * i + k] += static_cast<float>(lanes[i].post[k]);
    }
    for (size_t i = 0; i < values_.size(); ++i) {
      float* to = memory.gradient(static_cast<int>(i));
      for (size_t j = 0; j < values_[i].size(); ++j) to[j] += values_[i][j];
    }
  }

  struct LaneSums {  // products over all rows, in float64
    double resid[2] = {}, post[4] = {};
  };
  std::vector<LaneSums> lanes;

 private:
  std::vector<std::vector<float>> values_;
};

}  // namespace fairway
