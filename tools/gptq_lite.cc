// gptq-lite: rounds weights to integer codes with one scale per row, as published or to a byte budget.
#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/launch.h"
#include "common/base/live_line.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/calibrate/checkpoint.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/counter_names.h"
#include "common/quantise/artifact.h"
#include "common/quantise/export.h"
#include "common/quantise/grid.h"
#include "common/quantise/search.h"
#include "common/tool/tool.h"

using namespace fairway;

namespace {

void LogTable(const std::vector<ExportedTensor>& tensors) {
  Log("%-32s %-8s %12s %12s %10s %10s  %s", "tensor", "form", "elements", "mse", "rel. error", "bits/code",
      "rows won by each clip percentile");
  for (const ExportedTensor& tensor : tensors) {
    std::vector<std::string> wins;
    if (tensor.rows_searched() > 0) {
      for (const int64_t rows : tensor.wins) wins.push_back(std::to_string(rows));
    }
    Log("%-32s %-8s %12s %12.4g %10.3g %10s  %s", tensor.name.c_str(), tensor.form.c_str(),
        WithCommas(tensor.numel).c_str(), tensor.mean_squared_error(), tensor.relative_error(),
        tensor.coded ? StringPrintf("%.3f", tensor.entropy_bits).c_str() : "", Join(wins, " ").c_str());
  }
}

// How wide steps are beside those that late QAT trained on: the geometric mean over matrices, the least and the most.
struct Drift {
  int64_t matrices = 0;
  double mean = 1, least = INFINITY, most = 0;
};
Drift DriftOf(const std::vector<ExportedTensor>& tensors, const Counters& counters) {
  Drift drift;
  double logs = 0;
  for (const ExportedTensor& tensor : tensors) {
    const std::string trained = counter::kQatWidthPrefix + tensor.name;
    if (tensor.step_width == 0 || !counters.Has(trained)) continue;
    const double ratio = tensor.step_width / counters.Get(trained);
    ++drift.matrices;
    logs += std::log(ratio);
    drift.least = std::min(drift.least, ratio);
    drift.most = std::max(drift.most, ratio);
  }
  if (drift.matrices > 0) drift.mean = std::exp(logs / static_cast<double>(drift.matrices));
  return drift;
}

// Finds the step of `rtn` and `gptq` at which the artifact fills `budget` bytes, from that of late QAT on where there is one.
FoundStep FillBudget(const CheckpointReader& weights, const Settings& settings, const Calibration& calibration, uint64_t budget) {
  const double trained = weights.counters().Get(counter::kQatStep);
  const double guess = trained > 0 ? trained : GuessStep(weights, settings, calibration, budget);
  int measured = 0, packed = 0;
  double packing = 0;
  const auto start = Clock::now();
  Progress bar("searching for the step");
  const FoundStep found = SearchStep(weights, settings, calibration, budget, guess, Sizes::kShipped, [&](const TriedSize& size) {
    bar.Update(0, StringPrintf("%s bytes, budget %s", WithCommas(static_cast<int64_t>(size.bytes)).c_str(), WithCommas(budget).c_str()));
    ++(size.packed ? packed : measured);
    packing += size.packing;
    LogProgress("search: a step of %.6g: %s bytes%s", size.step, WithCommas(static_cast<int64_t>(size.bytes)).c_str(),
        size.packed ? "" : " by the fast level");
  });
  if (const std::string crowded = CrowdedBudget(KeptOf(weights, settings), static_cast<int64_t>(budget)); !crowded.empty()) Log("%s", crowded.c_str());
  Log("budget: %s of %s bytes by a step of %.6g; %d sizes measured in %.1f s, %d packed in %.1f s%s", WithCommas(found.bytes).c_str(),
      WithCommas(budget).c_str(), found.step, measured, SecondsSince(start) - packing, packed, packing,
      found.step == 0 ? "; there is no finer step" : "");
  return found;
}

}  // namespace

int main(int argc, char** argv) {
  std::string in, out, training;
  Settings settings;
  CommandLine line(
      "gptq-lite",
      "Rounds weights to integer codes with one scale per row. QUANTISER=published: int5, int6 and int8, with the clip of least error for "
      "each row; PUBLISHED_QUIRKS=1 adds the published quirks. rtn, gptq: step sizes by what an error costs, so that the artifact fits "
      "TARGET_BYTES, TARGET_RATIO or BITS_PER_WEIGHT, or status 5. gptq_sdclip: error feedback on steps by each row's standard deviation, "
      "with low-rank corrections; it reads training data. "
      "What an error costs was measured in training (CALIBRATION=train, with --training), or is measured on text that the weights generate (self) "
      "or on training data (shards); several ranks share the work of these two, and rank 0 does the rest.",
      "gptq-lite weights.ckpt quantised.ckpt");
  line.Input("IN", in, "checkpoint of weights; - is standard input");
  line.Output("OUT", out, "checkpoint of codes and scales; - is standard output");
  line.Option("--training", training, "training checkpoint that the weights were made of: what CALIBRATION=train reads");
  line.Use(settings, scope::kQuantise);
  line.Inherit(in, [](const std::string& path) { return CheckpointReader(path).settings(); });
  line.Ranks();

  return RunTool(line, argc, argv, [&]() -> Json {
    const CheckpointReader weights(in);
    weights.Expect({Kind::kWeights});
    settings.Adopt(weights.settings(), weights.path());
    CheckQuantiser(settings);
    const bool published = settings.quantiser == "published", sdclip = settings.quantiser == "gptq_sdclip", sized = HasSize(settings);
    for (const std::string_view name : kBatchSettings)
      if (sdclip && settings.origin(name) == Origin::kDefault)
        throw UsageError("QUANTISER=gptq_sdclip calibrates on batches as training had them, and " + std::string(name) + " is not given (or --profile)");
    const Launch launch = ReadLaunch();
    const bool in_training = settings.calibration == "train";
    if (launch.world_size > 1 && (!sized || settings.calibration_windows == 0 || in_training))
      throw UsageError(StringPrintf("QUANTISER=%s%s calibrates nothing that %jd ranks could share: one process does it", settings.quantiser.c_str(),
                                    !sized ? "" : settings.calibration_windows == 0 ? " with CALIBRATION_WINDOWS=0" : " with CALIBRATION=train",
                                    launch.world_size));
    int64_t parameters = 0;
    for (const TensorInfo& info : weights.tensors()) parameters += info.numel();
    const int64_t budget = !sized ? 0 : TargetBytes(settings, parameters);
    if (sized && settings.target_bytes > 0 && budget == settings.target_bytes - settings.code_bytes)
      Log("budget: %s bytes for the artifact: target_bytes = %s less code_bytes = %s (%s)", WithCommas(budget).c_str(),
          WithCommas(settings.target_bytes).c_str(), WithCommas(settings.code_bytes).c_str(), std::string(OriginName(settings.origin("code_bytes"))).c_str());

    const double memory = EstimateExport(weights, settings) + EstimateCheckpointCalibration(settings);
    settings.CheckMemory(memory);
    Log("estimate: memory %.2f GB", std::ceil(memory / 1e7) / 100);

    Counters counters = weights.counters();
    Lineage lineage = OpenLineage("gptq-lite", Version(), SourceDigest(), settings, scope::kQuantise);
    AddInput(lineage, "weights", weights);
    std::optional<CheckpointWriter> writer;
    if (launch.rank == 0) writer.emplace(out, Kind::kQuantised, ExportedSettings(settings));
    std::vector<ExportedTensor> tensors;
    FoundStep found;
    Drift drift;
    std::optional<Progress> bar;
    const auto progress = [&](int64_t done, int64_t of) {
      if (!bar) bar.emplace("calibration", of);
      bar->Update(done);
    };
    if (published) {
      const Progress rounding("rounding the weights");
      tensors = ExportWeights(weights, settings, *writer);
    } else if (sdclip) {
      const auto start = Clock::now();
      int64_t windows = 0;
      const CodedMatrices coded = CodeCheckpoint(weights, settings, lineage, [&](int64_t done, int64_t of) { progress(done, windows = of); });
      bar.reset();
      Log("gptq_sdclip: %zu matrices by %jd windows of %jd tokens in %.1f s", coded.size(), windows, settings.train_seq_len, SecondsSince(start));
      tensors = ExportWeights(weights, settings, coded, *writer);
      counters.Set(counter::kCalibrationTokens, static_cast<double>(windows * settings.train_seq_len));
    } else {
      const auto start = Clock::now();
      const Calibration calibration = CalibrateCheckpoint(weights, training, settings, lineage, progress);
      bar.reset();
      if (settings.calibration_windows > 0)
        Log("calibration: %jd windows of %jd tokens %s in %.1f s", settings.calibration_windows, settings.calibration_tokens,
          in_training                      ? "read from the training checkpoint"
          : settings.calibration == "self" ? "that the weights generated"
                                           : "of training data",
          SecondsSince(start));
      if (launch.rank > 0) return nullptr;
      found = FillBudget(weights, settings, calibration, budget);
      tensors = ExportWeights(weights, settings, calibration, found.step, *writer);
      drift = DriftOf(tensors, counters);
      if (drift.matrices > 0) {
        Log("late QAT: %jd matrices were trained on steps; these are %.4f times as wide (%.4f to %.4f)", drift.matrices, drift.mean,
            drift.least, drift.most);
        counters.Set(counter::kQuantiseDrift, drift.mean);
      }
      counters.Set(counter::kQuantiseStep, found.step);
      counters.Set(counter::kQuantiseBudget, static_cast<double>(budget));
      counters.Set(counter::kQuantiseArtifactBytes, static_cast<double>(found.bytes));
      if (settings.calibration == "shards")
        counters.Set(counter::kCalibrationTokens, static_cast<double>(settings.calibration_windows * settings.calibration_tokens));
    }
    const ExportedTensor total = Total(tensors);
    LogTable(tensors);
    std::map<std::string, int64_t> elements;  // of each form
    for (const ExportedTensor& tensor : tensors) elements[tensor.form] += tensor.numel;

    counters.Set(counter::kQuantiseMse, total.mean_squared_error());
    counters.Set(counter::kQuantiseRelativeError, total.relative_error());
    counters.Set(counter::kQuantiseEntropyBits, total.entropy_bits);
    Json result = {{"tool", "gptq-lite"},
                   {"out", out},
                   {"quantiser", settings.quantiser},
                   {"elements", elements},
                   {"payload_bytes", total.bytes},
                   {"mse", total.mean_squared_error()},
                   {"relative_error", total.relative_error()},
                   {"entropy_bits", total.entropy_bits}};
    if (published) {
      Json wins;
      for (size_t i = 0; i < kClipPercentiles.size(); ++i) {
        counters.Set(counter::ClipWins(kClipPercentiles[i]), total.wins[i]);
        wins[ShortestDouble(kClipPercentiles[i])] = total.wins[i];
      }
      counters.Set(counter::kClipRowsSearched, total.rows_searched());
      result["clip_rows_searched"] = total.rows_searched();
      result["clip_wins"] = wins;
    } else if (sized) {
      result["step"] = found.step;
      result["budget"] = budget;
      result["artifact_bytes"] = found.bytes;
      if (drift.matrices > 0) result["drift"] = drift.mean;
    }
    result["identity"] = writer->Finish(counters, lineage);
    return result;
  });
}
