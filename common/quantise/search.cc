#include "common/quantise/search.h"

#include <span>

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
    const uint64_t bytes = FastArtifactBytes(content(step), settings.ThreadCount());
    on_size({.step = step, .bytes = bytes, .packed = false, .packing = 0});
    return bytes;
  };
  const auto pack = [&](double step, std::span<const int> levels) -> uint64_t {
    const CheckpointReader quantised(content(step), weights.path());
    const auto packs = Clock::now();
    const uint64_t bytes = PackArtifact(quantised, levels, settings.ThreadCount()).bytes.size();
    on_size({.step = step, .bytes = bytes, .packed = true, .packing = SecondsSince(packs)});
    return bytes;
  };
  if (sizes == Sizes::kShipped)
    return FindStep(budget, first_guess, measure, [&](double step) { return pack(step, kShippedLevels); });
  // Up to a fifth fewer bytes are shipped than the fast level says, but nearly the same share from one step to the next.
  const FoundStep fast = FindStep(budget, first_guess, measure, measure);
  if (fast.step == 0) return fast;
  constexpr int kOneLevel[] = {19};
  const double share = static_cast<double>(fast.bytes) / static_cast<double>(pack(fast.step, kOneLevel));
  return FindStep(static_cast<uint64_t>(share * static_cast<double>(budget)), fast.step, measure, measure);
}

}  // namespace fairway
