# MPI, where this machine has a library of it: FAIRWAY_MPI says so, and MPI::MPI_CXX is what the plug-in links. Elsewhere a run on
# CPUs is one process, and --version says "no MPI".
option(FAIRWAY_MPI "Build the plug-in by which a run is many processes on CPUs" ON)
if(FAIRWAY_MPI)
  set(MPI_CXX_SKIP_MPICXX TRUE)  # the C interface alone
  find_package(MPI COMPONENTS CXX)
  if(NOT MPI_CXX_FOUND)
    set(FAIRWAY_MPI OFF)
  endif()
endif()
message(STATUS "MPI: ${FAIRWAY_MPI}")
