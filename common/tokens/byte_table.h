// What evaluation needs to know about a tokenizer: the text of each piece, and the number of bytes of text that it counts.
//
// The rule is the field's: a piece counts its UTF-8 length without a leading U+2581; the blank that this U+2581 means counts unless
// the token before is a boundary. Every other U+2581 is a blank too, and counts one byte. Where a tokenizer keeps the text exactly
// (no normalisation, no blank added or removed) the leading U+2581 is like the others, whatever comes before.
// The four marks of a CaseOps tokenizer (case_ops.h) count no bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/settings/settings.h"

namespace fairway {

struct ByteTable {
  struct Piece {
    std::string text;            // as the tokenizer spells it, U+2581 for a space
    uint8_t bytes = 0;           // of text, as above; 1 for a byte piece; 0 for control, unknown, unused
    bool leading_space = false;  // one byte more unless the previous token is a boundary
    bool boundary = false;       // control, unknown or unused piece
    bool byte = false;           // a byte piece <0xNN>
    bool user_defined = false;   // a token of its own wherever the text has it: merges with nothing
  };
  std::vector<Piece> pieces;
  bool exact = false;  // the tokenizer keeps the text exactly
  std::string digest;  // SHA-256 of the file it was read from, hexadecimal

  int64_t size() const { return static_cast<int64_t>(pieces.size()); }

  // Bytes of text of `token` after `previous`. REQUIRES: both < size().
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

  // Whether the four marks of CaseOps are user-defined pieces: then the tokens are those of EncodeCase(text).
  bool case_ops() const;
  // Whether a blank can come out as three byte pieces, because there is no piece U+2581: then no count of bytes is right.
  bool spells_blanks_in_bytes() const;

  // Text to ids by the merges of byte-pair encoding (lowest id first), and back. For prompts; no normalisation but the
  // escaping of spaces, and EncodeCase where case_ops().
  std::vector<int64_t> Encode(const std::string& text) const;
  std::string Decode(const std::vector<int64_t>& ids) const;
  // Decode without DecodeCase: what the tokens spell. (A text that is shown in parts goes through one CaseDecoder.)
  std::string Spell(const std::vector<int64_t>& ids) const;
};

}  // namespace fairway
