// A tokenizer trained on this project's own headers: real text that is there wherever the tests are.
#pragma once

#include <algorithm>

#include "common/tokenizer/tokenizer.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {

inline std::vector<std::string> OwnHeaders() {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(SOURCE_DIR "/common"))
    if (entry.path().extension() == ".h") paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

inline void TrainOnOwnHeaders(const std::string& path, int64_t vocab_size = 400) {
  DocumentSource documents(OwnHeaders(), {});
  TrainTokenizer(documents, vocab_size, path);
}

}  // namespace fairway
