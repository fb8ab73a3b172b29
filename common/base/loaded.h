// The files that the running program is made of: itself, and the libraries that it has loaded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fairway {

struct LoadedFile {
  // kCode: built from this project's source, installed beside the program. kLibTorch: of LibTorch's installation, and what came with
  // it. kSystem: of the system, in /lib, /usr or /opt. kElsewhere: from any other place.
  enum class From { kCode, kLibTorch, kSystem, kElsewhere };
  std::string name;  // without its folder
  uint64_t bytes = 0;
  From from = From::kElsewhere;
};

// The program first, then its libraries in the order in which they were loaded.
std::vector<LoadedFile> LoadedFiles();

// Where a library at `path` is from, for a program in PREFIX/bin. `libtorch` is the path of libtorch_cpu.so, or empty. Paths are
// real ones.
LoadedFile::From FromWhere(const std::string& path, const std::string& prefix, const std::string& libtorch);

// "code", "libtorch", "system", "elsewhere".
std::string_view NameOf(LoadedFile::From from);

}  // namespace fairway
