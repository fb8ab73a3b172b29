#include "common/score/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fairway {
namespace {

using Kind = EventLedger::Event::Kind;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(EventLedger, AnOrderThatADecoderCanFollow) {
  EventLedger ledger(10);
  ledger.Scored(0, 6, 1);
  ledger.Changed(Kind::kLearnt, 0, 4, 1, 2);
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
  ledger.Changed(Kind::kLearnt, 0, 5, 1, 2);
  ledger.Scored(4, 10, 2);
  EXPECT_THAT(ledger.Check().violations, ElementsAre("target 4 was learnt from before it was scored"));
}

TEST(EventLedger, TablesThatKnowATargetBeforeItIsScored) {
  EventLedger ledger(10);
  ledger.Scored(0, 4, 1);
  ledger.Changed(Kind::kTables, 0, 4, 1, 2);
  ledger.Changed(Kind::kTables, 4, 6, 2, 3);
  ledger.Scored(4, 10, 3);
  const EventLedger::Result result = ledger.Check();
  EXPECT_THAT(result.violations, ElementsAre("target 4 was taken into the tables before it was scored"));
  EXPECT_EQ(result.learnt, 0);
  EXPECT_THAT(ledger.Text(), HasSubstr("update 0..4 state 0000000000000001\n"));
}

TEST(EventLedger, AStateThatChangesUnseen) {
  EventLedger ledger(10);
  ledger.Scored(0, 5, 1);
  ledger.Scored(5, 10, 2);
  EXPECT_THAT(ledger.Check().violations, ElementsAre(HasSubstr("something changed it without an event")));
}

TEST(EventLedger, OutOfTheOrderOfTheText) {
  EventLedger ledger(10);
  ledger.Scored(0, 3, 1);
  ledger.Scored(6, 10, 1);
  ledger.Scored(3, 6, 1);
  EXPECT_THAT(ledger.Check().violations, ElementsAre("targets 3 to 6 come after target 9: out of the order of the text"));
}

// Adapters of documents that are scored together.
TEST(EventLedger, DocumentsWhoseAdaptersWereResetTogetherTakeTurns) {
  EventLedger ledger(10);
  ledger.Scored(0, 2, 1);
  ledger.Changed(Kind::kReset, 2, 10, 1, 2);
  ledger.Scored(2, 4, 2);
  ledger.Scored(6, 8, 2);
  ledger.Changed(Kind::kLearnt, 2, 4, 2, 2);
  ledger.Changed(Kind::kLearnt, 6, 8, 2, 3);
  ledger.Scored(4, 6, 3);
  ledger.Scored(8, 10, 3);
  const EventLedger::Result result = ledger.Check();
  EXPECT_THAT(result.violations, IsEmpty());
  EXPECT_EQ(result.scored, 10);
  EXPECT_EQ(result.learnt, 4);
  EXPECT_THAT(ledger.Text(), HasSubstr("reset 2..10 state 0000000000000001\nscore 2..4 state 0000000000000002\n"));
  ledger.Changed(Kind::kReset, 0, 2, 3, 4);
  EXPECT_THAT(ledger.Check().violations, ElementsAre("adapters of target 0 were reset after it was scored"));
}

TEST(EventLedger, AResetIsNoWayToHideAChange) {
  EventLedger ledger(10);
  ledger.Scored(0, 5, 1);
  ledger.Changed(Kind::kReset, 5, 10, 2, 3);
  ledger.Scored(5, 10, 3);
  EXPECT_THAT(ledger.Check().violations, ElementsAre(HasSubstr("before targets 5 to 10 were begun anew the state was another")));
}

TEST(EventLedger, TargetsThatAreNotThere) {
  EventLedger ledger(10);
  ledger.Scored(0, 11, 1);
  EXPECT_THAT(ledger.Check().violations, ElementsAre("event 0 is of targets 0 to 11, of which there are 10"));
}

}  // namespace
}  // namespace fairway
