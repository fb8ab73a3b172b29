// A gate per head on attention's output, computed from the first dimensions of the block's input (openai/parameter-golf pull request
// 1855, sparse attention gates):
//
//   gate_h = sigmoid(scale w_h . u[:window]);  out_h = gate_h y_h
//
// u: elements [N, D], the normed input; w: float32 [H, window]; gates, dlogits: float32 [N, H]; y, out, dout: elements [N, H d].
#pragma once

#include "common/model/ops/element.h"
#include "common/model/ops/kernel.h"

namespace fairway {

struct AttentionGate {
  int64_t D, H, d, window;
  float scale;  // what is folded into the input elsewhere included
  const float* w;
};

FAIRWAY_KERNEL(AttentionGates, const AttentionGate& gate, Elements u, float* gates, Rows rows);
// `out` may be `y`.
FAIRWAY_KERNEL(GateHeads, const AttentionGate& gate, const float* gates, Elements y, Elements out, Rows rows);
// From dout, the gradient of the gated output, to that of y, in place; y becomes the gated output. dlogits: of w_h . u, `scale`
// included.
FAIRWAY_KERNEL(GateHeadsBackward, const AttentionGate& gate, const float* gates, Elements y, Elements dout, float* dlogits, Rows rows);
// Adds the gates' part to du, elements [N, D], and to dw [H, window].
FAIRWAY_KERNEL(AttentionGatesBackward, const AttentionGate& gate, const float* dlogits, Elements u, Elements du, float* dw, Rows rows);

}  // namespace fairway
