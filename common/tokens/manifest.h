// manifest.json beside the shards: what they were made from, how many of its bytes the tokens count, and the digest of each.
// docs/formats.md describes the file; tokenize-shard and scripts/fetch-data write it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fairway {

struct ShardRecord {
  std::string name;  // within the folder
  int64_t tokens = 0, bytes = 0;
  std::string sha256;  // of the whole file, hexadecimal
};

// One split. What is not known of downloaded shards (their text) is absent: empty, or -1.
struct SplitRecord {
  std::vector<ShardRecord> files;  // in the order of their names
  int64_t documents = -1;
  int64_t text_bytes = -1;
  std::string corpus_sha256;     // of the input files' bytes, one after another
  std::string tokenizer_sha256;  // of the SentencePiece model
  // Format 2: what tokenize-shard counted, document by document, against the text itself.
  std::string text_sha256;         // of the documents: for each the number of its bytes (8, little-endian) and these
  int64_t token_bytes = -1;        // of text that the tokens stand for, as scores count them; at most text_bytes
  int64_t changed_documents = -1;  // whose tokens spell another text
  bool case_ops = false;           // the tokens are those of EncodeCase(text)
  std::vector<ShardRecord> byte_files = {};  // the byte sidecar, or empty
  int64_t tokenizer_bytes = -1;    // of the SentencePiece model
  // Where it is known what the tokenizer was trained on: how many documents, and how many of this split's are among them.
  int64_t tokenizer_documents = -1, tokenizer_shared = -1;

  int64_t tokens() const;
  std::string Identity() const;
  std::string BytesIdentity() const;  // of the sidecar; empty where there is none
};

struct Manifest {
  std::map<std::string, SplitRecord> splits;

  static std::string Path(const std::string& folder) { return folder + "/manifest.json"; }
  // An absent file is an empty manifest. InputError where it is not what this program writes.
  static Manifest Read(const std::string& folder);
  std::string ToJson() const;

  // The record of a shard or sidecar by its name, or null.
  const ShardRecord* Find(const std::string& split, std::string_view name) const;
};

// A split's identity: the SHA-256 of its shards' digests (hexadecimal, a newline after each) in the order of their
// names.
std::string SplitIdentity(const std::vector<std::string>& digests);

}  // namespace fairway
