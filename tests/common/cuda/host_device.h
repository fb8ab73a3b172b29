// A device (common/cuda/device.h) that is the CPU: device operations' bodies run on CPU tensors, and a graph does again what
// it was captured from.
#pragma once

#include <barrier>
#include <thread>
#include <vector>

#include "common/cuda/device.h"

namespace fairway::cuda {

class HostDevice : public Device {
 public:
  // How many lanes work on a unit: 1, on this thread; more, a thread each, so that a lane that reads what another one has not
  // yet written gives another result.
  explicit HostDevice(int lanes = 1) : lanes_(lanes) {}

  at::Device torch_device() const override { return at::kCPU; }
  std::string name() const override { return "the CPU"; }
  int captures() const { return captures_; }

  std::unique_ptr<Graph> Capture(const std::function<void()>& work) override {
    struct Again : Graph {
      explicit Again(const std::function<void()>& work) : work(work) {}
      void Replay() override { work(); }
      std::function<void()> work;
    };
    ++captures_;
    return std::make_unique<Again>(work);
  }

 private:
  struct OneLane {
    int64_t first() const { return 0; }
    int64_t count() const { return 1; }
    float Sum(float x) const { return x; }
    float Max(float x) const { return x; }
  };

  struct ThreadLane {
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

  void LaunchNumber(int number, const void* operation) override {
    Operations::At(number, operation, [&](const auto& own) {
      if (lanes_ == 1) {
        for (int64_t unit = 0; unit < own.units(); ++unit) own(OneLane{}, unit);
        return;
      }
      std::vector<float> values(lanes_);
      std::barrier barrier(lanes_);
      std::vector<std::jthread> threads;
      for (int lane = 0; lane < lanes_; ++lane) {
        threads.emplace_back([&, lane] {
          for (int64_t unit = 0; unit < own.units(); ++unit) own(ThreadLane{lane, values, barrier}, unit);
        });
      }
    });
  }

  const int lanes_;
  int captures_ = 0;
};

}  // namespace fairway::cuda
