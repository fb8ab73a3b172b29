#include "common/tokens/segments.h"

#include <gmock/gmock.h>

#include "common/base/error.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// `count` tokens that are no BOS, but at `starts`.
std::vector<uint16_t> Documents(int64_t count, const std::vector<int64_t>& starts) {
  std::vector<uint16_t> tokens(count, 7);
  for (const int64_t start : starts) tokens[start] = 1;
  return tokens;
}

TEST(SegmentStarts, BeginAtZeroAtEachBosAndAfterTheLongest) {
  EXPECT_THAT(SegmentStarts(Documents(10, {5, 9}), 4), ElementsAre(0, 4, 5, 9));
  EXPECT_THAT(SegmentStarts(Documents(10, {1, 2}), 4), ElementsAre(0, 1, 2, 6));
  EXPECT_THAT(SegmentStarts(Documents(9, {}), 4), ElementsAre(0, 4, 8));
  EXPECT_THAT(SegmentStarts(Documents(12, {0, 4, 8}), 4), ElementsAre(0, 4, 8));
  EXPECT_THAT(SegmentStarts(Documents(300, {7}), 0), ElementsAre(0, 7));
  EXPECT_THAT(SegmentStarts(Documents(512, {0, 200}), 128), ElementsAre(0, 128, 200, 328, 456));
  EXPECT_THAT(SegmentStarts(Documents(512, {511}), 128), ElementsAre(0, 128, 256, 384, 511));
  EXPECT_THAT(SegmentStarts({}, 4), ElementsAre());
}

class PackedSpansTest : public testing::Test {
 protected:
  void Write(int index, const std::vector<uint16_t>& tokens) {
    WriteBytes(folder_ / ("fineweb_train_00000" + std::to_string(index) + ".bin"), ShardBytes(tokens));
  }
  ShardSet Shards() const { return ShardSet(folder_.path(), "train", 1024); }
  ScratchFolder folder_;
};

TEST_F(PackedSpansTest, BeginAtAShardsFirstBosAndLeaveItsTailOut) {
  Write(0, Documents(20, {3, 9}));  // spans of 5 at 3, 8, 13
  Write(1, Documents(4, {0}));      // too short
  Write(2, Documents(12, {6}));     // one at 6
  const ShardSet shards = Shards();
  const PackedSpans spans(shards, 5);
  std::vector<int64_t> begins;
  for (int64_t position = 0; begins.size() < 7;) {
    begins.push_back(spans.Next(position));
    position = begins.back() + 5;
  }
  EXPECT_THAT(begins, ElementsAre(3, 8, 13, 24 + 6, 36 + 3, 36 + 8, 36 + 13));
}

TEST_F(PackedSpansTest, OfAPartEndWithIt) {
  Write(0, Documents(20, {3}));
  const ShardSet part = Shards().Part(0, 14);
  const PackedSpans spans(part, 5);
  EXPECT_EQ(spans.Next(0), 3);
  EXPECT_EQ(spans.Next(8), 8);
  EXPECT_EQ(spans.Next(13), 14 + 3);
}

TEST_F(PackedSpansTest, MayFillWhatFollowsTheFirstBos) {
  Write(0, Documents(8, {3}));
  EXPECT_EQ(PackedSpans(Shards(), 5).Next(0), 3);
}

TEST_F(PackedSpansTest, NameAShardWithoutDocumentsAndASplitWithoutASpan) {
  Write(0, Documents(20, {3}));
  Write(1, Documents(20, {}));
  EXPECT_THAT(MessageOf<InputError>([&] { PackedSpans(Shards(), 5); }), HasSubstr("fineweb_train_000001.bin: holds no token 1"));
  EXPECT_THAT(MessageOf<InputError>([&] { PackedSpans(Shards().Part(0, 20), 18); }), HasSubstr("no shard of the split holds 18 tokens"));
  EXPECT_THAT(MessageOf<InputError>([&] { PackedSpans(Shards(), 21); }), HasSubstr("no shard of the split holds 21 tokens"));
}

}  // namespace
}  // namespace fairway
