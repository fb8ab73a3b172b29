#include "common/settings/schedule.h"

#include <algorithm>

#include "common/base/text.h"

namespace fairway {

double TrainingSeconds(const Settings& s) {
  return s.max_wallclock_seconds > 0 ? s.max_wallclock_seconds - s.gptq_reserve_seconds : s.max_wallclock_seconds;
}

double TrainingFraction(const Settings& s, int64_t step, double elapsed_seconds) {
  if (s.max_wallclock_seconds > 0) return elapsed_seconds / std::max(TrainingSeconds(s), 1e-12);
  return static_cast<double>(step) / static_cast<double>(std::max<int64_t>(s.iterations, 1));
}

double LearningRateScale(const Settings& s, int64_t step, double elapsed_seconds) {
  if (s.warmdown_frac > 0) {
    const double fraction = TrainingFraction(s, step, elapsed_seconds);
    return fraction < 1 - s.warmdown_frac ? 1 : std::max((1 - fraction) / s.warmdown_frac, s.min_lr);
  }
  if (s.warmdown_iters <= 0) return 1;
  if (s.max_wallclock_seconds > 0) {
    const double warmdown = s.warmdown_iters * (elapsed_seconds / std::max<int64_t>(step, 1));
    const double remaining = std::max(TrainingSeconds(s) - elapsed_seconds, 0.0);
    return remaining <= warmdown ? remaining / std::max(warmdown, 1e-12) : 1;
  }
  const int64_t start = std::max<int64_t>(s.iterations - s.warmdown_iters, 0);
  if (step < start || step >= s.iterations) return 1;
  return static_cast<double>(s.iterations - step) / s.warmdown_iters;
}

double MuonMomentum(const Settings& s, int64_t step) {
  const double f =
      s.muon_momentum_warmup_steps > 0 ? std::min(static_cast<double>(step) / s.muon_momentum_warmup_steps, 1.0) : 1.0;
  return (1 - f) * s.muon_momentum_warmup_start + f * s.muon_momentum;
}

double LateSteps(const Settings& s, double threshold, int64_t steps) {
  const auto all = static_cast<double>(steps);
  if (s.warmdown_frac > 0) return s.min_lr < threshold ? std::min(threshold * s.warmdown_frac, 1.0) * all : 0;
  return std::min(threshold * static_cast<double>(s.warmdown_iters), all);
}

std::string WhyNeverBelow(const Settings& s, double threshold, const char* name, int64_t last) {
  const std::string setting = name;
  if (threshold > 1) return "";
  if (s.warmdown_frac > 0 && s.min_lr >= threshold)
    return StringPrintf("MIN_LR = %s keeps the learning rate above ", ShortestDouble(s.min_lr).c_str()) + setting;
  if (s.warmdown_frac <= 0 && s.warmdown_iters <= 0)
    return StringPrintf("WARMDOWN_ITERS = %jd keeps the learning rate above ", s.warmdown_iters) + setting;
  if (s.max_wallclock_seconds > 0 || LearningRateScale(s, last, 0) < threshold) return "";
  return (s.warmdown_frac > 0 ? "WARMDOWN_FRAC = " + ShortestDouble(s.warmdown_frac) : StringPrintf("WARMDOWN_ITERS = %jd", s.warmdown_iters)) +
         " leaves no step below " + setting + " = " + ShortestDouble(threshold);
}

std::string WhyNoSnapshot(const Settings& s) {
  if (s.swa_every > s.iterations) return StringPrintf("SWA_EVERY = %jd is more than ITERATIONS = %jd", s.swa_every, s.iterations);
  const int64_t last = s.iterations - s.iterations % s.swa_every;  // of all snapshots the one at the lowest scale
  std::string cause = WhyNeverBelow(s, s.swa_start_frac, "SWA_START_FRAC", last - 1);
  if (cause.find("leaves no step") != std::string::npos) cause += StringPrintf(" at which a snapshot is due (SWA_EVERY = %jd)", s.swa_every);
  return cause;
}

}  // namespace fairway
