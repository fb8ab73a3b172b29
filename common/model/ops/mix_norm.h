// Skip, residual mix and RMS norm in one walk over memory.
//
//   xin = x + skip_weight * skip      (visits that take a skip; else xin = x)
//       = g x + (1 - g) skip_weight * skip     (with skip gates g = sigmoid(skip_gates), pull request 1855)
//   xm  = mix0 * xin + mix1 * x0      (without a mix: xm = xin)
//   u   = xm / sqrt(mean(xm^2) + eps)
//
// The stream is float32 [N, D], row after row; mix0, mix1 and skip_weight float32 [D]; u and du are elements [N, D].
#pragma once

#include "common/model/ops/element.h"
#include "common/model/ops/kernel.h"

namespace fairway {

struct MixNorm {
  int64_t D;
  const float* x;                   // [N, D]
  const float* x0 = nullptr;        // [N, D]; null: no mix
  const float* mix = nullptr;       // [2, D]
  const float* skip = nullptr;      // [N, D]; null: no skip
  const float* skip_weight = nullptr;
  const float* skip_gate = nullptr;  // g; null: no gates
};

// Which of the values before the norm the residual path carries on: xm, or with two lanes xin.
enum class Residual { kMixed, kInput };

// Writes u and, where `residual` is not null, what the residual path carries; both [N, D], whole arrays of which the rows are filled.
FAIRWAY_KERNEL(MixNormForward, const MixNorm& in, float* residual, Elements u, Rows rows, Residual carries);

// The backward pass. `du` is the gradient of u and, on entry, `dresidual` that of what the residual path carries; afterwards it is
// dx plus `extra` and `extra_lane`, in place, and once more as elements in dx where that is asked for. Adds to dx0 [N, D], dmix [2,
// D], dskip_weight [D] and dskip_gate [D] (of skip_gates, before the sigmoid), and overwrites dskip [N, D]; those that the forward
// pass did not have are null. xm is computed again.
struct MixNormGradients {
  Elements du;
  float* dresidual;
  Residual carries = Residual::kMixed;
  const float* extra = nullptr;       // [N, D]
  const float* extra_lane = nullptr;  // [N, D]
  Elements dx = {};              // [N, D]
  float* dx0 = nullptr;
  float* dmix = nullptr;
  float* dskip = nullptr;
  float* dskip_weight = nullptr;
  float* dskip_gate = nullptr;
};
FAIRWAY_KERNEL(MixNormBackward, const MixNorm& in, const MixNormGradients& out, Rows rows);

}  // namespace fairway
