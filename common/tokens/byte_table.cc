#include "common/tokens/byte_table.h"

#include <algorithm>
#include <limits>
#include <queue>
#include <string_view>
#include <tuple>
#include <unordered_map>

#include "byte_table.pb.h"
#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "common/tokens/case_ops.h"
#include "sentencepiece_model.pb.h"

namespace fairway {
namespace {

constexpr uint64_t kMagic = 0x0a73657479627766;  // "fwbytes\n", read as a little-endian number
constexpr std::string_view kMagicField(
    "\x09"
    "fwbytes\n",
    9);
constexpr size_t kHashFieldBytes = 9;                // a tag of one byte and a fixed64
constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581

// The byte of a byte piece <0xNN>, or -1.
int ByteOf(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; };
  const int high = digit(text[3]), low = digit(text[4]);
  return high < 0 || low < 0 ? -1 : 16 * high + low;
}

bool IsMark(const ByteTable::Piece& piece) {
  return piece.user_defined && std::ranges::find(kCaseMarks, piece.text) != std::end(kCaseMarks);
}

bool HasMarks(const std::vector<ByteTable::Piece>& pieces) {
  return std::ranges::count_if(pieces, IsMark) == std::ssize(kCaseMarks);
}

// Fills in `bytes` and `leading_space` of all pieces, which follow from their text and kind.
void Count(std::vector<ByteTable::Piece>& pieces, bool exact, const std::string& path) {
  const bool case_ops = HasMarks(pieces);
  for (size_t id = 0; id < pieces.size(); ++id) {
    ByteTable::Piece& piece = pieces[id];
    piece.leading_space = false;
    piece.bytes = piece.byte ? 1 : 0;
    if (piece.boundary || piece.byte || (case_ops && IsMark(piece))) continue;
    size_t bytes = piece.text.size();
    for (size_t at = 0; (at = piece.text.find(kSpace, at)) != std::string::npos; at += kSpace.size()) bytes -= kSpace.size() - 1;
    piece.leading_space = !exact && piece.text.starts_with(kSpace);
    bytes -= piece.leading_space ? 1 : 0;
    if (bytes > std::numeric_limits<uint8_t>::max())
      throw InputError(path, StringPrintf("piece %zu is %zu bytes long; at most 255 are provided for", id, bytes));
    piece.bytes = static_cast<uint8_t>(bytes);
  }
}

// A piece from its spelling and SentencePiece's type.
ByteTable::Piece PieceOf(const sentencepiece::SentencePiece& source, int64_t id, const std::string& path) {
  enum : uint32_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  ByteTable::Piece piece{.text = source.piece()};
  switch (source.type()) {
    case kNormal:
      break;
    case kUserDefined:
      piece.user_defined = true;
      break;
    case kByte:
      if (ByteOf(piece.text) < 0) throw InputError(path, StringPrintf("byte piece %jd is not spelt <0xNN>", id));
      piece.byte = true;
      break;
    case kUnknown:
    case kControl:
    case kUnused:
      piece.boundary = true;
      break;
    default:
      throw InputError(
          path, StringPrintf("piece %jd is of type %u, which is none that SentencePiece has", id, source.type()));
  }
  return piece;
}

void ReadTable(std::string_view bytes, const std::string& path, ByteTable& table) {
  pb::ByteTable message;
  // A torn file seldom parses, so the hash, which says more, is looked at first.
  if (bytes.size() < kMagicField.size() + kHashFieldBytes) throw InputError(path, "the byte table is truncated");
  const std::string_view hashed = bytes.substr(0, bytes.size() - kHashFieldBytes);
  pb::ByteTable tail;
  if (!tail.ParseFromArray(bytes.data() + hashed.size(), kHashFieldBytes) || !tail.has_hash())
    throw InputError(path, "the byte table is truncated");
  if (tail.hash() != Xxh3Of(hashed)) throw InputError(path, "the byte table is damaged: its hash disagrees");
  if (!message.ParseFromArray(hashed.data(), static_cast<int>(hashed.size())))
    throw InputError(path, "the byte table does not parse");
  table.exact = message.exact();
  for (const pb::Piece& piece : message.piece()) {
    table.pieces.push_back({.text = piece.text(), .boundary = piece.boundary(), .byte = piece.byte(), .user_defined = piece.user_defined()});
  }
  Count(table.pieces, table.exact, path);
  // Its numbers must follow from its text: the score depends on them.
  for (size_t id = 0; id < table.pieces.size(); ++id) {
    const ByteTable::Piece& piece = table.pieces[id];
    const pb::Piece& said = message.piece(static_cast<int>(id));
    const int kinds = piece.boundary + piece.byte + piece.user_defined;
    if (said.bytes() != piece.bytes || said.leading_space() != piece.leading_space || kinds > 1 || (piece.byte && ByteOf(piece.text) < 0))
      throw InputError(path, StringPrintf("piece %zu of the byte table is not one that can be", id));
  }
}

void ReadModel(std::string_view bytes, const std::string& path, ByteTable& table) {
  sentencepiece::ModelProto model;
  if (!model.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    throw InputError(path, "is neither a byte table nor a whole SentencePiece model");
  for (const auto& piece : model.pieces()) table.pieces.push_back(PieceOf(piece, table.size(), path));
  const auto& normaliser = model.normalizer_spec();
  table.exact = normaliser.precompiled_charsmap().empty() && !normaliser.add_dummy_prefix() && !normaliser.remove_extra_whitespaces() &&
                normaliser.escape_whitespaces();
  Count(table.pieces, table.exact, path);
}

// Bytes of the character that `text` begins with; what is not UTF-8 falls into smaller parts, and none is lost.
size_t CharacterLength(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t expected = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
  size_t length = 1;
  while (length < std::min(expected, text.size()) && (text[length] & 0xc0) == 0x80) ++length;
  return length;
}

}  // namespace

ByteTable ByteTable::Read(const std::string& path) {
  const InputFile file(path);
  const std::string_view bytes = file.text();
  if (bytes.empty()) throw InputError(file.path(), "is empty");
  if (bytes.size() > std::numeric_limits<int>::max())
    throw InputError(file.path(), "is neither a byte table nor a whole SentencePiece model");
  ByteTable table;
  bytes.starts_with(kMagicField) ? ReadTable(bytes, file.path(), table) : ReadModel(bytes, file.path(), table);
  if (table.pieces.empty()) throw InputError(file.path(), "holds no pieces");
  table.digest = Sha256Hex(bytes);
  return table;
}

void ByteTable::Write(const std::string& path) const {
  pb::ByteTable message;
  message.set_magic(kMagic);
  for (const Piece& piece : pieces) {
    pb::Piece* out = message.add_piece();
    out->set_text(piece.text);
    out->set_bytes(piece.bytes);
    if (piece.leading_space) out->set_leading_space(true);
    if (piece.boundary) out->set_boundary(true);
    if (piece.byte) out->set_byte(true);
    if (piece.user_defined) out->set_user_defined(true);
  }
  if (exact) message.set_exact(true);
  pb::ByteTable tail;
  std::string bytes = message.SerializeAsString();
  tail.set_hash(Xxh3Of(bytes));
  WriteFile(path, bytes + tail.SerializeAsString());
}

bool ByteTable::case_ops() const { return HasMarks(pieces); }

bool ByteTable::spells_blanks_in_bytes() const {
  int bytes = 0;
  for (const Piece& piece : pieces) {
    if (!piece.boundary && !piece.byte && piece.text == kSpace) return false;
    bytes += piece.byte && (piece.text == "<0xE2>" || piece.text == "<0x96>" || piece.text == "<0x81>");
  }
  return bytes == 3;
}

std::vector<int64_t> ByteTable::Encode(const std::string& text) const {
  std::unordered_map<std::string_view, int64_t> ids;
  size_t longest_defined = 0;  // of the user-defined pieces
  int64_t byte_ids[256];
  std::fill(std::begin(byte_ids), std::end(byte_ids), -1);
  for (int64_t id = 0; id < size(); ++id) {
    if (pieces[id].byte) {
      byte_ids[ByteOf(pieces[id].text)] = id;
    } else if (!pieces[id].boundary) {
      ids.emplace(pieces[id].text, id);
      if (pieces[id].user_defined) longest_defined = std::max(longest_defined, pieces[id].text.size());
    }
  }
  std::string escaped;
  for (const char c : case_ops() ? EncodeCase(text) : text) c == ' ' ? escaped.append(kSpace) : escaped.append(1, c);

  // Symbols are neighbouring stretches of `escaped`: characters at first. A merged symbol swallows its right neighbour,
  // whose size becomes 0.
  struct Symbol {
    size_t begin, size;
    int64_t left, right;  // indices of the neighbours; -1 and the number of symbols at the ends
    bool whole;           // a user-defined piece: merges with nothing
  };
  std::vector<Symbol> symbols;
  const std::string_view all = escaped;
  const auto defined_at = [&](size_t begin) {  // the length of the longest user-defined piece there
    for (size_t size = std::min(longest_defined, all.size() - begin); size > 0; --size)
      if (const auto found = ids.find(all.substr(begin, size)); found != ids.end() && pieces[found->second].user_defined) return size;
    return size_t{0};
  };
  for (size_t begin = 0; begin < all.size(); begin += symbols.back().size) {
    const auto index = static_cast<int64_t>(symbols.size());
    const size_t defined = defined_at(begin);
    symbols.push_back({begin, defined > 0 ? defined : CharacterLength(all.substr(begin)), index - 1, index + 1, defined > 0});
  }
  const auto count = static_cast<int64_t>(symbols.size());

  // Merges in the order of ids, then from the left. An entry is stale once either side has changed, which its size
  // shows.
  using Merge = std::tuple<int64_t, int64_t, size_t>;  // id, left symbol, merged size
  std::priority_queue<Merge, std::vector<Merge>, std::greater<>> merges;
  const auto propose = [&](int64_t left) {
    if (left < 0 || symbols[left].right >= count || symbols[left].whole || symbols[symbols[left].right].whole) return;
    const size_t size = symbols[left].size + symbols[symbols[left].right].size;
    if (const auto found = ids.find(all.substr(symbols[left].begin, size)); found != ids.end())
      merges.emplace(found->second, left, size);
  };
  for (int64_t i = 0; i < count; ++i) propose(i);
  while (!merges.empty()) {
    const auto [id, index, size] = merges.top();
    merges.pop();
    Symbol& left = symbols[index];
    if (left.size == 0 || left.right >= count || left.size + symbols[left.right].size != size) continue;
    Symbol& right = symbols[left.right];
    left.size = size;
    right.size = 0;
    left.right = right.right;
    if (left.right < count) symbols[left.right].left = index;
    propose(left.left);
    propose(index);
  }

  std::vector<int64_t> tokens;
  for (const Symbol& symbol : symbols) {
    if (symbol.size == 0) continue;
    const std::string_view spelling = all.substr(symbol.begin, symbol.size);
    if (const auto found = ids.find(spelling); found != ids.end()) {
      tokens.push_back(found->second);
      continue;
    }
    for (const char c : spelling) {
      const int64_t id = byte_ids[static_cast<unsigned char>(c)];
      if (id < 0)
        throw UsageError("the tokenizer has no piece for '" + std::string(spelling) + "' of the text, nor byte pieces");
      tokens.push_back(id);
    }
  }
  return tokens;
}

std::string ByteTable::Decode(const std::vector<int64_t>& tokens) const {
  return case_ops() ? DecodeCase(Spell(tokens)) : Spell(tokens);
}

std::string ByteTable::Spell(const std::vector<int64_t>& tokens) const {
  std::string text;
  for (const int64_t id : tokens) {
    const Piece& piece = pieces[id];
    if (piece.boundary) continue;
    if (piece.byte) {
      text.push_back(static_cast<char>(ByteOf(piece.text)));
      continue;
    }
    for (size_t at = 0; at < piece.text.size();) {
      const bool space = std::string_view(piece.text).substr(at).starts_with(kSpace);
      text.push_back(space ? ' ' : piece.text[at]);
      at += space ? kSpace.size() : 1;
    }
  }
  return text;
}

}  // namespace fairway
