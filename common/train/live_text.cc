#include "common/train/live_text.h"

#include <algorithm>

#include "common/base/live_line.h"
#include "common/base/text.h"
#include "common/settings/schedule.h"

namespace fairway {
namespace {

// The step after which the run will end, if steps take as long as they do now.
int64_t LastStep(const Settings& s, const TrainingState& state) {
  const double seconds = TrainingSeconds(s);
  if (seconds <= 0 || state.seconds_per_step <= 0) return s.iterations;
  const double left = std::max(seconds - state.elapsed, 0.0) / state.seconds_per_step;
  return left < static_cast<double>(s.iterations - state.step) ? state.step + static_cast<int64_t>(left) : s.iterations;
}

// The first step from the next one on whose learning rate scale will be below `threshold`; none: `last`.
int64_t FirstStepBelow(double threshold, const Settings& s, const TrainingState& state, int64_t last) {
  const auto below = [&](int64_t step) {
    return LearningRateScale(s, step, state.elapsed + static_cast<double>(step - state.step) * state.seconds_per_step) < threshold;
  };
  int64_t low = state.step, high = last;  // the scale falls from one step to the next
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (below(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

}  // namespace

std::string LiveText(const Settings& s, const TrainingState& state) {
  const int64_t last = LastStep(s, state), every = s.val_loss_every;
  std::string what = "end";
  int64_t when = last;
  const auto consider = [&](const char* event, int64_t step) {
    if (step >= when) return;
    what = event;
    when = step;
  };
  if (s.late_qat_threshold > 0 && !state.fake_quantises) consider("late QAT", FirstStepBelow(s.late_qat_threshold, s, state, last));
  if (s.swa_enabled && !state.averages_snapshots) consider("SWA", FirstStepBelow(s.swa_start_frac, s, state, last));
  if (every > 0) consider("validation", (state.step / every + 1) * every);
  const int64_t validations = 1 + (every > 0 ? std::max<int64_t>((last - 1) / every - state.step / every, 0) : 0);

  const double of_steps = static_cast<double>(state.step) / static_cast<double>(std::max<int64_t>(s.iterations, 1));
  const double of_clock = TrainingSeconds(s) > 0 ? state.elapsed / TrainingSeconds(s) : 0;
  const double seconds = static_cast<double>(last - state.step) * state.seconds_per_step + static_cast<double>(validations) * state.validation_seconds;
  std::string text = StringPrintf("step %jd/%jd  %d%%  loss %.4f", state.step, s.iterations,
                                  static_cast<int>(100 * std::clamp(std::max(of_steps, of_clock), 0.0, 1.0)), state.loss);
  if (state.val_bpb) text += StringPrintf("  val_bpb %.4f", *state.val_bpb);
  if (state.seconds_per_step > 0) {
    text += "  " + WithCommas(static_cast<int64_t>(static_cast<double>(s.train_batch_tokens) / state.seconds_per_step)) + " tokens/s  " +
            Duration(seconds) + " left";
  }
  return text + StringPrintf("  next: %s at %jd", what.c_str(), when);
}

}  // namespace fairway
