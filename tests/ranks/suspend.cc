// Loaded before a rank's libraries: the rank stops (SIGSTOP) in MPI_Init or MPI_Finalize, by SUSPEND_IN.
#include <mpi.h>

#include <csignal>
#include <cstdlib>
#include <string_view>

namespace {

void SuspendIn(std::string_view call) {
  if (std::string_view(std::getenv("SUSPEND_IN")) == call) raise(SIGSTOP);
}

}  // namespace

extern "C" int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  SuspendIn("MPI_Init");
  return PMPI_Init_thread(argc, argv, required, provided);
}

extern "C" int MPI_Finalize() {
  SuspendIn("MPI_Finalize");
  return PMPI_Finalize();
}
