// Softcap and cross-entropy over a few rows of logits at a time, so that those of a whole micro-batch never exist
// (pull request 531).
//
//   z = cap tanh(logit / cap);  loss = log(sum_v e^z_v) - z_target;  dlogit_v = share (softmax(z)_v - [v = target]) (1 - (z_v / cap)^2)
//
// logits: float32 [rows, V], the first of `rows` at its beginning; targets: [N]; losses: float32 [N], in nats.
#pragma once

#include "common/model/ops/element.h"
#include "common/model/ops/kernel.h"

namespace fairway {

// Losses alone; `logits` is used up.
FAIRWAY_KERNEL(CrossEntropyForward, int64_t V, float cap, float* logits, const int32_t* targets, float* losses, Rows rows);
// Losses, and dlogits of `share` times their sum: elements, rows `stride` apart with 0 between; they may lie where the logits
// are, which are used up.
FAIRWAY_KERNEL(CrossEntropyBackward, int64_t V, float cap, float share, float* logits, const int32_t* targets, float* losses,
               Elements dlogits, int64_t stride, Rows rows);

}  // namespace fairway
