// Loaded before a rank's libraries: the rank stands still in MPI_Init or MPI_Finalize, by STAND_STILL_IN.
#include <mpi.h>

#include <csignal>
#include <cstdlib>
#include <string_view>

namespace {

void StandStillIn(std::string_view call) {
  if (std::string_view(std::getenv("STAND_STILL_IN")) == call) raise(SIGSTOP);
}

}  // namespace

extern "C" int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  StandStillIn("MPI_Init");
  return PMPI_Init_thread(argc, argv, required, provided);
}

extern "C" int MPI_Finalize() {
  StandStillIn("MPI_Finalize");
  return PMPI_Finalize();
}
