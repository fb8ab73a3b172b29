#include "common/score/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fairway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(EventLedger, AnOrderThatADecoderCanFollow) {
  EventLedger ledger(10);
  ledger.Scored(0, 6, 1);
  ledger.Learnt(0, 4, 1, 2);
  ledger.Scored(6, 10, 2);
  const EventLedger::Result result = ledger.Check();
  EXPECT_THAT(result.violations, IsEmpty());
  EXPECT_EQ(result.scored, 10);
  EXPECT_EQ(result.doubled, 0);
  EXPECT_EQ(result.dropped, 0);
  EXPECT_EQ(result.learnt, 4);
  EXPECT_EQ(ledger.Text(), "score 0..6 state 0000000000000001\nlearn 0..4 state 0000000000000001\nscore 6..10 state 0000000000000002\n");
}

TEST(EventLedger, TargetsScoredTwiceOrNever) {
  EventLedger ledger(10);
  ledger.Scored(0, 4, 1);
  ledger.Scored(2, 8, 1);
  EXPECT_EQ(ledger.Check().doubled, 2);
  EXPECT_EQ(ledger.Check().dropped, 2);
}

TEST(EventLedger, LearningBeforeScoring) {
  EventLedger ledger(10);
  ledger.Scored(0, 4, 1);
  ledger.Learnt(0, 5, 1, 2);
  ledger.Scored(4, 10, 2);
  EXPECT_THAT(ledger.Check().violations, ElementsAre("target 4 was learnt from before it was scored"));
}

TEST(EventLedger, AStateThatChangesUnseen) {
  EventLedger ledger(10);
  ledger.Scored(0, 5, 1);
  ledger.Scored(5, 10, 2);
  EXPECT_THAT(ledger.Check().violations, ElementsAre(HasSubstr("something changed it without an event")));
}

TEST(EventLedger, TargetsThatAreNotThere) {
  EventLedger ledger(10);
  ledger.Scored(0, 11, 1);
  EXPECT_THAT(ledger.Check().violations, ElementsAre("event 0 is of targets 0 to 11, of which there are 10"));
}

}  // namespace
}  // namespace fairway
