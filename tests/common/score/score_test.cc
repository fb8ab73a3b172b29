#include "common/score/score.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

namespace fairway {
namespace {

TEST(ScoreSum, IsTheMeanLossAndTheBitsPerByte) {
  ScoreSum sum(WindowPlan::Sliding(10, 4, 2));
  sum.Add(0, 4, 8.0, 9);
  EXPECT_DOUBLE_EQ(sum.bits_per_byte(), 8.0 / std::log(2.0) / 9);
  sum.Add(4, 10, 3.5, 14);
  const Score score = sum.Finish();
  EXPECT_DOUBLE_EQ(score.val_loss, 1.15);
  EXPECT_DOUBLE_EQ(score.val_bpb, 11.5 / std::log(2.0) / 23);
  EXPECT_EQ(score.targets, 10);
  EXPECT_EQ(score.bytes, 23);
  EXPECT_EQ(score.rescored, 0);
}

TEST(ScoreSum, RefusesATargetScoredTwice) {
  ScoreSum sum(WindowPlan::Sliding(10, 4, 2));
  sum.Add(0, 4, 1, 1);
  EXPECT_THROW(sum.Add(3, 5, 1, 1), std::logic_error);
}

TEST(ScoreSum, RefusesASkippedTarget) {
  ScoreSum sum(WindowPlan::Sliding(10, 4, 2));
  sum.Add(0, 4, 1, 1);
  EXPECT_THROW(sum.Add(5, 6, 1, 1), std::logic_error);
  EXPECT_THROW(sum.Finish(), std::logic_error);
}

TEST(ScoreSum, RefusesATargetThatIsNotThere) {
  ScoreSum sum(WindowPlan::Sliding(10, 4, 2));
  EXPECT_THROW(sum.Add(0, 11, 1, 1), std::logic_error);
}

TEST(ScoreSum, CountsWhatThePublishedSumScoresAgain) {
  const WindowPlan plan = WindowPlan::Published(13, 4, 3);  // of 12 targets
  ScoreSum sum(plan);
  for (int64_t i = 0; i < plan.size(); ++i) sum.Add(plan[i].first_scored(), plan[i].end(), 1.0, 2);
  // Windows [0, 4), [3, 7), [6, 10), [9, 12) score 4 + 3 + 3 + 3 targets, number 9 for the second time.
  const Score score = sum.Finish();
  EXPECT_EQ(score.targets, 13);
  EXPECT_EQ(score.rescored, 1);
  EXPECT_EQ(score.dropped, 1);
  EXPECT_DOUBLE_EQ(score.val_loss, 4.0 / 13);
}

}  // namespace
}  // namespace fairway
