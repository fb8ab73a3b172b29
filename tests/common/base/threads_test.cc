#include "common/base/threads.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "common/base/error.h"
#include "tests/common/checkpoint/temporary_folder.h"

namespace fairway {
namespace {

using testing::HasSubstr;

TEST(ParallelFor, CallsEveryPartOnce) {
  for (const int threads : {1, 2, 3, 8})
    for (const int64_t count : {0, 1, 5, 16, 17, 100}) {
      std::vector<std::atomic<int>> calls(count);
      ParallelFor(count, 5, threads, [&](int64_t first, int64_t last) {
        EXPECT_EQ(first % 5, 0);
        EXPECT_EQ(last, std::min(first + 5, count));
        for (int64_t i = first; i < last; ++i) ++calls[i];
      });
      for (int64_t i = 0; i < count; ++i) EXPECT_EQ(calls[i], 1) << i << " of " << count << " on " << threads;
    }
}

// Two parts that wait for each other come to an end only where both run at a time.
TEST(ParallelFor, RunsPartsSideBySide) {
  std::mutex mutex;
  std::condition_variable changed;
  std::set<std::thread::id> seen;
  ParallelFor(2, 1, 2, [&](int64_t, int64_t) {
    std::unique_lock lock(mutex);
    seen.insert(std::this_thread::get_id());
    changed.notify_all();
    changed.wait(lock, [&] { return seen.size() == 2; });
  });
  EXPECT_TRUE(seen.contains(std::this_thread::get_id()));
}

TEST(ParallelFor, NeverTakesMoreThreadsThanItIsGiven) {
  for (const int threads : {1, 2}) {
    std::mutex mutex;
    std::set<std::thread::id> seen;
    ParallelFor(100, 1, threads, [&](int64_t, int64_t) {
      const std::lock_guard lock(mutex);
      seen.insert(std::this_thread::get_id());
    });
    EXPECT_LE(seen.size(), static_cast<size_t>(threads));
  }
}

TEST(ParallelFor, ThrowsWhatTheFirstFailedPartThrew) {
  for (const int threads : {1, 2, 5})
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::atomic<int> begun = 0;
      try {
        ParallelFor(1000, 1, threads, [&](int64_t part, int64_t) {
          ++begun;
          if (part >= 7) throw std::runtime_error(std::to_string(part));
        });
        FAIL() << "nothing was thrown";
      } catch (const std::runtime_error& error) {
        EXPECT_STREQ(error.what(), "7");
      }
      EXPECT_LE(begun, 8 + threads);  // the rest is left out
    }
}

// Two of three parts fail, and the one that fails later is recorded later: a thread fails only when the other has ended.
TEST(ParallelFor, OfTwoFailuresTheFirstPartCountsWhicheverComesFirst) {
  for (const bool first_part_fails_first : {true, false}) {
    std::mutex mutex;
    std::condition_variable changed;
    std::map<std::thread::id, int64_t> parts;  // of each thread
    std::set<int64_t> ended;                   // parts whose threads have
    struct AtExit {
      std::function<void()> call;
      ~AtExit() {
        if (call) call();
      }
    };
    const std::thread::id caller = std::this_thread::get_id();
    std::vector<int64_t> failing;  // ascending: not the caller's part
    try {
      ParallelFor(3, 1, 3, [&](int64_t part, int64_t) {
        thread_local AtExit at_exit;
        std::unique_lock lock(mutex);
        parts[std::this_thread::get_id()] = part;
        changed.notify_all();
        changed.wait(lock, [&] { return parts.size() == 3; });
        if (failing.empty()) {
          for (int64_t other : {0, 1, 2})
            if (other != parts.at(caller)) failing.push_back(other);
        }
        if (std::this_thread::get_id() == caller) return changed.wait(lock, [&] { return ended.size() == 2; });
        at_exit.call = [&, part] {
          const std::lock_guard lock(mutex);
          ended.insert(part);
          changed.notify_all();
        };
        const bool waits = (part == failing[0]) != first_part_fails_first;
        if (waits) changed.wait(lock, [&] { return !ended.empty(); });
        throw std::runtime_error(std::to_string(part));
      });
      FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(error.what(), std::to_string(failing[0]));
    }
  }
}

TEST(Processors, AreSharedByWhoeverSharesThem) {
  EXPECT_EQ(ProcessorsOf(8, 8, 1, INFINITY), 8);
  EXPECT_EQ(ProcessorsOf(3, 8, 1, INFINITY), 3);  // taskset
  EXPECT_EQ(ProcessorsOf(8, 8, 4, INFINITY), 2);
  EXPECT_EQ(ProcessorsOf(2, 8, 4, INFINITY), 2);  // bound by the launcher
  EXPECT_EQ(ProcessorsOf(2, 2, 4, INFINITY), 1);
  EXPECT_EQ(ProcessorsOf(8, 8, 1, 4), 4);
  EXPECT_EQ(ProcessorsOf(8, 8, 1, 1.5), 2);
  EXPECT_EQ(ProcessorsOf(8, 8, 2, 4), 2);
  EXPECT_EQ(ProcessorsOf(8, 8, 4, 2), 1);
  EXPECT_EQ(ProcessorsOf(8, 8, 1, 0.1), 1);
  EXPECT_EQ(ProcessorsOf(2, 8, 1, 6), 2);
}

class Quota : public testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path whole = folder_ / path;
    std::filesystem::create_directories(whole.parent_path());
    std::ofstream(whole) << text;
  }
  double Of() const { return CpuQuota(folder_.path()); }

  TemporaryFolder folder_;
};

TEST_F(Quota, IsUnlimitedWhereNothingIsSaid) {
  EXPECT_EQ(Of(), INFINITY);
  Write("proc/self/cgroup", "0::/\n");
  Write("proc/self/mountinfo", "1 0 0:1 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n");
  EXPECT_EQ(Of(), INFINITY);
  Write("sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(Of(), INFINITY);
}

TEST_F(Quota, OfVersion2) {
  Write("proc/self/cgroup", "0::/\n");
  Write("proc/self/mountinfo", "5 1 8:1 / / rw - ext4 /dev/sda1 rw\n1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  Write("sys/fs/cgroup/cpu.max", "150000 100000\n");
  EXPECT_EQ(Of(), 1.5);
}

TEST_F(Quota, IsTheLeastOfTheGroupsAboveIt) {
  Write("proc/self/cgroup", "0::/slice/job/step\n");
  Write("proc/self/mountinfo", "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
  Write("sys/fs/cgroup/slice/job/step/cpu.max", "max 100000\n");
  Write("sys/fs/cgroup/slice/job/cpu.max", "400000 100000\n");
  EXPECT_EQ(Of(), 4);
  Write("sys/fs/cgroup/slice/cpu.max", "30000 10000\n");
  EXPECT_EQ(Of(), 3);
  Write("sys/fs/cgroup/slice/job/step/cpu.max", "200000 100000\n");
  EXPECT_EQ(Of(), 2);
}

// Docker with version 1: /proc says the host's path, the mount shows what lies below it.
TEST_F(Quota, OfVersion1InAContainer) {
  Write("proc/self/cgroup", "12:cpuset:/docker/4f\n4:cpu,cpuacct:/docker/4f\n0::/\n");
  Write("proc/self/mountinfo",
        "1 0 0:1 /docker/4f /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
        "2 0 0:2 /docker/4f /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset\n");
  Write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  Write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Of(), INFINITY);
  Write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n");
  EXPECT_EQ(Of(), 2.5);
  // Of another controller: no quota of processors.
  Write("sys/fs/cgroup/cpuset/cpu.cfs_quota_us", "100000\n");
  Write("sys/fs/cgroup/cpuset/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Of(), 2.5);
}

// A group outside of what the mount shows: its own limit is out of sight, the mount's is not.
TEST_F(Quota, OfAGroupOutsideTheMount) {
  Write("proc/self/cgroup", "0::/../other\n");
  Write("proc/self/mountinfo", "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  Write("sys/fs/cgroup/cpu.max", "100000 100000\n");
  EXPECT_EQ(Of(), 1);
}

TEST_F(Quota, OfFilesThatMakeNoSense) {
  Write("proc/self/cgroup", "\n:\n0\n0::\n0::/\n");
  Write("proc/self/mountinfo", "\n - \n1 2 3 - cgroup2\n1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  for (const char* text : {"", "junk", "1", "0 100000", "100000 0", "-5 100000", "1 2 3"}) {
    Write("sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(Of(), INFINITY) << text;
  }
}

class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }

 private:
  const char* const name_;
};

TEST(Threads, AreAsAskedWithinTheLimit) {
  EXPECT_EQ(ThreadsFor(3), 3);
  EXPECT_EQ(ThreadsFor(0), UsableProcessors());
  EXPECT_GE(UsableProcessors(), 1);
  const Variable limit("OMP_THREAD_LIMIT", "2");
  EXPECT_EQ(ThreadsFor(3), 2);
  EXPECT_EQ(ThreadsFor(1), 1);
  const Variable junk("OMP_THREAD_LIMIT", "junk");
  EXPECT_EQ(ThreadsFor(3), 3);
}

std::string RefusalOf(const char* variable, const char* value) {
  const Variable set(variable, value);
  try {
    CheckThreadStacks();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "none";
}

TEST(Threads, HaveStacksOfUse) {
  EXPECT_NO_THROW(CheckThreadStacks());
  for (const char* enough : {"256", "256k", "256K", " 1 M ", "8m", "262144B", "junk", ""}) {
    EXPECT_EQ(RefusalOf("OMP_STACKSIZE", enough), "none") << enough;
  }
  for (const char* little : {"16k", "255", "0", "262143b"}) {
    EXPECT_THAT(RefusalOf("OMP_STACKSIZE", little), HasSubstr(std::string("environment OMP_STACKSIZE = ") + little)) << little;
  }
  EXPECT_THAT(RefusalOf("GOMP_STACKSIZE", "16k"), HasSubstr("GOMP_STACKSIZE"));
  // More than there are addresses.
  EXPECT_THAT(RefusalOf("OMP_STACKSIZE", "1000000G"), HasSubstr("no thread can be started"));
}

}  // namespace
}  // namespace fairway
