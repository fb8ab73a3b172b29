#include "common/chain/combinations.h"

#include <algorithm>

#include "common/average/source.h"
#include "common/base/error.h"
#include "common/base/hardware.h"
#include "common/base/text.h"
#include "common/plan/plan.h"
#include "common/quantise/budget.h"
#include "common/quantise/calibration.h"
#include "common/quantise/grid.h"
#include "common/settings/method.h"
#include "common/settings/schedule.h"

namespace fairway {
namespace {

std::string InEnvironment(std::string_view name) { return std::ranges::find(SettingTable(), name, &SettingInfo::name)->Environment(); }

std::string WhyNoLateQat(const Settings& s) { return WhyNeverBelow(s, s.late_qat_threshold, "LATE_QAT_THRESHOLD", s.iterations - 1); }

// Plain evaluation takes batches of whole sequences.
void CheckValidationBatch(const Settings& eval) {
  if (eval.val_batch_size / 8 < eval.train_seq_len)
    throw UsageError(StringPrintf("VAL_BATCH_SIZE = %jd is less than 8 sequences of %s = %jd", eval.val_batch_size,
                                  eval.eval_seq_len > 0 ? "EVAL_SEQ_LEN" : "TRAIN_SEQ_LEN", eval.train_seq_len));
}

// The size that is asked for must be one that a record may have.
void CheckBudget(const Settings& settings, int64_t weights, int64_t budget) {
  if (!HasSize(settings)) return;
  const int64_t artifact = TargetBytes(settings, weights);
  if (budget <= 0 || artifact + settings.code_bytes <= budget) return;
  for (const char* name : {"target_bytes", "target_ratio", "bits_per_weight"})
    if (const std::string value = settings.Get(name); value != "0")
      throw UsageError(StringPrintf("%s = %s asks for %s bytes of artifact and code; a record has %s at most", InEnvironment(name).c_str(), value.c_str(),
                                    WithCommas(artifact + settings.code_bytes).c_str(), WithCommas(budget).c_str()));
}

// What gptq-lite reads of the training checkpoint (common/quantise/calibration.h) must be there.
void CheckTrainingCalibrated(const Settings& train, const Settings& quantise) {
  if (!TrainingCalibrates(quantise)) return;
  const std::string choice = "; CALIBRATION=self calibrates on text that the weights generate";
  const auto refuse = [&](const char* name) {
    throw UsageError(StringPrintf("CALIBRATION = train for %s = %s needs training with it, and training has %s = %s", InEnvironment(name).c_str(), quantise.Get(name).c_str(),
                                  InEnvironment(name).c_str(), train.Get(name).c_str()) + choice);
  };
  if (!HasSize(train) || (quantise.quantiser == "gptq" && train.quantiser == "rtn")) refuse("quantiser");
  if (!TrainingCalibrates(train)) refuse(train.calibration != "train" ? "calibration" : "calibration_windows");
  for (const char* name : kCalibrationSettings)
    if (train.Get(name) != quantise.Get(name)) refuse(name);
}

}  // namespace

void CheckCombinations(const ChainSettings& chain, LastStage last, int64_t budget) {
  if (chain.train.iterations == 0) throw UsageError("ITERATIONS = 0 trains nothing");
  chain.train.CheckTraining(/*world_size=*/1);
  CheckQuantiser(chain.train);
  const int64_t weights = Plan(chain.train).parameters();
  if (chain.train.late_qat_threshold > 0) CheckBudget(chain.train, weights, budget);
  CheckSize(chain.train);
  CheckValidationBatch(chain.train.ForEvaluation());
  if (chain.train.select_tokens > 0 && chain.train.select_tokens <= chain.train.ForEvaluation().train_seq_len)
    throw UsageError(StringPrintf("SELECT_TOKENS = %jd holds no sequence of EVAL_SEQ_LEN = %jd and its last target", chain.train.select_tokens, chain.train.eval_seq_len));
  if (last >= LastStage::kFinalize) CheckSource(chain.train, chain.finalize, WhyNoSnapshot(chain.train));
  if (last >= LastStage::kQuantise) {
    CheckQuantiser(chain.quantise);
    CheckBudget(chain.quantise, weights, budget);
    CheckSize(chain.quantise);
    CheckTrainingCalibrated(chain.train, chain.quantise);
  }
  if (last >= LastStage::kEval) {
    const Settings eval = chain.eval.ForEvaluation();
    CheckMethod(eval, eval.device == "cuda" || (eval.device == "auto" && BuiltWithCuda() && GpuCount() > 0));
    CheckValidationBatch(eval);
  }
}

void CheckDataSizes(const ChainSettings& chain, LastStage first, LastStage last, const DataSizes& data) {
  const Settings &train = chain.train, &quantise = chain.quantise;
  if (first == LastStage::kTrain) {
    const bool late_qat = train.late_qat_threshold > 0 && HasSize(train) && train.calibration_windows > 0;
    const int64_t left = data.train - train.select_tokens;
    if ((TrainingCalibrates(train) || late_qat) && left <= train.calibration_tokens)
      throw UsageError(StringPrintf("CALIBRATION_TOKENS = %jd: the training split has %jd tokens to train on, too few for a window and its last target",
                                    train.calibration_tokens, left));
  }
  const auto check_val = [&](const Settings& eval) {
    if (data.val <= eval.train_seq_len)
      throw UsageError(StringPrintf("%s = %jd: the validation split has %jd tokens, too few for a sequence and its last target",
                                    eval.eval_seq_len > 0 ? "EVAL_SEQ_LEN" : "TRAIN_SEQ_LEN", eval.train_seq_len, data.val));
  };
  if (first == LastStage::kTrain) check_val(train.ForEvaluation());
  if (first <= LastStage::kQuantise && last >= LastStage::kQuantise) {
    if (HasSize(quantise) && quantise.calibration == "shards" && quantise.calibration_windows > 0 && data.train <= quantise.calibration_tokens)
      throw UsageError(StringPrintf("CALIBRATION_TOKENS = %jd: the training split has %jd tokens, too few for a window and its last target",
                                    quantise.calibration_tokens, data.train));
    if (quantise.quantiser == "gptq_sdclip" && data.largest_train_shard <= train.train_seq_len)
      throw UsageError(StringPrintf("QUANTISER = gptq_sdclip calibrates on windows of TRAIN_SEQ_LEN = %jd tokens, and the largest training shard has %jd",
                                    train.train_seq_len, data.largest_train_shard));
  }
  if (first <= LastStage::kEval && last >= LastStage::kEval) {
    const Settings eval = chain.eval.ForEvaluation();
    if (!IsSliding(eval) || (eval.published_quirks && eval.method == "sliding")) check_val(eval);
  }
  if (last == LastStage::kSubmission) check_val(chain.eval.ForEvaluation());  // the averages are scored plainly, for the table
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
