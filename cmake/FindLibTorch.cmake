# LibTorch from the PyPI wheel in the private virtual environment, as imported targets.
#
# The wheel's own TorchConfig.cmake is not used: with this wheel it demands a CUDA toolkit or, with one present, links
# torch_cuda into everything. Include folders are SYSTEM and reach only targets that link torch::cpu, because the wheel also
# ships headers of protobuf and fmt that shadow Debian's.
set(FAIRWAY_VENV ${PROJECT_SOURCE_DIR}/.venv CACHE PATH "virtual environment that holds the torch wheel")
file(GLOB LIBTORCH_ROOT ${FAIRWAY_VENV}/lib/python3*/site-packages/torch)

find_library(LIBTORCH_CPU torch_cpu PATHS ${LIBTORCH_ROOT}/lib NO_DEFAULT_PATH)
find_library(LIBTORCH_C10 c10 PATHS ${LIBTORCH_ROOT}/lib NO_DEFAULT_PATH)
find_library(LIBTORCH_CUDA torch_cuda PATHS ${LIBTORCH_ROOT}/lib NO_DEFAULT_PATH)
find_library(LIBTORCH_C10_CUDA c10_cuda PATHS ${LIBTORCH_ROOT}/lib NO_DEFAULT_PATH)
# The CUDA runtime that the wheel's libraries use.
file(GLOB LIBTORCH_CUDART ${LIBTORCH_ROOT}/../nvidia/cu*/lib/libcudart.so.*)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch REQUIRED_VARS LIBTORCH_CPU LIBTORCH_C10
  REASON_FAILURE_MESSAGE "no torch wheel in ${FAIRWAY_VENV}: run `make setup`")

if(LibTorch_FOUND AND NOT TARGET torch::cpu)
  add_library(torch::c10 SHARED IMPORTED)
  set_target_properties(torch::c10 PROPERTIES IMPORTED_LOCATION ${LIBTORCH_C10})
  add_library(torch::cpu SHARED IMPORTED)
  set_target_properties(torch::cpu PROPERTIES
    IMPORTED_LOCATION ${LIBTORCH_CPU}
    INTERFACE_INCLUDE_DIRECTORIES "${LIBTORCH_ROOT}/include;${LIBTORCH_ROOT}/include/torch/csrc/api/include"
    INTERFACE_LINK_LIBRARIES torch::c10)
endif()
