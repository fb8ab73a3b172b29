#include "common/base/launch.h"

#include <cstdlib>

#include "common/base/error.h"

namespace fairway {
namespace {

// One launcher's names for the same four numbers. `needed`: its numbers count only where this stands in the environment too.
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

}  // namespace

Launch LaunchOf() {
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
      throw UsageError(StringPrintf("environment %s = %ld is not below %s = %ld", names.rank, launch.rank, names.world_size,
                                    launch.world_size));
    launch.local_rank = Number(names.local_rank, launch.rank);
    launch.local_size = Number(names.local_size, 0);
    return launch;
  }
  return {};
}

}  // namespace fairway
