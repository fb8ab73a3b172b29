// SentencePiece: text to ids, and how a tokenizer is trained. No type of the library reaches a caller.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/tokenizer/documents.h"

namespace fairway {

class Tokenizer {
 public:
  // Reads a SentencePiece model. IoError; InputError where it is none, has more pieces than 16 bits number, or its BOS
  // is not the id that the shard format wants.
  explicit Tokenizer(const std::string& path);
  ~Tokenizer();

  // BOS, then the pieces of `text`. May be called from several threads at once.
  std::vector<uint16_t> EncodeDocument(std::string_view text) const;

  int64_t size() const;               // pieces
  const std::string& digest() const;  // SHA-256 of the file, hexadecimal

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Trains a tokenizer of `vocab_size` pieces with the arguments of specification 2, section 2, on all documents and
// writes it to `path`. The same documents give the same bytes. Throws InputError for documents that are not text or too
// few to train on.
void TrainTokenizer(DocumentSource& documents, int64_t vocab_size, const std::string& path);

}  // namespace fairway
