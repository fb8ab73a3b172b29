#include "common/train/live_text.h"

#include <gtest/gtest.h>

namespace fairway {
namespace {

// 100 steps of 1,000 tokens; the learning rate falls over the last 50; SWA below a scale of 0.4, late QAT below 0.15.
Settings BySteps() {
  Settings s;
  s.iterations = 100;
  s.warmdown_iters = 50;
  s.max_wallclock_seconds = 0;
  s.train_batch_tokens = 1000;
  s.val_loss_every = 0;
  s.swa_start_frac = 0.4;
  s.late_qat_threshold = 0.15;
  return s;
}

TrainingState At(int64_t step) {
  return {.step = step, .elapsed = 0.5 * static_cast<double>(step), .seconds_per_step = 0.5, .validation_seconds = 0, .loss = 2.5,
          .val_bpb = std::nullopt, .averages_snapshots = false, .fake_quantises = false};
}

TEST(LiveText, SaysWhereTrainingIsAndWhatComesNext) {
  Settings s = BySteps();
  EXPECT_EQ(LiveText(s, At(10)), "step 10/100  10%  loss 2.5000  2,000 tokens/s  0:45 left  next: SWA at 81");
  s.val_loss_every = 20;
  TrainingState state = At(10);
  state.val_bpb = 1.23456;
  state.validation_seconds = 10;  // at 20, 40, 60, 80 and the end
  EXPECT_EQ(LiveText(s, state), "step 10/100  10%  loss 2.5000  val_bpb 1.2346  2,000 tokens/s  1:35 left  next: validation at 20");
  state = At(80);
  EXPECT_EQ(LiveText(s, state), "step 80/100  80%  loss 2.5000  2,000 tokens/s  0:10 left  next: SWA at 81");
  state.averages_snapshots = true;
  EXPECT_EQ(LiveText(s, state), "step 80/100  80%  loss 2.5000  2,000 tokens/s  0:10 left  next: late QAT at 93");
  state.fake_quantises = true;
  EXPECT_EQ(LiveText(s, state), "step 80/100  80%  loss 2.5000  2,000 tokens/s  0:10 left  next: end at 100");
}

TEST(LiveText, CountsTheClockWhereItEndsTheRun) {
  Settings s = BySteps();
  s.max_wallclock_seconds = 20;  // 40 steps of half a second
  s.warmdown_iters = 10;         // the last 5 seconds: scale 0.4 after 18 s, 0.15 after 19.25 s
  s.iterations = 100000;
  TrainingState state = At(10);
  EXPECT_EQ(LiveText(s, state), "step 10/100000  25%  loss 2.5000  2,000 tokens/s  0:15 left  next: SWA at 37");
  state.averages_snapshots = true;
  EXPECT_EQ(LiveText(s, state), "step 10/100000  25%  loss 2.5000  2,000 tokens/s  0:15 left  next: late QAT at 39");
}

TEST(LiveText, KnowsNoSpeedBeforeTheFirstStep) {
  TrainingState state = At(0);
  state.seconds_per_step = 0;
  Settings s = BySteps();
  s.max_wallclock_seconds = 20;
  s.swa_enabled = false;
  s.late_qat_threshold = 0;
  EXPECT_EQ(LiveText(s, state), "step 0/100  0%  loss 2.5000  next: end at 100");
}

}  // namespace
}  // namespace fairway
