#include "common/model/ops/team.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <atomic>
#include <vector>

namespace fairway {
namespace {

// Every member is there, once, and they can wait for each other.
void ExpectWhole(int threads) {
  std::vector<std::atomic<int>> arrived(threads);
  std::atomic<int> in_time = 0;
  RunTeam(threads, [&](const Team& team) {
    EXPECT_EQ(team.size, threads);
    ++arrived[team.rank];
    team.Wait();
    int all = 0;
    for (const std::atomic<int>& one : arrived) all += one;
    in_time += all == threads;
    team.Wait();
  });
  for (const std::atomic<int>& one : arrived) EXPECT_EQ(one, 1);
  EXPECT_EQ(in_time, threads);
}

TEST(Team, HasAllItsMembers) {
  for (const int threads : {1, 2, 5}) ExpectWhole(threads);
}

TEST(Team, HasThemWhereOpenMpChoosesTheNumber) {
  omp_set_dynamic(1);
  ExpectWhole(3);
  ExpectWhole(50);
}

TEST(Team, HasThemWhereNoRegionMayBeParallel) {
  const int before = omp_get_max_active_levels();
  omp_set_max_active_levels(0);
  ExpectWhole(3);
  omp_set_max_active_levels(before);
}

// OpenMP gives a region inside another one a single thread.
TEST(Team, HasThemInsideAParallelRegion) {
  int given = 0;
#pragma omp parallel num_threads(2)
  {
#pragma omp single
    {
#pragma omp parallel num_threads(3)
#pragma omp single
      given = omp_get_num_threads();
      ExpectWhole(3);
    }
  }
  EXPECT_EQ(given, 1);
}

TEST(Team, SharesCoverAllRowsOnce) {
  for (const int size : {1, 2, 3, 7})
    for (const int64_t unit : {1, 2, 16})
      for (const int64_t n : {0, 1, 15, 16, 17, 1000}) {
        int64_t next = 0;
        for (int rank = 0; rank < size; ++rank) {
          const Team team{rank, size, nullptr};
          const Rows rows = team.Share(n, unit);
          EXPECT_EQ(rows.first, next);
          EXPECT_EQ(rows.first % unit, 0);
          next = rows.last;
        }
        EXPECT_EQ(next, n);
      }
}

}  // namespace
}  // namespace fairway
