// The token embedding before, added by a gate that reads the embedding itself, and the norm behind it (openai/parameter-golf pull
// requests 1667 and 1855):
//
//   s_t = e_t + c_t e_{t-1},  c_t = lambda sigmoid(w . e_t[:window]) where row t is joined to the one before, else c_t = 0
//   x0_t = s_t / sqrt(mean(s_t^2) + eps)
//
// e, x0: float32 [N, D]; joined: uint8 [N]. The row before row 0 of the arrays is `before` [D]; null: row 0 is joined to none.
#pragma once

#include "common/model/ops/element.h"
#include "common/model/ops/kernel.h"

namespace fairway {

struct SmearGate {
  int64_t D, window;
  const float* w;  // [window]
  float lambda;
  const float* e;
  const float* before;
  const uint8_t* joined;
};

// gates: float32 [N], the sigmoids; 0 where a row is joined to none. Reads the row before rows.first.
FAIRWAY_KERNEL(SmearGateForward, const SmearGate& smear, float* x0, float* gates, float* inverse_norms, Rows rows);

// From dx0 to the gradient of s, in place; adds to dw [window] and dlambda [1]. dlogits: float32 [N], of w . e_t[:window].
FAIRWAY_KERNEL(SmearGateBackward, const SmearGate& smear, const float* x0, const float* gates, const float* inverse_norms, float* dx0,
               float* dlogits, float* dw, float* dlambda, Rows rows);
// From the gradient of s to that of e. Reads one row beyond rows.last, up to N.
FAIRWAY_KERNEL(SmearGateInputs, const SmearGate& smear, const float* gates, const float* ds, const float* dlogits, float* de, int64_t N,
               Rows rows);

}  // namespace fairway
