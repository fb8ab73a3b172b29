#include "common/score/windows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace fairway {
namespace {

std::vector<Window> All(const WindowPlan& plan) {
  std::vector<Window> windows;
  for (int64_t i = 0; i < plan.size(); ++i) windows.push_back(plan[i]);
  return windows;
}

// The first token that target i sees, for every target; -1 where no window scores it. Fails on a second score.
std::vector<int64_t> FirstTokenSeen(const WindowPlan& plan, int64_t targets) {
  std::vector<int64_t> seen(targets, -1);
  for (const Window& window : All(plan)) {
    for (int64_t i = window.first_scored(); i < window.end(); ++i) {
      EXPECT_EQ(seen.at(i), -1) << "target " << i << " scored twice";
      seen.at(i) = window.begin;
    }
  }
  return seen;
}

struct Shape {
  int64_t targets, seq_len, stride;
};

// Small shapes, where all the edges are: one window, stride 1, stride = seq_len, one target, a remainder or none.
std::vector<Shape> Shapes() {
  std::vector<Shape> shapes = {{1, 1, 1}, {1, 8, 3}, {8, 8, 8},  {8, 8, 1},
                               {9, 8, 8}, {7, 8, 2}, {16, 8, 4}, {12000, 128, 32}};
  std::mt19937_64 random(3);
  for (int i = 0; i < 3000; ++i) {
    const int64_t seq_len = 1 + random() % 24;
    shapes.push_back({static_cast<int64_t>(1 + random() % 120), seq_len, static_cast<int64_t>(1 + random() % seq_len)});
  }
  return shapes;
}

TEST(SlidingPlan, IsItsDefinition) {
  for (const auto& [targets, seq_len, stride] : Shapes()) {
    SCOPED_TRACE(testing::Message() << targets << " targets, windows of " << seq_len << ", stride " << stride);
    const WindowPlan plan = WindowPlan::Sliding(targets, seq_len, stride);
    const std::vector<int64_t> seen = FirstTokenSeen(plan, targets);
    for (int64_t i = 0; i < targets; ++i) {
      // The first window at a multiple of the stride that reaches the target, moved back where it passes the end.
      int64_t begin = 0;
      while (begin + seq_len <= i) begin += stride;
      begin = std::max<int64_t>(0, std::min(begin, targets - seq_len));
      ASSERT_EQ(seen[i], begin) << "target " << i;
      // Context: all there is at first, then from seq_len - stride + 1 to seq_len tokens.
      const int64_t context = i - begin + 1;
      ASSERT_LE(context, seq_len);
      if (i >= seq_len) {
        ASSERT_GE(context, seq_len - stride + 1);
      }
    }
    EXPECT_EQ(plan.targets(), targets);
    EXPECT_EQ(plan.dropped(), 0);
    EXPECT_FALSE(plan.rescores());
    for (const Window& window : All(plan)) EXPECT_EQ(window.length, plan.width());
  }
}

TEST(PublishedPlan, IsThePublishedLoop) {
  for (const auto& [targets, seq_len, stride] : Shapes()) {
    SCOPED_TRACE(testing::Message() << targets << " targets, windows of " << seq_len << ", stride " << stride);
    const int64_t total = targets - targets % seq_len;
    std::vector<Window> expected;
    for (int64_t start = 0; start < total; start += stride) {
      const int64_t end = std::min(start + seq_len, total);
      const int64_t length = end - start;
      expected.push_back({start, length, start == 0 ? 0 : std::max<int64_t>(length - stride, 0)});
    }
    const WindowPlan plan = WindowPlan::Published(targets, seq_len, stride);
    EXPECT_EQ(All(plan), expected);
    EXPECT_EQ(plan.targets(), total);
    EXPECT_EQ(plan.dropped(), targets - total);
  }
}

TEST(PublishedPlan, HasTheGoldenNumberOfWindows) {
  EXPECT_EQ(WindowPlan::Published(12000, 128, 32).size(), 372);  // "16/372 windows"
  EXPECT_EQ(WindowPlan::Published(12000, 512, 256).size(), 46);  // "16/46 windows"
}

TEST(PublishedPlan, ScoresTheTailAgainOnceAWindowPastTheEnd) {
  // A quirk of pull request 531: on the published split 31 windows of 2,048 run past the end, each scoring 64 targets
  // again.
  const WindowPlan plan = WindowPlan::Published(62021845, 2048, 64);
  int64_t scored = 0;
  for (int64_t i = 0; i < plan.size(); ++i) scored += plan[i].length - plan[i].score_from;
  EXPECT_EQ(scored - plan.targets(), 31 * 64);
}

TEST(PlainPlan, TakesWholeSequences) {
  for (const auto& [targets, seq_len, stride] : Shapes()) {
    const WindowPlan plan = WindowPlan::Plain(targets, seq_len);
    ASSERT_EQ(plan.size(), targets / seq_len);
    for (int64_t i = 0; i < plan.size(); ++i) ASSERT_EQ(plan[i], (Window{i * seq_len, seq_len, 0}));
    ASSERT_EQ(plan.targets() + plan.dropped(), targets);
  }
}

}  // namespace
}  // namespace fairway
