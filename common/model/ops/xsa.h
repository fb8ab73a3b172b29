// Exclusive self attention (pull request 531; arXiv 2603.09078): with v the value at the same position of the query
// head's key/value group and n = v / max(|v|, 1e-12),
//
//   out = y - (y . n) n
//
// y, out: elements [N, H d]; v: the value heads of qkv (qk.h), each serving H / Hkv consecutive query heads.
#pragma once

#include "common/model/ops/qk.h"

namespace fairway {

FAIRWAY_KERNEL(XsaForward, const QkShape& shape, Elements qkv, Elements y, Elements out, Rows rows);

// dout becomes dy in place; `out` is computed again beside it (the output projection's gradient needs it), and the value heads
// of dqkv are set.
FAIRWAY_KERNEL(XsaBackward, const QkShape& shape, Elements qkv, Elements y, Elements out, Elements dout, Elements dqkv, Rows rows);

}  // namespace fairway
