#include "common/tokens/overlap.h"

#include <algorithm>
#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/base/digest.h"
#include "common/base/text.h"
#include "common/tokens/case_ops.h"
#include "common/tokens/shard_format.h"

namespace fairway {
namespace {

constexpr int64_t kRead = 1 << 20;       // tokens at a time
constexpr int64_t kLongest = 1 << 24;    // a longer document is compared in parts
constexpr size_t kShingle = 8;
constexpr uint64_t kSampled = 32;        // one run of tokens in so many

using Document = std::span<const uint16_t>;  // without its BOS

void ForEachDocument(const ShardSet& shards, const std::function<void(int64_t begin, Document)>& visit) {
  std::vector<uint16_t> buffer(kRead), document;
  int64_t begin = 0;
  const auto end = [&](int64_t at) {
    if (static_cast<int64_t>(document.size()) >= kMinDocument) visit(begin, document);
    document.clear();
    begin = at;
  };
  for (int64_t at = 0; at < shards.tokens(); at += kRead) {
    const int64_t count = std::min(kRead, shards.tokens() - at);
    shards.Read(at, count, buffer.data());
    for (int64_t i = 0; i < count; ++i) {
      if (buffer[i] == kBos || static_cast<int64_t>(document.size()) == kLongest) end(at + i);
      if (buffer[i] != kBos) document.push_back(buffer[i]);
    }
    shards.Drop(at, count);
  }
  end(shards.tokens());
}

// Hashes of the text that documents spell.
class TextHash {
 public:
  explicit TextHash(const ByteTable& table) : case_ops_(table.case_ops()) {
    for (int64_t id = 0; id < table.size(); ++id) spelling_.push_back(table.Spell({id}));
  }

  uint64_t operator()(Document document) const {
    std::string text;
    for (const uint16_t id : document) text += spelling_[id];
    return Xxh3Of(case_ops_ ? DecodeCase(text) : text);
  }

 private:
  std::vector<std::string> spelling_;  // of each piece
  const bool case_ops_;
};

// Hashes of some of the document's runs of tokens; which, their content decides.
std::vector<uint64_t> Shingles(Document document) {
  std::vector<uint64_t> shingles;
  for (size_t i = 0; i + kShingle <= document.size(); ++i) {
    uint64_t hash = 0x9e3779b97f4a7c15;
    for (size_t j = 0; j < kShingle; ++j) hash = (hash ^ document[i + j]) * 0xff51afd7ed558ccd, hash ^= hash >> 29;
    if (hash % kSampled == 0) shingles.push_back(hash);
  }
  // Each once: text that repeats itself has no more in common with another for it.
  std::ranges::sort(shingles);
  shingles.erase(std::unique(shingles.begin(), shingles.end()), shingles.end());
  return shingles;
}

}  // namespace

Overlap CompareDocuments(const ShardSet& train, const ShardSet& val, const ByteTable& table) {
  Overlap overlap;
  const TextHash hash_of(table);
  std::unordered_map<uint64_t, int64_t> documents;  // by hash: where it begins
  std::unordered_map<uint64_t, int64_t> runs;       // by shingle: the document's number
  std::vector<size_t> sampled;                      // of each document of validation: its shingles
  ForEachDocument(val, [&](int64_t begin, Document document) {
    documents.emplace(hash_of(document), begin);
    const std::vector<uint64_t> shingles = Shingles(document);
    for (const uint64_t shingle : shingles) runs.emplace(shingle, overlap.val_documents);
    sampled.push_back(shingles.size());
    ++overlap.val_documents;
  });
  ForEachDocument(train, [&](int64_t begin, Document document) {
    ++overlap.train_documents;
    if (const auto found = documents.find(hash_of(document)); found != documents.end()) {
      if (overlap.shared++ == 0)
        overlap.first = StringPrintf("the document at token %jd of training is that at token %jd of validation", begin, found->second);
      return;
    }
    const std::vector<uint64_t> shingles = Shingles(document);
    std::unordered_map<int64_t, size_t> hits;
    bool near = false;
    for (const uint64_t shingle : shingles) {
      const auto found = runs.find(shingle);
      if (found == runs.end()) continue;
      const size_t shared = ++hits[found->second];
      near |= shared >= 4 && 2 * shared >= std::min(shingles.size(), sampled[found->second]);
    }
    overlap.near += near;
  });
  return overlap;
}

}  // namespace fairway
