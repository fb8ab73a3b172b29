// SentencePiece: text to ids, and how a tokenizer is trained. No type of the library reaches a caller.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/tokenizer/documents.h"
#include "common/tokenizer/training_text.h"

namespace fairway {

class Tokenizer {
 public:
  // Reads a SentencePiece model, and what it was trained on where that is beside it. IoError; InputError where it is none, has more
  // pieces than 16 bits number, its BOS is not the id that the shard format wants, or the training text is of another model.
  explicit Tokenizer(const std::string& path);
  ~Tokenizer();

  // BOS, then the pieces of `text`. `ends` becomes, for each token, the offset in `text` at which what it covers ends; it begins where
  // the token before ends. Of pieces that together spell one character, all but the last cover nothing. White space that
  // normalisation drops at the text's ends is covered by no token: at the beginning it ends BOS.
  // May be called from several threads at once.
  std::vector<uint16_t> EncodeDocument(std::string_view text) const;
  std::vector<uint16_t> EncodeDocument(std::string_view text, std::vector<size_t>& ends) const;

  int64_t size() const;               // pieces
  int64_t bytes() const;              // of the file
  const std::string& digest() const;  // SHA-256 of the file, hexadecimal
  // The documents that it was trained on; null where that is not known.
  const TrainingText* training_text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct TokenizerOptions {
  int64_t vocab_size = 1024;
  // Train on EncodeCase of the text; the four marks are pieces 4 to 7.
  bool case_ops = false;
  // As the field's tokenizers do: fold characters by NFKC, blanks and line breaks into one blank, and drop them at the text's ends.
  // Otherwise the tokenizer keeps the text exactly, and a line break is a piece of its own.
  bool normalise = false;
};

// Trains a tokenizer by byte-pair encoding on the documents that the source's format takes, and writes it to `path`, and which
// documents these were beside it (training_text.h): pad, BOS, EOS and unknown first; byte fallback for the rarest thousandth of
// characters; digits split. The same documents give the same bytes. Throws InputError for documents that are not text or too few to
// train on, and where they give fewer pieces than asked for.
void TrainTokenizer(DocumentSource& documents, const TokenizerOptions& options, const std::string& path);

}  // namespace fairway
