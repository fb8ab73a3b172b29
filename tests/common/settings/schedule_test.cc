// The learning rate scale and Muon's momentum at their edges (pull request 531).
#include "common/settings/schedule.h"

#include <gtest/gtest.h>

namespace fairway {
namespace {

Settings Schedule(int64_t iterations, int64_t warmdown, double cap) {
  Settings settings;
  settings.iterations = iterations;
  settings.warmdown_iters = warmdown;
  settings.max_wallclock_seconds = cap;
  return settings;
}

TEST(LearningRateScaleTest, ByIterations) {
  for (double cap : {0.0, -5.0}) {
    const Settings settings = Schedule(10, 4, cap);
    for (int64_t step : {0, 3, 5, 6}) EXPECT_EQ(LearningRateScale(settings, step, 1e6), 1) << step;
    EXPECT_EQ(LearningRateScale(settings, 7, 0), 0.75);
    EXPECT_EQ(LearningRateScale(settings, 8, 0), 0.5);
    EXPECT_EQ(LearningRateScale(settings, 9, 0), 0.25);
  }
}

// A warm-down longer than the run begins where the run does, already below 1.
TEST(LearningRateScaleTest, WarmdownLongerThanTheRun) {
  const Settings settings = Schedule(10, 40, 0);
  EXPECT_EQ(LearningRateScale(settings, 0, 0), 0.25);
  EXPECT_EQ(LearningRateScale(settings, 9, 0), 0.025);
}

TEST(LearningRateScaleTest, NoWarmdown) {
  for (int64_t warmdown : {0, -1})
    for (double cap : {0.0, 60.0})
      for (int64_t step : {0, 5, 9}) EXPECT_EQ(LearningRateScale(Schedule(10, warmdown, cap), step, 59.0), 1);
}

TEST(LearningRateScaleTest, ByTheClock) {
  const Settings settings = Schedule(1000000, 20, 100);
  EXPECT_EQ(LearningRateScale(settings, 0, 0), 1);  // no pace yet
  // At a second a step the last 20 steps begin at 80 seconds.
  EXPECT_EQ(LearningRateScale(settings, 50, 50), 1);
  EXPECT_EQ(LearningRateScale(settings, 80, 80), 1);
  EXPECT_DOUBLE_EQ(LearningRateScale(settings, 81, 81), 0.95);
  EXPECT_DOUBLE_EQ(LearningRateScale(settings, 99, 99), 0.05);
  EXPECT_EQ(LearningRateScale(settings, 100, 100), 0);
  EXPECT_EQ(LearningRateScale(settings, 100, 120), 0);
  // Twice as slow, the warm-down takes 40 seconds.
  EXPECT_EQ(LearningRateScale(settings, 30, 60), 1);
  EXPECT_DOUBLE_EQ(LearningRateScale(settings, 40, 80), 0.5);
  // Iterations never enter.
  EXPECT_DOUBLE_EQ(LearningRateScale(Schedule(40, 20, 100), 40, 80), 0.5);
  // Time that passed before the first step counts as one step's.
  EXPECT_DOUBLE_EQ(LearningRateScale(settings, 0, 10), 90.0 / 200);
}

// Pull request 1855: by the share of the clock that is over, or of the steps where there is none.
TEST(LearningRateScaleTest, ByTheFractionOfTheTraining) {
  Settings settings = Schedule(40, 20, 0);
  settings.warmdown_frac = 0.5;
  settings.min_lr = 0.125;
  EXPECT_EQ(TrainingFraction(settings, 10, 1e6), 0.25);
  EXPECT_EQ(LearningRateScale(settings, 19, 0), 1);
  EXPECT_EQ(LearningRateScale(settings, 20, 0), 1);
  EXPECT_EQ(LearningRateScale(settings, 30, 0), 0.5);
  EXPECT_EQ(LearningRateScale(settings, 39, 0), 0.125);
  settings.max_wallclock_seconds = 84;
  settings.gptq_reserve_seconds = 4;
  EXPECT_EQ(TrainingSeconds(settings), 80);
  EXPECT_EQ(TrainingFraction(settings, 3, 20), 0.25);
  EXPECT_EQ(LearningRateScale(settings, 39, 39), 1);
  EXPECT_EQ(LearningRateScale(settings, 3, 60), 0.5);
  EXPECT_EQ(LearningRateScale(settings, 3, 100), 0.125);
}

TEST(MuonMomentumTest, WarmsUpLinearly) {
  Settings settings;
  settings.muon_momentum_warmup_start = 0.8;
  settings.muon_momentum = 0.9;
  settings.muon_momentum_warmup_steps = 10;
  EXPECT_DOUBLE_EQ(MuonMomentum(settings, 0), 0.8);
  EXPECT_DOUBLE_EQ(MuonMomentum(settings, 5), 0.85);
  EXPECT_DOUBLE_EQ(MuonMomentum(settings, 9), 0.89);
  EXPECT_DOUBLE_EQ(MuonMomentum(settings, 10), 0.9);
  EXPECT_DOUBLE_EQ(MuonMomentum(settings, 1000), 0.9);
  for (int64_t none : {0, -1}) {
    settings.muon_momentum_warmup_steps = none;
    EXPECT_DOUBLE_EQ(MuonMomentum(settings, 0), 0.9);
  }
}

}  // namespace
}  // namespace fairway
