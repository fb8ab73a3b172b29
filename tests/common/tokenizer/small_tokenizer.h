// A tokenizer trained on this project's own headers: real text that is there wherever the tests are.
#pragma once

#include <algorithm>
#include <map>
#include <tuple>

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

// Writes such a tokenizer to `path`. Each kind is trained once per test program.
inline void TrainOnOwnHeaders(const std::string& path, const TokenizerOptions& options = {.vocab_size = 400}) {
  static std::map<std::tuple<int64_t, bool, bool>, std::string> trained;
  std::string& model = trained[{options.vocab_size, options.case_ops, options.normalise}];
  if (model.empty()) {
    DocumentSource documents(OwnHeaders(), {});
    TrainTokenizer(documents, options, path);
    model = ReadBytes(path);
  }
  WriteBytes(path, model);
}

}  // namespace fairway
