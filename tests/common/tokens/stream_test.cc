#include <random>

#include "common/base/error.h"
#include "common/tokens/shards.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

// 7 shards of uneven sizes; the stream's token at position p is the array's at p modulo its length.
class TokenStreamTest : public testing::Test {
 protected:
  TokenStreamTest() {
    std::mt19937 random(1);
    for (int i = 0; i < 7; ++i) {
      const int64_t count = 1 + static_cast<int64_t>(random() % 3000);
      const std::vector<uint16_t> tokens = Counting(static_cast<int64_t>(random() % 1000), count);
      WriteBytes(folder_ / ShardName("train", i), ShardBytes(tokens));
      all_.insert(all_.end(), tokens.begin(), tokens.end());
    }
  }

  std::vector<uint16_t> Expected(int64_t position, int64_t count) const {
    std::vector<uint16_t> tokens(count);
    for (int64_t i = 0; i < count; ++i) tokens[i] = all_[(position + i) % all_.size()];
    return tokens;
  }

  ScratchFolder folder_;
  std::vector<uint16_t> all_;
};

TEST_F(TokenStreamTest, GoesOnAtTheFirstTokenAfterTheLast) {
  TokenStream stream(ShardSet(folder_.path(), "train", 1024));
  int64_t position = 0;
  while (position < 5 * static_cast<int64_t>(all_.size())) {
    ASSERT_EQ(stream.Take(977), Expected(position, 977)) << "at " << position;
    position += 977;
    ASSERT_EQ(stream.position(), position);
  }
}

// What is kept out at the end, or at the beginning, never comes.
TEST_F(TokenStreamTest, OfAPartItTakesNothingElse) {
  const ShardSet all(folder_.path(), "train", 1024);
  const std::vector<uint16_t> whole = all_;
  for (const auto& [begin, count] : std::vector<std::pair<int64_t, int64_t>>{{0, all.tokens() - 900}, {2500, 1700}, {7, 1}}) {
    ShardSet part = all.Part(begin, count);
    EXPECT_EQ(part.tokens(), count);
    EXPECT_EQ(part.Identity(), all.Identity());
    std::vector<uint16_t> last(1);
    part.Part(count - 1, 1).Read(0, 1, last.data());
    EXPECT_EQ(last[0], whole[begin + count - 1]);
    all_.assign(whole.begin() + begin, whole.begin() + begin + count);
    TokenStream stream(std::move(part));
    EXPECT_EQ(stream.Take(2 * count + 3), Expected(0, 2 * count + 3)) << begin;
  }
}

TEST_F(TokenStreamTest, TakesMoreThanAllShardsHold) {
  TokenStream stream(ShardSet(folder_.path(), "train", 1024));
  const auto count = static_cast<int64_t>(3 * all_.size() + 11);
  EXPECT_EQ(stream.Take(count), Expected(0, count));
  EXPECT_EQ(stream.Take(0), Expected(0, 0));
  EXPECT_EQ(stream.Take(5), Expected(count, 5));
}

TEST_F(TokenStreamTest, SkipsAndSeeksAnywhere) {
  TokenStream stream(ShardSet(folder_.path(), "train", 1024));
  std::mt19937 random(2);
  int64_t position = 0;
  for (int i = 0; i < 2000; ++i) {
    const auto amount = static_cast<int64_t>(random() % (2 * all_.size()));
    switch (random() % 3) {
      case 0:
        stream.Skip(amount);
        position += amount;
        break;
      case 1:
        stream.Seek(amount);
        position = amount;
        break;
      default:
        ASSERT_EQ(stream.Take(amount), Expected(position, amount));
        position += amount;
    }
    ASSERT_EQ(stream.position(), position);
  }
}

TEST_F(TokenStreamTest, EndsWhileItIsReadingAhead) {
  for (int i = 0; i < 200; ++i) {
    TokenStream stream(ShardSet(folder_.path(), "train", 1024));
    stream.Seek(i);
    if (i % 2) stream.Take(1);
  }
}

TEST_F(TokenStreamTest, MeasuresItsWaiting) {
  TokenStream stream(ShardSet(folder_.path(), "train", 1024));
  EXPECT_EQ(stream.wait_seconds(), 0);
  stream.Take(100);
  const double once = stream.wait_seconds();
  EXPECT_GT(once, 0);
  stream.Take(100);
  EXPECT_GT(stream.wait_seconds(), once);
}

TEST_F(TokenStreamTest, ReportsAWrongIdToTheOneWhoTakesIt) {
  std::vector<uint16_t> tokens = Counting(0, 100);
  tokens[50] = 1024;
  WriteBytes(folder_ / ShardName("val", 0), ShardBytes(tokens));
  TokenStream stream(ShardSet(folder_.path(), "val", 1024));
  EXPECT_EQ(stream.Take(50), Counting(0, 50));
  EXPECT_THROW(stream.Take(1), InputError);
}

}  // namespace
}  // namespace fairway
