#include "common/model/ops/attention_gate.h"

#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {

void AttentionGates(const AttentionGate& gate, Elements u, float* gates, Rows rows) {
  With(u, [&](auto* all) {
    for (int64_t row = rows.first; row < rows.last; ++row) {
      const auto* __restrict x = all + row * gate.D;
      for (int64_t head = 0; head < gate.H; ++head) {
        const float* __restrict w = gate.w + head * gate.window;
        float logit = 0;
        for (int64_t j = 0; j < gate.window; ++j) logit += w[j] * Get(x[j]);
        gates[row * gate.H + head] = formula::Sigmoid(gate.scale * logit);
      }
    }
  });
}

void GateHeads(const AttentionGate& gate, const float* gates, Elements y, Elements out, Rows rows) {
  With(y, [&](auto* all) {
    auto* to = static_cast<decltype(all)>(out.data);
    for (int64_t head = rows.first * gate.H; head < rows.last * gate.H; ++head) {
      const float g = gates[head];
#pragma omp simd
      for (int64_t i = head * gate.d; i < (head + 1) * gate.d; ++i) Put(g * Get(all[i]), to + i);
    }
  });
}

void GateHeadsBackward(const AttentionGate& gate, const float* gates, Elements y, Elements dout, float* dlogits, Rows rows) {
  With(y, [&](auto* all) {
    auto* dall = static_cast<decltype(all)>(dout.data);
    for (int64_t head = rows.first * gate.H; head < rows.last * gate.H; ++head) {
      auto* __restrict own = all + head * gate.d;
      auto* __restrict down = dall + head * gate.d;
      const float g = gates[head];
      float product = 0;
#pragma omp simd reduction(+ : product)
      for (int64_t i = 0; i < gate.d; ++i) {
        product += Get(own[i]) * Get(down[i]);
        Put(g * Get(down[i]), down + i);
        Put(g * Get(own[i]), own + i);
      }
      dlogits[head] = product * g * (1.0f - g) * gate.scale;
    }
  });
}

void AttentionGatesBackward(const AttentionGate& gate, const float* dlogits, Elements u, Elements du, float* dw, Rows rows) {
  With(u, [&](auto* all) {
    auto* dall = static_cast<decltype(all)>(du.data);
    for (int64_t row = rows.first; row < rows.last; ++row) {
      const auto* __restrict x = all + row * gate.D;
      auto* __restrict dx = dall + row * gate.D;
      for (int64_t head = 0; head < gate.H; ++head) {
        const float dlogit = dlogits[row * gate.H + head];
        float* __restrict own = dw + head * gate.window;
        for (int64_t j = 0; j < gate.window; ++j) own[j] += dlogit * Get(x[j]);
      }
      for (int64_t j = 0; j < gate.window; ++j) {
        float sum = Get(dx[j]);
        for (int64_t head = 0; head < gate.H; ++head) sum += dlogits[row * gate.H + head] * gate.w[head * gate.window + j];
        Put(sum, dx + j);
      }
    }
  });
}

}  // namespace fairway::FAIRWAY_TARGET
