# CUDA, where this machine has an nvcc of the release that the torch wheel was built with: FAIRWAY_CUDA says so, and torch::cuda
# is what the plug-in links. Elsewhere the programs are CPU-only and say so.
#
# CMake's own CUDA language is not used: CMake 3.25 does not know CUDA's C++20, and one kernel file needs no more than a command.
get_filename_component(wheels_cuda "${LIBTORCH_CUDART}" DIRECTORY)  # nvidia/cu13/lib
find_program(FAIRWAY_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin ${wheels_cuda}/../bin DOC "CUDA compiler; OFF builds for the CPU alone")
set(FAIRWAY_CUDA_ARCHITECTURES 80 90 100 CACHE STRING "compute capabilities of the GPUs to build for, 80 for 8.0")
set(FAIRWAY_CUDA OFF)
if(FAIRWAY_LIBTORCH AND FAIRWAY_NVCC AND LIBTORCH_CUDA AND LIBTORCH_CUDART)
  execute_process(COMMAND ${FAIRWAY_NVCC} --version OUTPUT_VARIABLE nvcc_version ERROR_QUIET)
  string(REGEX MATCH "release ([0-9]+)" ignored "${nvcc_version}")
  set(nvcc_release ${CMAKE_MATCH_1})
  string(REGEX MATCH "[0-9]+$" torch_release ${LIBTORCH_CUDART})
  if(nvcc_release STREQUAL torch_release)
    set(FAIRWAY_CUDA ON)
  else()
    message(WARNING "${FAIRWAY_NVCC} is of CUDA ${nvcc_release}, the torch wheel of CUDA ${torch_release}: building for the CPU alone")
  endif()
endif()
message(STATUS "CUDA: ${FAIRWAY_CUDA}")

if(FAIRWAY_CUDA)
  # The wheel's NCCL, which its torch_cuda links.
  add_library(nccl SHARED IMPORTED)
  set_target_properties(nccl PROPERTIES
    IMPORTED_LOCATION ${LIBTORCH_ROOT}/../nvidia/nccl/lib/libnccl.so.2
    INTERFACE_INCLUDE_DIRECTORIES ${LIBTORCH_ROOT}/../nvidia/nccl/include)
  get_filename_component(cuda_root ${FAIRWAY_NVCC} REALPATH)
  get_filename_component(cuda_root ${cuda_root} DIRECTORY)
  add_library(torch::cuda SHARED IMPORTED)
  set_target_properties(torch::cuda PROPERTIES
    IMPORTED_LOCATION ${LIBTORCH_CUDA}
    # The compiler's own headers; those of cuBLAS and its like, which may have been left out beside it, are the wheel's.
    INTERFACE_INCLUDE_DIRECTORIES "${cuda_root}/../include;${wheels_cuda}/../include"
    INTERFACE_LINK_LIBRARIES "torch::cpu;${LIBTORCH_C10_CUDA};${LIBTORCH_CUDART}")
endif()

# fairway_nvcc(OBJECTS FILE.cu…) sets OBJECTS to the object files of kernels for every architecture. Like other kernels they may
# fuse products and sums.
function(fairway_nvcc objects)
  set(flags -std=c++20 -O3 -I ${PROJECT_SOURCE_DIR} -Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra)
  foreach(architecture IN LISTS FAIRWAY_CUDA_ARCHITECTURES)
    list(APPEND flags -gencode arch=compute_${architecture},code=sm_${architecture})
  endforeach()
  # Of the newest besides what a later GPU's driver compiles for it.
  list(GET FAIRWAY_CUDA_ARCHITECTURES -1 newest)
  list(APPEND flags -gencode arch=compute_${newest},code=compute_${newest})
  if(FAIRWAY_WERROR)
    list(APPEND flags -Werror all-warnings)
  endif()
  if(CCACHE)
    set(launcher ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE})
  endif()
  foreach(source IN LISTS ARGN)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${source}.o)
    add_custom_command(
      OUTPUT ${object}
      COMMAND ${launcher} ${FAIRWAY_NVCC} ${flags} -MD -MF ${object}.d -c ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${source}
      DEPFILE ${object}.d
      VERBATIM)
    list(APPEND all ${object})
  endforeach()
  set(${objects} ${all} PARENT_SCOPE)
endfunction()
