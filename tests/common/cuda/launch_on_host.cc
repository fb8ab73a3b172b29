#include "tests/common/cuda/launch_on_host.h"

#include <barrier>
#include <thread>
#include <vector>

#include "common/cuda/operations.h"

namespace fairway::cuda {
namespace {

int host_lanes = 1;

struct OneLane {
  int64_t first() const { return 0; }
  int64_t count() const { return 1; }
  float Sum(float x) const { return x; }
  float Max(float x) const { return x; }
};

struct ThreadLanes {
  int64_t lane;
  std::vector<float>& values;
  std::barrier<>& barrier;

  int64_t first() const { return lane; }
  int64_t count() const { return static_cast<int64_t>(values.size()); }
  float Sum(float x) const {
    return Combine(x, [](float a, float b) { return a + b; });
  }
  float Max(float x) const {
    return Combine(x, [](float a, float b) { return a > b ? a : b; });
  }

 private:
  template <class Two>
  float Combine(float x, Two two) const {
    values[lane] = x;
    barrier.arrive_and_wait();
    x = values[0];
    for (size_t i = 1; i < values.size(); ++i) x = two(x, values[i]);
    barrier.arrive_and_wait();  // before `values` is used again
    return x;
  }
};

}  // namespace

void SetHostLanes(int lanes) { host_lanes = lanes; }

template <class Operation>
void Launch(const Operation& operation, cudaStream_t) {
  if (host_lanes == 1) {
    for (int64_t unit = 0; unit < operation.units(); ++unit) operation(OneLane{}, unit);
    return;
  }
  std::vector<float> values(host_lanes);
  std::barrier barrier(host_lanes);
  std::vector<std::jthread> threads;
  for (int lane = 0; lane < host_lanes; ++lane) {
    threads.emplace_back([&, lane] {
      for (int64_t unit = 0; unit < operation.units(); ++unit) operation(ThreadLanes{lane, values, barrier}, unit);
    });
  }
}

#define INSTANTIATE(...) template void Launch(const __VA_ARGS__&, cudaStream_t);
FAIRWAY_DEVICE_OPERATIONS(INSTANTIATE)

}  // namespace fairway::cuda
