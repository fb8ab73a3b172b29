// What evaluation needs to know of a tokenizer: three facts and the text of each piece (specification 1, section 7).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/settings/settings.h"

namespace fairway {

struct ByteTable {
  struct Piece {
    std::string text;            // as the tokenizer spells it, U+2581 for a space
    uint8_t bytes = 0;           // UTF-8 length without a leading U+2581; 1 for a byte piece; 0 for control, unknown, unused
    bool leading_space = false;  // spelt with a leading U+2581: one byte more unless the previous token is a boundary
    bool boundary = false;       // control, unknown or unused piece
    bool byte = false;           // a byte piece <0xNN>
  };
  std::vector<Piece> pieces;
  std::string digest;  // SHA-256 of the file it was read from, hexadecimal

  int64_t size() const { return static_cast<int64_t>(pieces.size()); }

  // Bytes of text that `token` stands for after `previous`. REQUIRES: both < size().
  int64_t Bytes(int64_t previous, int64_t token) const {
    const Piece& piece = pieces[token];
    return piece.bytes + (piece.leading_space && !pieces[previous].boundary ? 1 : 0);
  }

  // Reads a byte table, or the pieces of a SentencePiece model (the file says which it is). IoError, InputError.
  static ByteTable Read(const std::string& path);
  void Write(const std::string& path) const;
  // The table that the settings name: byte_table; where that is empty, byte_table.pb in data_path; failing that, the pieces
  // of tokenizer_path. InputError also where it has not vocab_size pieces.
  static ByteTable Load(const Settings& settings);

  // Text to ids by the merges of byte-pair encoding (lowest id first), and back. For prompts; no normalisation but the
  // escaping of spaces.
  std::vector<int64_t> Encode(const std::string& text) const;
  std::string Decode(const std::vector<int64_t>& ids) const;
};

}  // namespace fairway
