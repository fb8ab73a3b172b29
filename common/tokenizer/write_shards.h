// Documents to shards.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "common/tokenizer/documents.h"
#include "common/tokenizer/tokenizer.h"
#include "common/tokens/byte_table.h"
#include "common/tokens/manifest.h"

namespace fairway {

struct ShardOptions {
  std::string folder, split;  // created where missing; "train" or "val"
  int64_t shard_tokens = 100'000'000;
  int threads = 1;
};

// Encodes the documents that the source's format takes and makes them the split of the folder: shards fineweb_SPLIT_NNNNNN.bin,
// byte_table.pb and the split's part of manifest.json. Where the table is of a CaseOps tokenizer the tokens are those of EncodeCase
// of each text, whose inverse is checked. The bytes that tokens stand for are counted against the text of each document: no token
// counts bytes that are not there, and the split "val" gets a byte sidecar where the byte table alone would count others. The
// shards appear together at the end, in place of any the split had; a failure before that leaves the folder as it was. A document
// may run on into the next shard. The bytes do not depend on `threads`. `progress` is called at intervals with the number of
// documents.total_bytes() that are done.
//
// Throws InputError where a document is not text, or the folder's other split was made with another tokenizer; IoError,
// also where another process is writing into the folder.
// REQUIRES: byte_table is the tokenizer's.
SplitRecord WriteShards(DocumentSource& documents, const Tokenizer& tokenizer, const ByteTable& byte_table,
                        const ShardOptions& options, const std::function<void(int64_t)>& progress);

}  // namespace fairway
