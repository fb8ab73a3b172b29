#include "common/tokens/overlap.h"

#include <gtest/gtest.h>

#include <random>

#include "common/base/text.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

using Tokens = std::vector<uint16_t>;

Tokens Document(uint64_t seed, int64_t length) {
  std::mt19937_64 random(seed);
  Tokens tokens = {1};
  for (int64_t i = 0; i < length; ++i) tokens.push_back(static_cast<uint16_t>(4 + random() % 1000));
  return tokens;
}

// A tokenizer of bytes, whose pieces from 300 on are two letters each: "aa" is 300, "ab" 301, … "zz".
ByteTable Pairs() {
  ByteTable table;
  table.pieces.resize(1024);
  for (int id = 0; id < 4; ++id) table.pieces[id].boundary = true;
  for (int id = 4; id < 1024; ++id) {
    ByteTable::Piece& piece = table.pieces[id];
    piece.bytes = 1;
    if (id < 260) {
      piece.byte = true;
      piece.text = StringPrintf("<0x%02X>", id - 4);
    } else {
      const int pair = (id - 300 + 676) % 676;
      piece.text = {static_cast<char>('a' + pair / 26), static_cast<char>('a' + pair % 26)};
    }
  }
  return table;
}

class OverlapTest : public testing::Test {
 protected:
  Overlap Compare(const std::vector<Tokens>& train, const std::vector<Tokens>& val) {
    for (const auto& [split, documents] : {std::pair{"train", &train}, {"val", &val}}) {
      Tokens all;
      for (const Tokens& document : *documents) all.insert(all.end(), document.begin(), document.end());
      // Two shards: a document may cross from one to the other.
      const auto middle = all.begin() + static_cast<int64_t>(all.size() / 2);
      WriteBytes(folder_ / ("fineweb_" + std::string(split) + "_000000.bin"), ShardBytes({all.begin(), middle}));
      WriteBytes(folder_ / ("fineweb_" + std::string(split) + "_000001.bin"), ShardBytes({middle, all.end()}));
    }
    return CompareDocuments(ShardSet(folder_.path(), "train", 1024), ShardSet(folder_.path(), "val", 1024), Pairs());
  }
  ScratchFolder folder_;
};

TEST_F(OverlapTest, SplitsOfDifferentDocuments) {
  const Overlap overlap = Compare({Document(1, 100), Document(2, 500), Document(3, 5)}, {Document(4, 300), Document(5, 50)});
  EXPECT_EQ(overlap.train_documents, 2);  // one is too short to be compared
  EXPECT_EQ(overlap.val_documents, 2);
  EXPECT_EQ(overlap.shared, 0);
  EXPECT_EQ(overlap.near, 0);
  EXPECT_EQ(overlap.first, "");
}

TEST_F(OverlapTest, AValidationDocumentInTraining) {
  const Overlap overlap = Compare({Document(1, 100), Document(5, 50), Document(2, 100)}, {Document(4, 300), Document(5, 50)});
  EXPECT_EQ(overlap.shared, 1);
  EXPECT_EQ(overlap.first, "the document at token 101 of training is that at token 301 of validation");
}

// The same text is the same document, however it was cut into tokens.
TEST_F(OverlapTest, AValidationDocumentInOtherTokens) {
  const ByteTable table = Pairs();
  Tokens pairs = {1}, bytes = {1};
  for (int id = 300; id < 400; ++id) {
    pairs.push_back(static_cast<uint16_t>(id));
    for (const char c : table.pieces[id].text) bytes.push_back(static_cast<uint16_t>(4 + c));
  }
  const Overlap overlap = Compare({Document(1, 100), bytes}, {pairs});
  EXPECT_EQ(overlap.shared, 1);
  EXPECT_EQ(overlap.near, 0);
}

// It is not judged, but counted.
TEST_F(OverlapTest, AValidationDocumentInsideOfALongerOne) {
  Tokens longer = Document(1, 3000);
  for (const uint16_t token : Document(4, 1000)) longer.push_back(token == 1 ? 4 : token);
  const Tokens end = Document(2, 3000);
  longer.insert(longer.end(), end.begin() + 1, end.end());
  const Overlap overlap = Compare({longer, Document(3, 2000)}, {Document(4, 1000)});
  EXPECT_EQ(overlap.shared, 0);
  EXPECT_EQ(overlap.near, 1);
}

TEST_F(OverlapTest, OneOfWhichSomeWordsWereChanged) {
  Tokens changed = Document(4, 3000);
  for (size_t i = 100; i < changed.size(); i += 100) changed[i] = 3;
  const Overlap overlap = Compare({Document(1, 100), changed}, {Document(4, 3000)});
  EXPECT_EQ(overlap.shared, 0);
  EXPECT_EQ(overlap.near, 1);
}

}  // namespace
}  // namespace fairway
