// A folder for one test, and shards to put into it.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/tokens/shard_format.h"

namespace fairway {

class ScratchFolder {
 public:
  ScratchFolder() : path_((std::filesystem::temp_directory_path() / "fairway-XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "mkdtemp failed";
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline void WriteBytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string ShardBytes(const std::vector<uint16_t>& tokens) {
  return ShardHeader(static_cast<int64_t>(tokens.size())) +
         std::string(reinterpret_cast<const char*>(tokens.data()), 2 * tokens.size());
}

// Tokens `first`, `first` + 1, … modulo 1000.
inline std::vector<uint16_t> Counting(int64_t first, int64_t count) {
  std::vector<uint16_t> tokens(count);
  for (int64_t i = 0; i < count; ++i) tokens[i] = static_cast<uint16_t>((first + i) % 1000);
  return tokens;
}

// What `action` says when it fails with E, or "" where it does not.
template <typename E, typename Action>
std::string MessageOf(Action action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  }
  return "";
}

}  // namespace fairway
