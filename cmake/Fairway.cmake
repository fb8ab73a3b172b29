# The three kinds of target there are: a module's library, a program, a test.

# fairway_library(MODULE SOURCES file… DEPENDS target… [PRIVATE_DEPENDS target…])
# makes fairway::MODULE. A module sees only what it DEPENDS on; PRIVATE_DEPENDS do not reach those who use the module.
function(fairway_library module)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  add_library(fairway_${module} STATIC ${ARG_SOURCES})
  add_library(fairway::${module} ALIAS fairway_${module})
  target_include_directories(fairway_${module} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(fairway_${module} PUBLIC ${ARG_DEPENDS} PRIVATE ${ARG_PRIVATE_DEPENDS})
  set_target_properties(fairway_${module} PROPERTIES CXX_VISIBILITY_PRESET hidden)
endfunction()

# fairway_kernels(MODULE FILE.cc…) adds files that are compiled once for each instruction set in FAIRWAY_KERNEL_TARGETS, each
# time with FAIRWAY_TARGET naming the namespace of the code; common/model/ops/kernel.h chooses among them when
# the program starts. Products and sums may fuse there, and nowhere else: kernels promise a tolerance, not a rounding. Such
# files use neither the standard library nor LibTorch: a template compiled for one processor must not be linked into code that
# runs on another.
if(CMAKE_SYSTEM_PROCESSOR STREQUAL x86_64)
  set(FAIRWAY_KERNEL_TARGETS x86_64_v4_bf16 x86_64_v4 x86_64_v3 baseline)
elseif(CMAKE_SYSTEM_PROCESSOR STREQUAL aarch64)
  set(FAIRWAY_KERNEL_TARGETS armv8_bf16 baseline)
else()
  set(FAIRWAY_KERNEL_TARGETS baseline)
endif()
function(fairway_kernels module)
  foreach(target IN LISTS FAIRWAY_KERNEL_TARGETS)
    set(objects fairway_${module}_${target})
    add_library(${objects} OBJECT ${ARGN})
    target_include_directories(${objects} PRIVATE ${PROJECT_SOURCE_DIR})
    target_compile_definitions(${objects} PRIVATE FAIRWAY_TARGET=${target})
    target_compile_options(${objects} PRIVATE -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fopenmp-simd -Wvla)
    if(target STREQUAL armv8_bf16)
      target_compile_options(${objects} PRIVATE -march=armv8.2-a+bf16)
    elseif(NOT target STREQUAL baseline)
      string(REGEX REPLACE "^x86_64_(v[0-9]).*$" "x86-64-\\1" march ${target})
      target_compile_options(${objects} PRIVATE -march=${march} -mprefer-vector-width=512)
      if(target MATCHES _bf16$)
        target_compile_options(${objects} PRIVATE -mavx512bf16)
      endif()
    endif()
    target_sources(fairway_${module} PRIVATE $<TARGET_OBJECTS:${objects}>)
  endforeach()
endfunction()

# fairway_protobuf(MODULE FILE.proto…) adds the code generated from schemas to a module, for its own sources alone. Protobuf is
# linked statically, so that programs can hide it from a SentencePiece library that brings another version of its own.
find_library(PROTOBUF_STATIC_LIBRARY libprotobuf.a REQUIRED)
function(fairway_protobuf module)
  foreach(schema IN LISTS ARGN)
    get_filename_component(name ${schema} NAME_WE)
    set(generated ${CMAKE_CURRENT_BINARY_DIR}/${name}.pb.cc ${CMAKE_CURRENT_BINARY_DIR}/${name}.pb.h)
    add_custom_command(
      OUTPUT ${generated}
      COMMAND protobuf::protoc --cpp_out=${CMAKE_CURRENT_BINARY_DIR} -I ${CMAKE_CURRENT_SOURCE_DIR} ${schema}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${schema}
      VERBATIM)
    target_sources(fairway_${module} PRIVATE ${generated})
  endforeach()
  target_include_directories(fairway_${module} PRIVATE ${CMAKE_CURRENT_BINARY_DIR})
  target_link_libraries(fairway_${module} PRIVATE ${PROTOBUF_STATIC_LIBRARY} Threads::Threads)
endfunction()

# The modules a target is built from, itself left out, each once.
function(fairway_modules target result)
  set(seen)
  set(queue ${target})
  while(queue)
    list(POP_FRONT queue next)
    get_target_property(links ${next} LINK_LIBRARIES)
    foreach(link IN LISTS links)
      string(REGEX REPLACE "^\\$<LINK_ONLY:(.*)>$" "\\1" link "${link}")
      if(link MATCHES "^fairway::(.*)$" AND NOT CMAKE_MATCH_1 IN_LIST seen)
        list(APPEND seen ${CMAKE_MATCH_1})
        list(APPEND queue fairway_${CMAKE_MATCH_1})
      endif()
    endforeach()
  endwhile()
  set(${result} ${seen} PARENT_SCOPE)
endfunction()

# fairway_tool(NAME DEPENDS target…) makes bin/NAME from tools/NAME.cc (dashes as underscores) and bin/NAME.digest, the
# SHA-256 of the sources it is built from: its own file, all files of its modules, the build files and requirements.txt.
# NAME.digest changes only when that digest does, so that Make distinguishes a changed program from a rebuilt one.
function(fairway_tool name)
  cmake_parse_arguments(ARG "" "" "DEPENDS" ${ARGN})
  string(REPLACE "-" "_" file ${name})
  add_executable(${name} ${file}.cc)
  target_link_libraries(${name} PRIVATE fairway::tool ${ARG_DEPENDS})
  target_link_options(${name} PRIVATE LINKER:--exclude-libs,ALL)
  fairway_modules(${name} modules)
  set(sources ${CMAKE_CURRENT_SOURCE_DIR}/${file}.cc ${PROJECT_SOURCE_DIR}/CMakeLists.txt ${PROJECT_SOURCE_DIR}/requirements.txt)
  file(GLOB build_files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/*)
  list(APPEND sources ${build_files})
  foreach(module IN LISTS modules)
    get_target_property(folder fairway_${module} SOURCE_DIR)
    file(GLOB module_files CONFIGURE_DEPENDS LIST_DIRECTORIES false ${folder}/*)
    list(APPEND sources ${module_files})
  endforeach()
  list(SORT sources)
  set(generated ${CMAKE_CURRENT_BINARY_DIR}/${name}.digest.cc)
  string(REPLACE ";" "\n" source_lines "${sources}")
  file(WRITE ${generated}.sources "${source_lines}\n")
  add_custom_command(
    OUTPUT ${generated}
    BYPRODUCTS ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/${name}.digest
    COMMAND ${CMAKE_COMMAND} -D LIST=${generated}.sources -D ROOT=${PROJECT_SOURCE_DIR} -D VERSION=${PROJECT_VERSION}
            -D CODE=${generated} -D DIGEST=${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/${name}.digest
            -P ${PROJECT_SOURCE_DIR}/cmake/SourceDigest.cmake
    DEPENDS ${sources} ${PROJECT_SOURCE_DIR}/cmake/SourceDigest.cmake
    VERBATIM)
  target_sources(${name} PRIVATE ${generated})
  # An installed program looks for LibTorch where it was built with it, then as a wheel's program does: beside the wheel's package.
  set_target_properties(${name} PROPERTIES INSTALL_RPATH "$<$<BOOL:${FAIRWAY_LIBTORCH}>:${LIBTORCH_ROOT}/lib;>$ORIGIN/../../torch/lib;$ORIGIN/../lib")
  install(TARGETS ${name} RUNTIME DESTINATION bin)
  install(FILES ${PROJECT_SOURCE_DIR}/packaging/completion.bash DESTINATION share/bash-completion/completions RENAME ${name})
endfunction()

# fairway_test(NAME SOURCES file… DEPENDS target… [LABELS label…]) makes a GoogleTest program and registers its cases.
# SHARED_DIR is the folder of the golden numbers, where it exists.
function(fairway_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES} ${PROJECT_SOURCE_DIR}/tests/test_digest.cc)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE SHARED_DIR="${PROJECT_SOURCE_DIR}/../shared" SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                             BINARY_DIR="${PROJECT_BINARY_DIR}/bin")
  add_test(NAME ${name} COMMAND ${name})
  # Waiting threads sleep: on a busy machine spinning ones cost minutes.
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" ENVIRONMENT OMP_WAIT_POLICY=PASSIVE)
endfunction()
