# Cross compilation for arm64 on Debian's amd64, and tests under its user-mode emulation: scripts/cross-arm64. FAIRWAY_SYSROOT is a
# folder of arm64 libraries from Debian's packages, whose C library is the cross compiler's own.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(FAIRWAY_SYSROOT "" CACHE PATH "arm64 libraries and their headers")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES FAIRWAY_SYSROOT)
set(CMAKE_FIND_ROOT_PATH ${FAIRWAY_SYSROOT} /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)  # headers alone are the same for both: nlohmann-json, CLI11, boost
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
set(libraries ${FAIRWAY_SYSROOT}/usr/lib/aarch64-linux-gnu)
# -Wno-psabi: gcc notes in boost that gcc before 10.1 passed some arguments otherwise.
set(CMAKE_CXX_FLAGS_INIT "-Wno-psabi -isystem ${FAIRWAY_SYSROOT}/usr/include/aarch64-linux-gnu -isystem ${FAIRWAY_SYSROOT}/usr/include")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-L${libraries} -Wl,-rpath-link,${libraries}")
set(CMAKE_SHARED_LINKER_FLAGS_INIT "-L${libraries}")
# max: every extension that the emulator knows, so that the kernels' bfloat16 build runs too.
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64;-cpu;max;-L;/usr/aarch64-linux-gnu;-E;LD_LIBRARY_PATH=${libraries})
