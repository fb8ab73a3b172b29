// What is known about the text of a split: how many of its bytes the tokens count, and whether that is proved.
#pragma once

#include <cstdint>
#include <string>

#include "common/tokens/byte_table.h"
#include "common/tokens/shards.h"

namespace fairway {

struct SplitText {
  int64_t bytes = 0;        // of the split's targets (all tokens but the first), by its sidecar or the byte table
  // tokenize-shard counted as many against the text of each document, and manifest.json says so of exactly these shards.
  bool proved = false;
  int64_t text_bytes = -1;  // of the documents; -1 where it is not known, as of downloaded shards
  int64_t documents = -1, changed_documents = -1;  // SplitRecord's: how many there are, and of how many the tokens spell another text
  std::string text_digest;  // SplitRecord::text_sha256; empty where it is not known
  int64_t tokenizer_bytes = -1, tokenizer_documents = -1, tokenizer_shared = -1;  // those of SplitRecord
};

// Reads all of the split. Throws InputError where the manifest of these shards says another number of bytes (the byte table is of
// another tokenizer, or the sidecar was left out), for a byte table that cannot count (one that spells blanks in byte pieces), and for
// a sidecar that gives a token more bytes than its piece can stand for.
SplitText CheckText(const ShardSet& shards, const ByteTable& table);

}  // namespace fairway
