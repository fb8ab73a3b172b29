// Documents that two splits have in common: validation text must not be in training data.
#pragma once

#include <cstdint>
#include <string>

#include "common/tokens/shards.h"

namespace fairway {

struct Overlap {
  int64_t train_documents = 0, val_documents = 0;
  int64_t shared = 0;       // documents of training that are one of validation, token by token
  int64_t near = 0;         // others of which half of the sampled runs of 8 tokens are in one document of validation
  std::string first;        // where the first shared one is; empty without
};

// Compares every document (from one BOS to the next) of at least kMinDocument tokens. Reads all tokens of both; what it keeps is of
// validation's size.
inline constexpr int64_t kMinDocument = 16;
Overlap CompareDocuments(const ShardSet& train, const ShardSet& val);

}  // namespace fairway
