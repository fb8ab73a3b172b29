#include "common/submission/clock.h"

#include <utility>

#include "common/base/text.h"
#include "common/checkpoint/counter_names.h"
#include "common/submission/bytes.h"

namespace fairway {

ClockLedger ClockOf(const FinishedRun& run) {
  ClockLedger clock;
  if (run.counters.Has(counter::kWarmupSeconds)) clock.warm_up = run.counters.Get(counter::kWarmupSeconds);
  clock.training = run.counters.Get(counter::kTrainSeconds);
  clock.calibration = run.counters.Get(counter::kCalibrationSeconds);
  for (const auto& [program, seconds] :
       {std::pair{"ema-finalize", &clock.averaging}, {"gptq-lite", &clock.quantising}, {"pack-zstd", &clock.packing}})
    if (const auto found = run.log.seconds.find(program); found != run.log.seconds.end()) *seconds = found->second;
  clock.calibration_tokens = static_cast<int64_t>(run.counters.Get(counter::kCalibrationTokens));
  if (const Json seconds = run.eval.value("seconds", Json()); seconds.is_number())
    clock.evaluation = seconds.get<double>();
  return clock;
}

std::vector<std::string> OutsideTrack(const std::vector<FinishedRun>& runs) {
  std::vector<std::string> reasons;
  for (const FinishedRun& run : runs) {
    const ClockLedger clock = ClockOf(run);
    const std::string seed = StringPrintf("seed %jd: ", run.seed());
    if (const uint64_t bytes = CountedBytes(run); bytes > kTrackBytes)
      reasons.push_back(seed + "artifact, code and what else decoding needs have " + WithCommas(bytes) + " bytes, more than " + WithCommas(kTrackBytes));
    if (clock.training > kTrackSeconds)
      reasons.push_back(seed + StringPrintf("training took %.1f s, more than %.0f", clock.training, kTrackSeconds));
    if (!clock.evaluation)
      reasons.push_back(seed + "eval.json does not say how long evaluation took");
    else if (*clock.evaluation > kTrackSeconds)
      reasons.push_back(seed +
                        StringPrintf("evaluation took %.1f s, more than %.0f", *clock.evaluation, kTrackSeconds));
    if (clock.calibration_tokens > 0)
      reasons.push_back(seed + "calibration read " + WithCommas(clock.calibration_tokens) +
                        " training tokens after the clock of training had ended");
  }
  return reasons;
}

}  // namespace fairway
