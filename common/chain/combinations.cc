#include "common/chain/combinations.h"

#include <algorithm>

#include "common/average/source.h"
#include "common/base/error.h"
#include "common/base/hardware.h"
#include "common/base/text.h"
#include "common/quantise/budget.h"

namespace fairway {
namespace {

// The learning rate scale of the step that begins after `step` steps (common/optim/schedule.h), where steps end the run.
double ScaleByIterations(const Settings& s, int64_t step) {
  if (s.warmdown_iters <= 0 || step < s.iterations - s.warmdown_iters) return 1;
  return static_cast<double>(s.iterations - step) / static_cast<double>(s.warmdown_iters);
}

// Why the SWA has no snapshot; empty where it may have one. A clock may end a run before the first one.
std::string WhyNoSnapshot(const Settings& s) {
  if (s.swa_every > s.iterations) return StringPrintf("SWA_EVERY = %ld is more than ITERATIONS = %ld", s.swa_every, s.iterations);
  if (s.swa_start_frac > 1) return "";
  if (s.warmdown_iters <= 0) return StringPrintf("WARMDOWN_ITERS = %ld keeps the learning rate above SWA_START_FRAC", s.warmdown_iters);
  if (s.max_wallclock_seconds > 0) return "";
  const int64_t last = s.iterations - s.iterations % s.swa_every;  // of all snapshots the one at the lowest scale
  if (ScaleByIterations(s, last - 1) < s.swa_start_frac) return "";
  return StringPrintf("WARMDOWN_ITERS = %ld, SWA_EVERY = %ld and SWA_START_FRAC = %s leave no step for one", s.warmdown_iters, s.swa_every,
                      ShortestDouble(s.swa_start_frac).c_str());
}

std::string WhyNoLateQat(const Settings& s) {
  if (s.late_qat_threshold > 1) return "";
  if (s.warmdown_iters <= 0)
    return StringPrintf("WARMDOWN_ITERS = %ld keeps the learning rate above LATE_QAT_THRESHOLD", s.warmdown_iters);
  if (s.max_wallclock_seconds > 0 || ScaleByIterations(s, s.iterations - 1) < s.late_qat_threshold) return "";
  return StringPrintf("WARMDOWN_ITERS = %ld leaves no step below LATE_QAT_THRESHOLD = %s", s.warmdown_iters,
                      ShortestDouble(s.late_qat_threshold).c_str());
}

void CheckSource(const Settings& train, const Settings& finalize) {
  if (finalize.source == "select") {
    if (train.select_tokens == 0)
      throw UsageError("SOURCE = select needs SELECT_TOKENS above 0: train scores the sources on tokens that it keeps from training");
    return;
  }
  const Source source = ParseSource(finalize.source);
  // The published script takes what there is where no snapshot was taken.
  const bool published = finalize.published_quirks && source.size() == 1 && source[0].set == "swa";
  for (const SourcePart& part : source) {
    if (part.set == "ema" && !train.ema_enabled) throw UsageError("SOURCE = " + finalize.source + " needs the EMA, and EMA_ENABLED = 0");
    if (part.set != "swa" || published) continue;
    if (!train.swa_enabled) throw UsageError("SOURCE = " + finalize.source + " needs the SWA, and SWA_ENABLED = 0");
    if (const std::string cause = WhyNoSnapshot(train); !cause.empty())
      throw UsageError("SOURCE = " + finalize.source + " needs a snapshot of the SWA, and there will be none: " + cause);
  }
}

void CheckEvaluation(const Settings& eval) {
  if (eval.method == "sliding") return;
  const std::string method = "METHOD = " + eval.method;
  if (eval.eval_stride <= 0 || eval.eval_stride >= eval.train_seq_len)
    throw UsageError(StringPrintf("%s needs windows that overlap: EVAL_STRIDE = %ld is not between 1 and TRAIN_SEQ_LEN - 1 = %ld", method.c_str(),
                                  eval.eval_stride, eval.train_seq_len - 1));
  if (eval.published_quirks) throw UsageError(method + " does not go with PUBLISHED_QUIRKS = 1, whose sum is of sliding windows");
  if (eval.method == "kv_cache" && (eval.device == "cuda" || (eval.device == "auto" && BuiltWithCuda() && GpuCount() > 0)))
    throw UsageError(method + " is for a CPU: no keys and values are kept on a GPU; DEVICE=cpu evaluates so");
}

}  // namespace

void CheckCombinations(const ChainSettings& chain, LastStage last) {
  chain.train.CheckModel();
  if (chain.train.iterations == 0) throw UsageError("ITERATIONS = 0 trains nothing");
  CheckQuantiser(chain.train);
  if (chain.train.late_qat_threshold > 0 && HasSize(chain.train)) TargetBytes(chain.train, INT32_MAX);
  if (last >= LastStage::kFinalize) CheckSource(chain.train, chain.finalize);
  if (last >= LastStage::kQuantise) {
    CheckQuantiser(chain.quantise);
    if (HasSize(chain.quantise)) TargetBytes(chain.quantise, INT32_MAX);
  }
  if (last >= LastStage::kEval) CheckEvaluation(chain.eval);
}

std::vector<std::string> IdleTechniques(const Settings& train) {
  std::vector<std::string> lines;
  const auto add = [&](bool on, const std::string& what, const std::string& cause) {
    if (on && !cause.empty()) lines.push_back(what + " will not act: " + cause + "; the record goes without it");
  };
  add(train.swa_enabled, "SWA", WhyNoSnapshot(train));
  add(train.late_qat_threshold > 0, "late QAT", WhyNoLateQat(train));
  return lines;
}

}  // namespace fairway
