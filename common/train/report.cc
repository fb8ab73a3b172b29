#include "common/train/report.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "common/base/log.h"
#include "common/base/text.h"
#include "common/quantise/budget.h"
#include "common/quantise/grid.h"

namespace fairway {
namespace {

// A duration in two significant digits, and in whole seconds from ten on; never with an exponent.
std::string Seconds(double seconds) {
  const double digits = seconds > 0 ? 1 - std::floor(std::log10(seconds)) : 0;
  return StringPrintf("%.*f s", static_cast<int>(std::clamp(digits, 0.0, 9.0)), seconds);
}

}  // namespace

void LogHeader(const Settings& s, const Estimate& estimate, const Communicator& communicator) {
  const int64_t xsa_first = s.num_layers - s.xsa_last_n;
  std::vector<std::string> xsa;
  for (int64_t i = xsa_first; i < s.num_layers; ++i) xsa.push_back(std::to_string(i));
  Log("run_id:%s", s.run_id.c_str());
  Log("model_params:%jd", estimate.parameters);
  Log("world_size:%jd grad_accum_steps:%jd backend:%s", communicator.world_size(), s.grad_micro_steps / communicator.world_size(),
      communicator.name().c_str());
  Log("attention_mode:gqa num_heads:%jd num_kv_heads:%jd", s.num_heads, s.num_kv_heads);
  Log("tie_embeddings:%s embed_lr:%s matrix_lr:%s scalar_lr:%s", s.tie_embeddings ? "True" : "False",
      ShortestDouble(s.tie_embeddings ? s.tied_embed_lr : s.embed_lr).c_str(), ShortestDouble(s.matrix_lr).c_str(),
      ShortestDouble(s.scalar_lr).c_str());
  Log("train_batch_tokens:%jd train_seq_len:%jd iterations:%jd warmup_steps:%jd max_wallclock_seconds:%.3f",
      s.train_batch_tokens, s.train_seq_len, s.iterations, s.warmup_steps, s.max_wallclock_seconds);
  Log("seed:%jd", s.seed);
  Log("xsa_active_layers:[%s] use_xsa_count:%jd", Join(xsa, ", ").c_str(), s.xsa_last_n);
}

void LogEstimate(const Settings& s, const Estimate& estimate, const Runtime& runtime) {
  const double rate = MeasureProducts(s, TorchDevice(runtime.device)) * static_cast<double>(runtime.communicator->world_size());
  const double step = estimate.flops_per_step / rate, calibration = estimate.flops_of_calibration / rate, cap = s.max_wallclock_seconds;
  // One step is taken whatever the clock says.
  const double seconds = cap > 0 ? std::max(cap, s.iterations > 0 ? step : 0) : step * static_cast<double>(s.iterations) + calibration;
  const std::string calibrates = calibration > 0 ? "calibration " + Seconds(calibration) + ", " : "";
  Log("estimate: memory %.2f GB%s; time at %s %s, %sa step %s (%.1f GFLOP of products, %.0f GFLOP/s on %s); artifact %.2f MB",
      std::ceil(estimate.memory_bytes / 1e7) / 100, runtime.device != nullptr ? " of the GPU" : "", cap > 0 && step <= cap ? "most" : "least", Seconds(seconds).c_str(), calibrates.c_str(), Seconds(step).c_str(),
      estimate.flops_per_step / 1e9, rate / 1e9, runtime.units().c_str(), estimate.artifact_bytes / 1e6);
  if (cap > 0 && s.iterations > 0 && step > cap)
    Log("estimate: one step takes about %s here, longer than MAX_WALLCLOCK_SECONDS = %s: training would end after the first of %jd",
        Seconds(step).c_str(), ShortestDouble(cap).c_str(), s.iterations);
  if (s.warmup_steps > 0 && step * static_cast<double>(s.warmup_steps) > 60)
    Log("estimate: %jd warm-up steps before the clock starts take about %s", s.warmup_steps,
        Seconds(step * static_cast<double>(s.warmup_steps)).c_str());
}

void LogCrowdedBudget(const Settings& s, int64_t parameters) {
  if (!HasSize(s) || (s.target_bytes <= 0 && s.target_ratio <= 0 && s.bits_per_weight <= 0)) return;
  if (const std::string crowded = CrowdedBudget(KeptOf(s), TargetBytes(s, parameters)); !crowded.empty()) Log("%s", crowded.c_str());
}

void LogProfile(const StepProfile& profile, int64_t steps, double seconds) {
  std::vector<std::pair<double, std::string>> parts;
  double rest = seconds;
  for (int i = 0; i < StepProfile::kOperations; ++i) {
    parts.emplace_back(profile.seconds[i], StepProfile::kNames[i]);
    rest -= profile.seconds[i];
  }
  parts.emplace_back(rest, "other");
  std::sort(parts.rbegin(), parts.rend());
  Log("step_profile: %jd steps of %.3f ms", steps, 1e3 * seconds / static_cast<double>(steps));
  for (const auto& [own, name] : parts)
    Log("step_profile:%-9s %10.3f ms %5.1f%%", name.c_str(), 1e3 * own / static_cast<double>(steps),
        100 * own / seconds);
}

}  // namespace fairway
