// How this process was started: alone, or as one of several ranks by torchrun, mpirun or srun.
#pragma once

#include <cstdint>
#include <string>

namespace fairway {

struct Launch {
  std::string launcher;                    // torchrun, mpirun, srun; empty: none
  int64_t rank = 0, world_size = 1;        // of this process among all
  int64_t local_rank = 0, local_size = 1;  // and among those of its host; a local_size of 0: not known
};

// What the environment says: RANK and its like (torchrun, or set by hand), or Open MPI's variables (mpirun), or Slurm's inside a step
// (srun). Throws UsageError for a number that is none, a rank that is not below WORLD_SIZE, or one of the two without the other.
Launch ReadLaunch();

}  // namespace fairway
