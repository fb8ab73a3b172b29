#include "common/base/threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "common/base/error.h"
#include "common/base/launch.h"
#include "common/base/text.h"

namespace fairway {
namespace {

std::string FirstLineOf(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

double Quotient(const std::string& quota, const std::string& period) {
  int64_t micros, per;
  if (!ParseInt(quota, &micros) || !ParseInt(period, &per) || micros <= 0 || per <= 0) return INFINITY;
  return static_cast<double>(micros) / static_cast<double>(per);
}

// The quota that one group's folder states.
double QuotaIn(const std::string& folder, bool v2) {
  if (!v2) return Quotient(FirstLineOf(folder + "/cpu.cfs_quota_us"), FirstLineOf(folder + "/cpu.cfs_period_us"));
  const std::vector<std::string> words = Split(FirstLineOf(folder + "/cpu.max"), ' ');  // "max 100000" without a quota
  return words.size() == 2 ? Quotient(words[0], words[1]) : INFINITY;
}

// The bytes of "512k": a number and B, K, M or G; kilobytes without one. -1 where it is nothing of the kind.
int64_t StackBytes(const std::string& text) {
  std::string digits = Trim(text);
  int shift = 10;
  if (constexpr std::string_view kUnits = "bBkKmMgG"; !digits.empty())
    if (const size_t unit = kUnits.find(digits.back()); unit != std::string_view::npos) {
      shift = static_cast<int>(unit / 2) * 10;
      digits = Trim(digits.substr(0, digits.size() - 1));
    }
  int64_t count;
  return ParseInt(digits, &count) && count >= 0 && count <= (INT64_MAX >> shift) ? count << shift : -1;
}

}  // namespace

double CpuQuota(const std::string& root) {
  double least = INFINITY;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string group; std::getline(groups, group);) {
    // 0::/path of version 2, 4:cpu,cpuacct:/path of version 1
    const size_t first = group.find(':'), second = group.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::vector<std::string> controllers = Split(group.substr(first + 1, second - first - 1), ',');
    const std::string path = group.substr(second + 1);
    const bool v2 = group.starts_with("0::");
    if (!v2 && std::ranges::find(controllers, "cpu") == controllers.end()) continue;

    std::ifstream mounts(root + "/proc/self/mountinfo");
    for (std::string mount; std::getline(mounts, mount);) {
      // ID PARENT DEVICE ROOT PLACE OPTIONS… - TYPE SOURCE OPTIONS
      const size_t dash = mount.find(" - ");
      if (dash == std::string::npos) continue;
      const std::vector<std::string> before = Split(mount.substr(0, dash), ' '), after = Split(mount.substr(dash + 3), ' ');
      if (before.size() < 5 || after.size() < 3 || after[0] != (v2 ? "cgroup2" : "cgroup")) continue;
      const std::vector<std::string> options = Split(after[2], ',');
      if (!v2 && std::ranges::find(options, "cpu") == options.end()) continue;
      // Inside a container the mount may show only what lies below the container's own group.
      const std::string &mount_root = before[3], place = root + before[4];
      std::string below = mount_root == "/" ? path : path.starts_with(mount_root) ? path.substr(mount_root.size()) : "";
      if (below.starts_with("/..")) below.clear();
      while (true) {
        least = std::min(least, QuotaIn(place + below, v2));
        if (below.empty()) break;
        below.resize(below.rfind('/') == std::string::npos ? 0 : below.rfind('/'));
      }
    }
  }
  return least;
}

int ProcessorsOf(int allowed, int online, int ranks, double quota) {
  // A rank that may use all processors has not been bound to some of its own.
  const int share = allowed == online ? allowed / ranks : allowed;
  return std::max(1, static_cast<int>(std::min<double>(share, std::ceil(quota / ranks))));
}

int UsableProcessors() {
  const int online = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const int ranks = std::max(1, static_cast<int>(ReadLaunch().local_size));
  cpu_set_t mask;
  const int count = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : online;
  return ProcessorsOf(count, online, ranks, CpuQuota());
}

int ThreadsFor(int64_t asked) {
  const int64_t threads = asked > 0 ? asked : UsableProcessors();
  const char* limit = std::getenv("OMP_THREAD_LIMIT");
  int64_t most;
  // What is no number is ignored by OpenMP too, and it says so.
  if (limit != nullptr && ParseInt(Trim(limit), &most) && most > 0) return static_cast<int>(std::min(threads, most));
  return static_cast<int>(threads);
}

void CheckThreadStacks() {
  constexpr int64_t kLeast = 256 << 10;
  pthread_attr_t attributes;
  size_t bytes = 0;
  std::string name = "the limit on stacks (ulimit -s)";
  if (pthread_getattr_default_np(&attributes) == 0) {
    pthread_attr_getstacksize(&attributes, &bytes);
    pthread_attr_destroy(&attributes);
  }
  for (const char* variable : {"GOMP_STACKSIZE", "OMP_STACKSIZE"}) {
    const char* text = std::getenv(variable);
    // What is no size is ignored by OpenMP, and it says so.
    if (const int64_t set = text == nullptr ? -1 : StackBytes(text); set >= 0) {
      bytes = static_cast<size_t>(set);
      name = std::string("environment ") + variable + " = " + text;
    }
  }
  const auto refuse = [&](const std::string& cause) {
    throw UsageError(StringPrintf("%s: %s; remove it, or set %jdk or more", name.c_str(), cause.c_str(), kLeast >> 10));
  };
  if (bytes < kLeast) refuse(StringPrintf("stacks of %zu kB are too small", bytes >> 10));
  pthread_attr_init(&attributes);
  pthread_t thread;
  int error = pthread_attr_setstacksize(&attributes, bytes);
  if (error == 0) error = pthread_create(&thread, &attributes, [](void*) -> void* { return nullptr; }, nullptr);
  if (error == 0) pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  if (error != 0) refuse(StringPrintf("no thread can be started with a stack of %zu kB (%s)", bytes >> 10, std::strerror(error)));
}

void ParallelFor(int64_t count, int64_t grain, int threads, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t parts = (count + grain - 1) / grain;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  int64_t first_failed = parts;
  std::exception_ptr failure;
  const auto work = [&] {
    while (!failed) {
      const int64_t part = next++;
      if (part >= parts) return;
      try {
        body(part * grain, std::min((part + 1) * grain, count));
      } catch (...) {
        const std::lock_guard lock(mutex);
        failed = true;
        if (part < first_failed) first_failed = part, failure = std::current_exception();
      }
    }
  };
  {
    std::vector<std::jthread> helpers;
    try {
      for (int64_t i = 1; i < std::min<int64_t>(threads, parts); ++i) helpers.emplace_back(work);
    } catch (const std::system_error&) {
      // The system gives no more threads: those that there are do it all.
    }
    work();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace fairway
