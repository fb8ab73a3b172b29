// Threads that walk through one computation together, each on its own share of the rows, and wait for each other only where
// one needs what another has made.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "common/model/ops/kernel.h"

namespace fairway {

class Barrier {
 public:
  explicit Barrier(int members) : members_(members), missing_(members) {}

  // Spins for as long as a thread that is running would need to arrive, then sleeps: one that waits for a thread that has lost
  // its processor must not keep a processor busy.
  void Wait();

 private:
  const int members_;
  std::atomic<int> missing_;
  std::atomic<uint32_t> round_{0};
};

struct Team {
  int rank, size;
  Barrier* barrier;

  void Wait() const { barrier->Wait(); }
  // The share of n rows that member `of` has; shares begin at multiples of `unit`.
  Rows ShareOf(int of, int64_t n, int64_t unit = 1) const {
    const auto begin = [&](int member) { return member == size ? n : n * member / size / unit * unit; };
    return {begin(of), begin(of + 1)};
  }
  Rows Share(int64_t n, int64_t unit = 1) const { return ShareOf(rank, n, unit); }
};

// Runs work(team) on `threads` threads of the pool that LibTorch uses too (OpenMP's), or on threads of its own where OpenMP gives
// fewer.
// REQUIRES: `work` does not throw.
void RunTeam(int threads, const std::function<void(const Team&)>& work);

}  // namespace fairway
