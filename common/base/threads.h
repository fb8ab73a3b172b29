// How many threads a process should run, and work shared out over them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace fairway {

// The processors that this process may keep busy, at least 1: those of its affinity mask, and of its control group's CPU quota
// rounded up. Ranks of one host (ReadLaunch) share them, unless each is bound to processors of its own.
int UsableProcessors();
// The same of numbers: `allowed` of the host's `online` processors by the affinity mask, `ranks` on the host, a quota of processors.
int ProcessorsOf(int allowed, int online, int ranks, double quota);

// The CPU quota of this process's control group or of one above it, whichever is least, in processors; infinity where there is none.
// Reads cgroup v2 (cpu.max) and v1 (cpu.cfs_quota_us over cpu.cfs_period_us). `root` is put before /proc and /sys.
double CpuQuota(const std::string& root = "");

// `asked` threads, or UsableProcessors() where it is 0, but no more than OMP_THREAD_LIMIT in the environment allows.
int ThreadsFor(int64_t asked);

// Throws UsageError, naming OMP_STACKSIZE, GOMP_STACKSIZE or the limit on stacks, where a thread of OpenMP's could not be started
// or would have less than 256 kB of stack. Left alone, OpenMP ends the process.
void CheckThreadStacks();

// Calls body(first, last) on consecutive parts of [0, count), each `grain` long but for the last: on at most `threads` threads, of
// which the calling one is the first. A thread that is free takes the next part. If calls throw, no further part is begun, and what
// the first of the parts that failed has thrown is thrown here.
void ParallelFor(int64_t count, int64_t grain, int threads, const std::function<void(int64_t first, int64_t last)>& body);

}  // namespace fairway
