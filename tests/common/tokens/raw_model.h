// A writer of SentencePiece models by hand, right or wrong.
#pragma once

#include <cstring>

#include "tests/common/checkpoint/raw_file.h"

namespace fairway {

using RawPieces = std::vector<std::pair<std::string, int>>;  // spelling and SentencePiece's type
inline const RawPieces kFirstPieces = {{"<pad>", 3}, {"<s>", 3}, {"</s>", 3}, {"<unk>", 2}};

inline std::string RawModel(const RawPieces& pieces, const std::string& map = "") {
  std::string bytes;
  for (const auto& [text, type] : pieces)
    bytes += Field(1, Field(1, text) + std::string("\x15\0\0\0\0", 5) + Field(3, type));
  // No blank in front.
  return bytes + Field(3, (map.empty() ? "" : Field(2, map)) + Field(3, 0));
}

// A character map with one rule: so many times 'a' becomes "b". Each byte of it has a block of 256 units, of which no others can
// follow on anything.
struct RawMap {
  explicit RawMap(size_t length) : units((length + 2) * 256, 1u << 31) {
    units[0] = 256 << 10;
    for (size_t byte = 1; byte <= length; ++byte) units[Unit(byte)] = Leading(Unit(byte), (byte + 1) * 256);
    units[Unit(length)] |= 1 << 8;  // it ends here, and its text begins at 0
  }
  static size_t Unit(size_t byte) { return byte * 256 + 'a'; }
  static uint32_t Leading(size_t from, size_t to) { return static_cast<uint32_t>(from ^ to) << 10 | 'a'; }

  std::string Bytes() const {
    std::string bytes(units.size() * 4, '\0');
    std::memcpy(bytes.data(), units.data(), bytes.size());
    return Fixed(bytes.size()).substr(0, 4) + bytes + texts;
  }

  std::vector<uint32_t> units;
  std::string texts = std::string("b\0", 2);
};

}  // namespace fairway
