// Device operations on the CPU: Launch (common/cuda/operation.h) for tests, where a GPU's is not linked.
#pragma once

namespace fairway::cuda {

// How many lanes work on a unit from now on: 1, one after the other on this thread; more, a thread each, so that a lane that
// reads what another one has not yet written gives another result.
void SetHostLanes(int lanes);

}  // namespace fairway::cuda
