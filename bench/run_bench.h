// The main of a bench program.
#pragma once

#include <cstdio>

#include "common/base/error.h"

namespace fairway {

// What `run` returns; the message and the status of an error that it throws.
inline int RunBench(const char* name, int (*run)(int, char**), int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return static_cast<int>(error.status());
  }
}

}  // namespace fairway
