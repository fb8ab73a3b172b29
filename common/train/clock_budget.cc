#include "common/train/clock_budget.h"

#include <algorithm>
#include <vector>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/calibrate/calibrate.h"
#include "common/quantise/calibration.h"
#include "common/train/late_qat.h"
#include "common/train/stopwatch.h"

namespace fairway {

void ClockBudget::Reserve(const std::function<NamedTensors()>& weights_now, bool fake_quantises, const ShardSet& train, Communicator& communicator,
                          const std::function<void()>& between) {
  const bool calibrates = TrainingCalibrates(settings_), searches = FindsSteps(settings_) && !fake_quantises;
  if (settings_.max_wallclock_seconds > 0 && (calibrates || searches)) {
    const NamedTensors weights = weights_now();
    const int64_t world = communicator.world_size();
    Calibration calibration;
    const auto seconds = [&](int64_t rounds) {
      Settings few = settings_;
      few.calibration_windows = std::min(rounds * world, settings_.calibration_windows);
      const Stopwatch clock = Stopwatch::Started();
      calibration = Calibrate(weights, few, train, [&](int64_t, int64_t) { between(); }, communicator);
      return clock.seconds();
    };
    double whole = 0;
    if (settings_.calibration_windows > 0) {
      seconds(1);  // what is only done the first time
      // A round is a window for each rank. What one takes, and one more for each further round.
      const int64_t rounds = (settings_.calibration_windows + world - 1) / world;
      const double one = seconds(1), three = seconds(3);
      whole = 1.2 * (one + std::max(three - one, 0.0) / 2 * static_cast<double>(rounds - 1));
      const std::vector<double> of_ranks = communicator.Gather(std::vector<double>{whole});
      whole = *std::ranges::max_element(of_ranks);
    }
    if (calibrates) calibration_reserve_ = whole;
    if (searches) search_reserve_ = whole + 1.2 * MeasureSearch(weights, settings_, calibration, communicator);
    if (calibration_reserve_ + search_reserve_ >= settings_.max_wallclock_seconds)
      throw UsageError(StringPrintf("MAX_WALLCLOCK_SECONDS=%g leaves no time to train: QUANTISER=%s takes %.3g s of it for calibration at the end "
                                    "and %.3g s to prepare late QAT. CALIBRATION=self, LATE_QAT_THRESHOLD=0 and fewer CALIBRATION_WINDOWS take less",
                                    settings_.max_wallclock_seconds, settings_.quantiser.c_str(), calibration_reserve_, search_reserve_));
    Log("clock: %.1f s are kept for calibration at the end, %.1f s to prepare late QAT", calibration_reserve_, search_reserve_);
  }
  Schedule(fake_quantises ? search_seconds_ : search_reserve_);
}

void ClockBudget::SearchTook(double seconds) {
  search_seconds_ = seconds;
  Schedule(search_seconds_);
}

// The time that steps may take is what is neither kept for something else nor was taken by it.
void ClockBudget::Schedule(double search) {
  if (settings_.max_wallclock_seconds <= 0) return;
  scheduled_.max_wallclock_seconds = std::max(settings_.max_wallclock_seconds - calibration_reserve_ - search, 1e-9);
}

}  // namespace fairway
