// The export's rate control (budget.h) on weights as they are.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "common/checkpoint/checkpoint.h"
#include "common/quantise/budget.h"
#include "common/quantise/steps.h"
#include "common/settings/settings.h"

namespace fairway {

// The settings that an exported checkpoint states.
inline SettingValues ExportedSettings(const Settings& settings) {
  return settings.Select(scope::kModel | scope::kQuantise | scope::kEvaluate);
}

// One size that a search has looked at.
struct TriedSize {
  double step;
  uint64_t bytes;
  bool packed;     // as artifacts are, else by zstd's fast level
  double packing;  // seconds of that
};

// The size that is compared with the budget: that of the artifact as shipped, to within kBudgetShare or kExactBudgetShare,
// or an estimate of it to within a few percent.
enum class Sizes { kShipped, kRough };

// Bytes of the artifact that an export of `weights` on this step makes, packed at each of zstd's `levels`; `packing` receives the
// seconds that packing took.
uint64_t SizeAt(double step, const TensorSource& weights, const Settings& settings, const Calibration& calibration, std::span<const int> levels,
                double* packing = nullptr);

// The step at which an export of `weights` fills `budget` bytes, beginning at `first_guess`. `on_size` is called with each size.
// Throws as ExportWeights and FindStep do; a GateError also names what fills the smallest artifact.
FoundStep SearchStep(const TensorSource& weights, const Settings& settings, const Calibration& calibration, uint64_t budget,
                     double first_guess, Sizes sizes, const std::function<void(const TriedSize&)>& on_size);

}  // namespace fairway
