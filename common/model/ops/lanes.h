// Two residual lanes, which attention and MLP read apart and write together (openai/parameter-golf pull request 1855):
//
//   lane'_k = resid_k lane_k + post_0k a + post_1k m        k = 0, 1; a: attention's output, m: the MLP's
//
// Lanes: float32 [N, D]; a and m: elements [N, D].
#pragma once

#include "common/model/ops/element.h"
#include "common/model/ops/kernel.h"

namespace fairway {

struct Lanes {
  int64_t D;
  const float* resid;  // [lane]
  const float* post;   // [source, lane]
  const float* lane0;
  const float* lane1;
  Elements a, m;
};

FAIRWAY_KERNEL(LanesForward, const Lanes& in, float* out0, float* out1, Rows rows);

// d0 and d1 are the gradients of lane'_0 and lane'_1 on entry, and those of the lanes afterwards; da and dm are written. Adds to
// dresid [lane] and dpost [source, lane].
FAIRWAY_KERNEL(LanesBackward, const Lanes& in, float* d0, float* d1, Elements da, Elements dm, double* dresid, double* dpost, Rows rows);

}  // namespace fairway
