// Squared ReLU of the MLP (specification 1, section 3): a = relu(h)^2, dh = da * 2 relu(h). float32 [N, F].
#pragma once

#include "common/model/ops/kernel.h"

namespace fairway {

FAIRWAY_KERNEL(Relu2Forward, int64_t F, const float* h, float* a, Rows rows);
// da becomes dh in place; `a`, which the weight's gradient needs, is computed again beside it.
FAIRWAY_KERNEL(Relu2Backward, int64_t F, const float* h, float* a, float* da, Rows rows);

}  // namespace fairway
