#include "common/tokens/sentencepiece_model.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "common/base/error.h"
#include "sentencepiece_model.pb.h"

namespace fairway {
namespace {

// What the library (0.1.97) reserves memory for: it counts further matches, and then reads all that it has counted.
constexpr size_t kMapMatches = 32, kPieceMatches = 64;

// A character map: the length of a trie in bytes (uint32), the trie, and texts that end with a zero byte. A trie is Darts-clone's
// double array: units of 32 bits, the first of which is the root. The children of unit i are the units Below(i) ^ c for each byte c
// that can follow; they carry c as their label. Where a rule ends at i, the unit Below(i) says where its text begins.
class CharacterMap {
 public:
  explicit CharacterMap(std::string_view map) {
    uint32_t bytes = 0;
    if (map.size() < sizeof bytes) return;
    std::memcpy(&bytes, map.data(), sizeof bytes);
    map.remove_prefix(sizeof bytes);
    if (bytes > map.size() || bytes % sizeof(uint32_t) != 0) return;
    units_.resize(bytes / sizeof(uint32_t));
    if (bytes > 0) std::memcpy(units_.data(), map.data(), bytes);
    texts_ = map.substr(bytes);
  }

  // Why a text must not be looked up in it; nullptr where it may.
  const char* Defect() const {
    constexpr const char* leads_out = "its character map leads out of itself";
    const size_t size = units_.size();
    if (size == 0 || texts_.empty() || texts_.back() != '\0') return leads_out;
    // The units below each place, chained; `size` ends a chain.
    std::vector<size_t> first(size, size), next(size, size);
    for (size_t unit = 0; unit < size; ++unit) {
      const size_t place = unit ^ Label(unit);
      if (Label(unit) > 0xff || place >= size) continue;
      next[unit] = first[place];
      first[place] = unit;
    }
    // All units that a text can lead to, a byte at a time. At most one rule ends with each byte.
    std::vector<size_t> reached = {0};
    for (size_t length = 0; !reached.empty(); ++length) {
      if (length > kMapMatches) return "its character map has rules for more than 32 bytes";
      std::vector<size_t> places;
      for (const size_t unit : reached) {
        const size_t below = Below(unit);
        if ((below | 0xff) >= size) return leads_out;
        if (length > 0 && RuleEnds(unit) && Text(below) >= texts_.size()) return leads_out;
        places.push_back(below);
      }
      std::sort(places.begin(), places.end());
      places.erase(std::unique(places.begin(), places.end()), places.end());
      reached.clear();
      for (const size_t place : places)
        for (size_t unit = first[place]; unit != size; unit = next[unit]) reached.push_back(unit);
    }
    return nullptr;
  }

 private:
  size_t Below(size_t unit) const { return unit ^ (units_[unit] >> 10 << ((units_[unit] & 1 << 9) >> 6)); }
  uint32_t Label(size_t unit) const { return units_[unit] & 0x800000ff; }
  bool RuleEnds(size_t unit) const { return units_[unit] >> 8 & 1; }
  size_t Text(size_t unit) const { return units_[unit] & 0x7fffffff; }

  std::vector<uint32_t> units_;
  std::string_view texts_;
};

}  // namespace

void CheckSentencePieceModel(std::string_view model, const std::string& path) {
  sentencepiece::ModelProto parsed;
  if (model.size() > std::numeric_limits<int>::max() || !parsed.ParseFromArray(model.data(), static_cast<int>(model.size())))
    throw InputError(path, "is not a SentencePiece model");
  for (const auto* normaliser : {&parsed.normalizer_spec(), &parsed.denormalizer_spec()}) {
    const std::string& map = normaliser->precompiled_charsmap();
    if (map.empty()) continue;
    if (const char* defect = CharacterMap(map).Defect()) throw InputError(path, defect);
  }

  std::vector<std::string_view> defined;
  for (const auto& piece : parsed.pieces())
    if (piece.type() == 4) defined.push_back(piece.piece());
  std::sort(defined.begin(), defined.end());
  std::vector<std::string_view> beginnings;  // of the piece that was looked at last, itself among them
  for (const std::string_view piece : defined) {
    while (!beginnings.empty() && !piece.starts_with(beginnings.back())) beginnings.pop_back();
    beginnings.push_back(piece);
    if (beginnings.size() > kPieceMatches) throw InputError(path, "more than 64 of its user-defined pieces begin with one another");
  }
}

}  // namespace fairway
