#include "common/quantise/search.h"

#include <map>
#include <span>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/quantise/artifact.h"
#include "common/quantise/export.h"

namespace fairway {

namespace {

FoundStep Search(const TensorSource& weights, const Settings& settings, const Calibration& calibration, uint64_t budget, double first_guess,
                 Sizes sizes, const std::function<void(const TriedSize&)>& on_size) {
  const auto size = [&](double step, std::span<const int> levels, bool packed) {
    TriedSize tried{.step = step, .bytes = 0, .packed = packed, .packing = 0};
    tried.bytes = SizeAt(step, weights, settings, calibration, levels, packed ? &tried.packing : nullptr);
    on_size(tried);
    return tried.bytes;
  };
  if (CoderNamed(settings.coder) == Coder::kArithmetic) {
    std::map<double, uint64_t> known;
    const auto exact = [&](double step) {
      const auto [at, unknown] = known.try_emplace(step);
      if (unknown) at->second = size(step, kShippedLevels, true);
      return at->second;
    };
    return FindStep(budget, first_guess, exact, exact, sizes == Sizes::kShipped ? kExactBudgetShare : 0.01);
  }
  constexpr int kFast[] = {1}, kOneLevel[] = {19};
  const auto measure = [&](double step) { return size(step, kFast, false); };
  if (sizes == Sizes::kShipped)
    return FindStep(budget, first_guess, measure, [&](double step) { return size(step, kShippedLevels, true); });
  // Up to a fifth fewer bytes are shipped than the fast level says, but nearly the same share from one step to the next.
  const FoundStep fast = FindStep(budget, first_guess, measure, measure);
  if (fast.step == 0) return fast;
  const double share = static_cast<double>(fast.bytes) / static_cast<double>(size(fast.step, kOneLevel, true));
  return FindStep(static_cast<uint64_t>(share * static_cast<double>(budget)), fast.step, measure, measure);
}

}  // namespace

uint64_t SizeAt(double step, const TensorSource& weights, const Settings& settings, const Calibration& calibration, std::span<const int> levels,
                double* packing) {
  TensorsInMemory quantised(weights.path(), Kind::kQuantised, ExportedSettings(settings));
  ExportWeights(weights, settings, calibration, step, quantised);
  const auto packs = Clock::now();
  const uint64_t bytes = ArtifactBytes(quantised, levels, settings.ThreadCount(), CoderNamed(settings.coder));
  if (packing != nullptr) *packing = SecondsSince(packs);
  return bytes;
}

FoundStep SearchStep(const TensorSource& weights, const Settings& settings, const Calibration& calibration, uint64_t budget,
                     double first_guess, Sizes sizes, const std::function<void(const TriedSize&)>& on_size) {
  try {
    return Search(weights, settings, calibration, budget, first_guess, sizes, on_size);
  } catch (const GateError& error) {
    throw GateError(std::string(error.what()) + "; " + KeptOf(weights, settings).Text());
  }
}

}  // namespace fairway
