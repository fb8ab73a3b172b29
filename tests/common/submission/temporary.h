// A folder for one test program's files, its own and gone when it ends.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <stdexcept>
#include <string>

namespace fairway {

// With a slash at its end.
inline const std::string& TemporaryRoot() {
  struct Folder {
    Folder() {
      if (!mkdtemp(path.data())) throw std::runtime_error(path + ": cannot be made");
      path += "/";
    }
    ~Folder() { std::filesystem::remove_all(path); }
    std::string path = std::filesystem::temp_directory_path() / "submission-test-XXXXXX";
  };
  static const Folder folder;
  return folder.path;
}

}  // namespace fairway
