#include "common/tokens/overlap.h"

#include <gtest/gtest.h>

#include <random>

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
    return CompareDocuments(ShardSet(folder_.path(), "train", 1024), ShardSet(folder_.path(), "val", 1024));
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

TEST_F(OverlapTest, OneOfWhichSomeWordsWereChanged) {
  Tokens changed = Document(4, 3000);
  for (size_t i = 100; i < changed.size(); i += 100) changed[i] = 3;
  const Overlap overlap = Compare({Document(1, 100), changed}, {Document(4, 3000)});
  EXPECT_EQ(overlap.shared, 0);
  EXPECT_EQ(overlap.near, 1);
}

}  // namespace
}  // namespace fairway
