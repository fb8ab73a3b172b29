// Which tokens the micro-batches hold, in every order.
#include "common/train/batches.h"

#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/error.h"
#include "tests/common/train/corpus.h"

namespace fairway {
namespace {

TEST(ShuffledSequencesTest, EachOncePerPassFromAPhaseOfItsOwn) {
  for (const auto& [tokens, T] : {std::pair<int64_t, int64_t>{401, 16}, {33, 16}, {17, 16}, {31, 16}, {32, 16}, {400, 1}}) {
    const int64_t per_pass = std::max<int64_t>((tokens - T) / T, 1);
    ShuffledSequences sequences(tokens, T, 7);
    std::set<int64_t> phases;
    for (int64_t pass = 0; pass < 20; ++pass) {
      std::set<int64_t> begins;
      for (int64_t i = 0; i < per_pass; ++i) begins.insert(sequences.Begin(pass * per_pass + i));
      ASSERT_EQ(static_cast<int64_t>(begins.size()), per_pass) << tokens << " " << T;
      for (const int64_t begin : begins) ASSERT_EQ((begin - *begins.begin()) % T, 0);
      ASSERT_GE(*begins.begin(), 0);
      ASSERT_LT(*begins.begin(), T);
      ASSERT_LT(*begins.rbegin() + T, tokens);
      phases.insert(*begins.begin());
    }
    EXPECT_EQ(phases.size() > 1, T > 1 && tokens > T + 1) << tokens << " " << T;
  }
}

TEST(ShuffledSequencesTest, SeedsAndPassesHaveOrdersOfTheirOwn) {
  ShuffledSequences a(4001, 16, 1), b(4001, 16, 2), again(4001, 16, 1);
  std::vector<int64_t> orders[4];
  for (int64_t i = 0; i < 249; ++i) {
    orders[0].push_back(a.Begin(i));
    orders[1].push_back(b.Begin(i));
  }
  for (int64_t i = 0; i < 249; ++i) orders[2].push_back(a.Begin(249 + i));
  for (int64_t i = 248; i >= 0; --i) orders[3].insert(orders[3].begin(), again.Begin(i));
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_NE(orders[0], orders[2]);
  EXPECT_EQ(orders[0], orders[3]);
}

class BatchesTest : public CorpusTest {
 protected:
  Batches Make(const Options& options, int64_t rank = 0, int64_t world_size = 1) const {
    return Batches(CorpusTest::Make(options), ShardSet(folder.path(), "train", kVocab), rank, world_size);
  }
  const Options shuffled = {{"data_order", "shuffled"}};
};

TEST_F(BatchesTest, ShuffledSequencesWithTheirTargets) {
  const std::vector<uint16_t> tokens = RandomTokens(400, kVocab);
  ShuffledSequences order(400, 16, CorpusTest::Make().seed);
  Batches batches = Make(shuffled);
  for (int64_t i = 0; i < 40; ++i) {  // two sequences each, over three passes
    const MicroBatch batch = batches.Take();
    ASSERT_EQ(batch.segments.size(), 2u);
    for (int64_t s = 0; s < 2; ++s) {
      const int64_t begin = order.Begin(2 * i + s);
      const Segment& segment = batch.segments[s];
      ASSERT_EQ(segment.length, 16);
      EXPECT_EQ(std::vector(segment.tokens, segment.tokens + 17), std::vector(tokens.begin() + begin, tokens.begin() + begin + 17));
    }
    EXPECT_EQ(batches.position(), 32 * (i + 1));
  }
}

// What ranks take side by side is what one process takes one after another, and from any position again.
TEST_F(BatchesTest, RanksShareOneOrder) {
  for (const Options& options : {shuffled, Options{}}) {
    Batches alone = Make(options), first = Make(options, 0, 2), second = Make(options, 1, 2), late = Make(options, 1, 2);
    for (int64_t i = 0; i < 15; ++i) {
      late.Seek(first.position());
      EXPECT_EQ(first.Take().tokens, alone.Take().tokens);
      const std::vector<uint16_t> tokens = second.Take().tokens;
      EXPECT_EQ(tokens, alone.Take().tokens);
      EXPECT_EQ(late.Take().tokens, tokens);
      EXPECT_EQ(first.position(), alone.position());
      EXPECT_EQ(second.position(), alone.position());
    }
  }
}

TEST_F(BatchesTest, TooShortASplitAndAnOrderWithoutMeaningAreRefused) {
  WriteTrain(folder.path(), RandomTokens(16, kVocab));
  EXPECT_THROW(Make(shuffled), InputError);
  EXPECT_THROW(Make({}), InputError);
  const Settings settings = CorpusTest::Make({{"data_order", "shuffled"}, {"packed_documents", "1"}, {"smear", "0"}, {"bigram_vocab_size", "0"}});
  EXPECT_THROW(settings.CheckTraining(1), UsageError);
}

}  // namespace
}  // namespace fairway
