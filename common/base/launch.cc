#include "common/base/launch.h"

#include <cstdlib>

#include "common/base/error.h"

namespace fairway {
namespace {

// One launcher's names for the same four numbers. `needed`: its numbers count only where this is in the environment too.
struct Names {
  const char *launcher, *needed, *rank, *world_size, *local_rank, *local_size;
};
constexpr Names kLaunchers[] = {
    {"torchrun", nullptr, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {"mpirun", nullptr, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    // A batch script is no step of its job: it finds the job's SLURM_NTASKS, and is one process all the same.
    {"srun", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"},
};

int64_t Number(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  if (text == nullptr) return otherwise;
  int64_t value;
  if (!ParseInt(text, &value) || value < 0) throw UsageError(std::string("environment ") + name + " = '" + text + "' is no count");
  return value;
}

// Slurm says how many tasks of a step each of its nodes has, "2(x3),1" for 2, 2, 2 and 1, and which of them this one is. 0: it does
// not.
int64_t TasksOfThisNode() {
  const char* nodes = std::getenv("SLURM_STEP_TASKS_PER_NODE");
  if (nodes == nullptr || std::getenv("SLURM_NODEID") == nullptr) return 0;
  int64_t node = Number("SLURM_NODEID", 0);
  for (const std::string& part : Split(nodes, ',')) {
    const size_t times = part.find("(x");
    int64_t tasks, count = 1;
    const bool repeated = times != std::string::npos;
    if (!ParseInt(part.substr(0, times), &tasks) || tasks < 1 ||
        (repeated && (part.back() != ')' || !ParseInt(part.substr(times + 2, part.size() - times - 3), &count) || count < 1)))
      throw UsageError(std::string("environment SLURM_STEP_TASKS_PER_NODE = '") + nodes + "' is no list of numbers of tasks");
    if (node < count) return tasks;
    node -= count;
  }
  throw UsageError(std::string("environment SLURM_NODEID = ") + std::getenv("SLURM_NODEID") + " is not among the nodes of SLURM_STEP_TASKS_PER_NODE = '" +
                   nodes + "'");
}

}  // namespace

Launch ReadLaunch() {
  for (const Names& names : kLaunchers) {
    if (names.needed != nullptr && std::getenv(names.needed) == nullptr) continue;
    const bool rank = std::getenv(names.rank) != nullptr, world = std::getenv(names.world_size) != nullptr;
    if (!rank && !world) continue;
    Launch launch{.launcher = names.launcher};
    launch.world_size = Number(names.world_size, 1);
    if (launch.world_size == 1 && !rank) return launch;
    if (rank != world)
      throw UsageError(std::string("environment ") + (rank ? names.rank : names.world_size) + " without " +
                       (rank ? names.world_size : names.rank));
    launch.rank = Number(names.rank, 0);
    if (launch.rank >= launch.world_size)
      throw UsageError(StringPrintf("environment %s = %jd is not below %s = %jd", names.rank, launch.rank, names.world_size,
                                    launch.world_size));
    launch.local_rank = Number(names.local_rank, launch.rank);
    launch.local_size = Number(names.local_size, 0);
    if (launch.local_size == 0 && names.needed != nullptr) launch.local_size = TasksOfThisNode();
    return launch;
  }
  return {};
}

}  // namespace fairway
