// Documents that two splits have in common: validation text must not be in training data.
#pragma once

#include <cstdint>
#include <string>

#include "common/tokens/byte_table.h"
#include "common/tokens/shards.h"

namespace fairway {

struct Overlap {
  int64_t train_documents = 0, val_documents = 0;
  int64_t shared = 0;       // documents of training whose text is that of one of validation, byte for byte
  int64_t near = 0;         // others that have half of the sampled runs of 8 tokens, of theirs or of its, in common with one of validation
  std::string first;        // where the first shared one is; empty without
};

// Compares every document (from one BOS to the next) of at least kMinDocument tokens, by a 64-bit hash of the text that its tokens
// spell: the same text is found however it was cut into tokens. Reads all tokens of both; what it keeps is of validation's size.
// REQUIRES: `table` is of their tokenizer.
inline constexpr int64_t kMinDocument = 16;
Overlap CompareDocuments(const ShardSet& train, const ShardSet& val, const ByteTable& table);

}  // namespace fairway
