#include "common/quantise/search.h"

#include "common/base/clock.h"
#include "common/quantise/artifact.h"
#include "common/quantise/export.h"

namespace fairway {

FoundStep SearchStep(const CheckpointReader& weights, const Settings& settings, const Calibration& calibration, uint64_t budget,
                     double first_guess, Sizes sizes, const std::function<void(const TriedSize&)>& on_size) {
  const SettingValues header = ExportedSettings(settings);
  const auto content = [&](double step) {
    std::string bytes;
    CheckpointWriter writer(&bytes, Kind::kQuantised, header);
    ExportWeights(weights, settings, calibration, step, writer);
    writer.Finish({}, {});
    return bytes;
  };
  const auto measure = [&](double step) {
    const uint64_t bytes = FastArtifactBytes(content(step));
    on_size({.step = step, .bytes = bytes, .shipped = false, .packing = 0});
    return bytes;
  };
  const auto ship = [&](double step) -> uint64_t {
    const CheckpointReader quantised(content(step), weights.path());
    const auto packs = Clock::now();
    const uint64_t bytes = PackArtifact(quantised, kShippedLevels).bytes.size();
    on_size({.step = step, .bytes = bytes, .shipped = true, .packing = SecondsSince(packs)});
    return bytes;
  };
  if (sizes == Sizes::kFast) return FindStep(budget, first_guess, measure, measure);
  return FindStep(budget, first_guess, measure, ship);
}

}  // namespace fairway
