#include "common/model/ops/team.h"

#include <omp.h>

#include <thread>
#include <vector>

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
  // OMP_DYNAMIC and OMP_MAX_ACTIVE_LEVELS = 0 would leave the choice to OpenMP.
  omp_set_dynamic(0);
  if (omp_get_max_active_levels() < 1) omp_set_max_active_levels(1);
  Barrier barrier(threads);
  std::vector<std::jthread> missing;
#pragma omp parallel num_threads(threads)
  {
    // OMP_THREAD_LIMIT, or a parallel region around this one, may still have kept members away: they wait for each other, and must
    // all be there.
    const int rank = omp_get_thread_num(), given = omp_get_num_threads();
    if (rank == 0)
      for (int other = given; other < threads; ++other)
        missing.emplace_back([&work, &barrier, other, threads] { work(Team{other, threads, &barrier}); });
    work(Team{rank, threads, &barrier});
  }
}

}  // namespace fairway
