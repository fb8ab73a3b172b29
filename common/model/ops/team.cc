#include "common/model/ops/team.h"

#include <omp.h>

namespace fairway {

void Barrier::Wait() {
  const uint32_t round = round_.load(std::memory_order_relaxed);
  if (missing_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    missing_.store(members_, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    return;
  }
  constexpr int kSpins = 4000;  // some 50 microseconds: a sleeper takes about as long to wake
  for (int i = 0; i < kSpins; ++i) {
    if (round_.load(std::memory_order_acquire) != round) return;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  round_.wait(round, std::memory_order_acquire);
}

void RunTeam(int threads, const std::function<void(const Team&)>& work) {
  Barrier barrier(threads);
#pragma omp parallel num_threads(threads)
  work(Team{omp_get_thread_num(), threads, &barrier});
}

}  // namespace fairway
