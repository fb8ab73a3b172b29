// What the fuzz targets share. A target hands an input to a reader of ours; the reader either takes it, or refuses it
// with an InputError that a person can read. Anything else that leaves a reader is a finding: another exception, a
// sanitizer's report, an allocation out of proportion, a hang.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "common/base/error.h"
#include "common/base/text.h"

namespace fairway::fuzz {

inline void Require(bool holds, std::string_view what) {
  if (holds) return;
  std::fprintf(stderr, "%.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}

// Calls `read`; true where it took the input.
template <typename Read>
bool Takes(Read read) {
  try {
    read();
    return true;
  } catch (const InputError& error) {
    Require(Printable(error.what()).size() <= 4096, "the message is too long");
    return false;
  }
}

// A file in memory that has a path and one content after another.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("input", 0)), path_("/proc/self/fd/" + std::to_string(descriptor_)) {
    Require(descriptor_ >= 0, "no file in memory");
  }
  const std::string& With(std::string_view content) {
    Require(ftruncate(descriptor_, 0) == 0, "cannot empty the file");
    Require(pwrite(descriptor_, content.data(), content.size(), 0) == static_cast<ssize_t>(content.size()),
            "cannot write the file");
    return path_;
  }

 private:
  int descriptor_;
  std::string path_;
};

// A folder of this process, for readers that want one.
inline const std::string& Folder() {
  static const std::string& folder = *[] {
    std::string name =
        (std::filesystem::exists("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path().string()) +
        "/fairway-fuzz-XXXXXX";
    Require(mkdtemp(name.data()) != nullptr, "cannot make a folder");
    std::atexit([] { std::filesystem::remove_all(Folder()); });
    return new std::string(name);  // outlives what runs at exit
  }();
  return folder;
}

}  // namespace fairway::fuzz

// FUZZ(input) { … } defines what libFuzzer calls with each input, a std::string_view.
#define FUZZ(input)                                                         \
  static void FuzzOne(std::string_view input);                              \
  extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { \
    FuzzOne({reinterpret_cast<const char*>(data), size});                   \
    return 0;                                                               \
  }                                                                         \
  static void FuzzOne(std::string_view input)
