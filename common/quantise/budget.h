// Rate control: the finest step whose artifact stays within a number of bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/checkpoint/checkpoint.h"
#include "common/settings/settings.h"

namespace fairway {

// The artifact's bytes that the settings ask for: target_bytes less code_bytes, target_ratio of the float32 weights, or
// bits_per_weight. Of those given, the one given in the strongest place counts (command line, environment, profile, checkpoint).
// Throws UsageError where none is given, two are in one place, or the code leaves no byte.
int64_t TargetBytes(const Settings& settings, int64_t parameters);


// Throws UsageError for settings that no export can have together: a size given by hand for a quantiser that has none to
// choose (a profile may name one for the other quantisers), QUANTISER=gptq without calibration windows, and gptq_sdclip with
// micro-batches shorter than the windows it takes from them.
void CheckQuantiser(const Settings& settings);

// What the micro-batches follow from that gptq_sdclip calibrates on. Weights do not state it, so gptq-lite takes no default of it.
inline constexpr std::string_view kBatchSettings[] = {"train_batch_tokens", "grad_micro_steps"};

// The tensors that stay in floating point: they take their bytes whatever the step.
struct KeptTensors {
  uint64_t bytes = 0;  // before compression
  uint64_t largest_bytes = 0;
  std::string largest;  // name of the largest

  void Add(const std::string& name, const std::vector<int64_t>& shape, const Settings& settings);  // where it has no grid
  std::string Text() const;  // "tensors kept in floating point take 212,486 bytes before compression, tok_emb.weight alone 196,608"
};
KeptTensors KeptOf(const TensorSource& weights, const Settings& settings);
KeptTensors KeptOf(const Settings& settings);  // of the model that the settings describe

// A warning that names what fills the budget where kept tensors take more than a third of it; else empty.
std::string CrowdedBudget(const KeptTensors& kept, int64_t budget);

// Throws UsageError where the settings give a size for a quantiser that has one, and it is below the bytes of kept tensors.
// REQUIRES: settings.CheckModel() passes.
void CheckSize(const Settings& settings);

// A search comes within this share of the budget, below it: with sizes by zstd, which jump by more than a thousandth when its blocks
// fall otherwise, and with sizes by the arithmetic coder.
inline constexpr double kBudgetShare = 0.002, kExactBudgetShare = 0.0005;

struct FoundStep {
  double step = 0;     // 0: the finest there is, and the budget is not used up
  uint64_t bytes = 0;  // of the artifact as shipped
};

// measure(step): bytes, or a fast guess at them; they fall, but for small disorder, as the step grows. ship(step): bytes as
// shipped. The result has at most `budget` bytes as shipped, and, unless its step is 0 or no step comes closer, at least
// (1 - share) of it. Throws GateError naming the smallest artifact there is where that is over the budget.
FoundStep FindStep(uint64_t budget, double first_guess, const std::function<uint64_t(double)>& measure,
                   const std::function<uint64_t(double)>& ship, double share = kBudgetShare);

}  // namespace fairway
