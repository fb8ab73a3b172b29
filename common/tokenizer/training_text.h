// Which documents a tokenizer was trained on: MODEL.documents beside the model, by the hash of each document's text. A vocabulary that
// was learnt from validation text is one of the things that a score can be disputed for (docs/truth.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/digest.h"

namespace fairway {

class TrainingText {
 public:
  static std::string Path(const std::string& model) { return model + ".documents"; }
  // XXH3-64 of a document's bytes, before any transform.
  static uint64_t HashOf(std::string_view text) { return Xxh3Of(text); }

  void Add(std::string_view text) { hashes_.push_back(HashOf(text)); }
  int64_t documents() const { return static_cast<int64_t>(hashes_.size()); }
  // Whether a document of this hash is among them. REQUIRES: Read returned it.
  bool Has(uint64_t hash) const;

  // Of the model at that path, whose SHA-256 (hexadecimal) is `digest`. Nothing where the file is absent. InputError where it is
  // damaged or of another model.
  static std::optional<TrainingText> Read(const std::string& model, const std::string& digest);
  void Write(const std::string& model, const std::string& digest) const;

 private:
  std::vector<uint64_t> hashes_;  // Read sorts them
};

}  // namespace fairway
