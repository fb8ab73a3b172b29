// Residual mix and RMS norm in one walk over memory (specification 1, section 3).
//
//   xin = x + skip_weight * skip      (decoder blocks that take a skip; else xin = x)
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
};

// Writes u and, where `mixed` is not null, xm; both [N, D], whole arrays of which the rows are filled.
FAIRWAY_KERNEL(MixNormForward, const MixNorm& in, float* mixed, Elements u, Rows rows);

// The way back. `du` is the gradient of u, `dmixed` that of xm from elsewhere (the residual path) on entry; afterwards it is
// dxin + extra, in place, and once more as elements in dx where that is asked for. Adds to dx0 [N, D], dmix [2, D], dskip [N, D] (overwritten, not added) and dskip_weight [D]; those that the
// forward pass did not have are null. xm is computed again.
struct MixNormGradients {
  Elements du;
  float* dmixed;
  const float* extra = nullptr;  // [N, D]
  Elements dx = {};              // [N, D]
  float* dx0 = nullptr;
  float* dmix = nullptr;
  float* dskip = nullptr;
  float* dskip_weight = nullptr;
};
FAIRWAY_KERNEL(MixNormBackward, const MixNorm& in, const MixNormGradients& out, Rows rows);

}  // namespace fairway
