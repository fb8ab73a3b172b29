// gptq-lite: rounds weights to integer codes with one scale a row.
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "common/base/log.h"
#include "common/base/text.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/counter_names.h"
#include "common/quantise/export.h"
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

}  // namespace

int main(int argc, char** argv) {
  std::string in, out;
  Settings settings;
  CommandLine line(
      "gptq-lite",
      "Rounds weights to int5, int6 or int8 codes with one scale a row, searching for each row the clip that errs "
      "least; with COMPAT=1 as published.",
      "gptq-lite weights.ckpt quantised.ckpt");
  line.Input("IN", in, "checkpoint of weights; - is standard input");
  line.Output("OUT", out, "checkpoint of codes and scales; - is standard output");
  line.Use(settings, scope::kQuantise);

  return RunTool(line, argc, argv, [&]() -> Json {
    const CheckpointReader weights(in);
    weights.Expect({Kind::kWeights});
    settings.Adopt(weights.settings(), weights.path());

    const double memory = EstimateExport(weights, settings);
    settings.CheckMemory(memory);
    Log("estimate: memory %.2f GB", std::ceil(memory / 1e7) / 100);

    CheckpointWriter writer(out, Kind::kQuantised,
                            settings.Select(scope::kModel | scope::kQuantise | scope::kEvaluate));
    const std::vector<ExportedTensor> tensors = ExportWeights(weights, settings, writer);
    const ExportedTensor total = Total(tensors);
    LogTable(tensors);
    std::map<std::string, int64_t> elements;  // of each form
    for (const ExportedTensor& tensor : tensors) elements[tensor.form] += tensor.numel;

    Counters counters = weights.counters();
    Json wins;
    for (size_t i = 0; i < kClipPercentiles.size(); ++i) {
      counters.Set(counter::ClipWins(kClipPercentiles[i]), total.wins[i]);
      wins[ShortestDouble(kClipPercentiles[i])] = total.wins[i];
    }
    counters.Set(counter::kClipRowsSearched, total.rows_searched());
    counters.Set(counter::kQuantiseMse, total.mean_squared_error());
    counters.Set(counter::kQuantiseRelativeError, total.relative_error());
    counters.Set(counter::kQuantiseEntropyBits, total.entropy_bits);
    Lineage lineage = OpenLineage("gptq-lite", Version(), SourceDigest(), settings, scope::kQuantise);
    AddInput(lineage, "weights", weights);
    const std::string identity = writer.Finish(counters, lineage);
    return {{"tool", "gptq-lite"},
            {"out", out},
            {"elements", elements},
            {"payload_bytes", total.bytes},
            {"mse", total.mean_squared_error()},
            {"relative_error", total.relative_error()},
            {"entropy_bits", total.entropy_bits},
            {"clip_rows_searched", total.rows_searched()},
            {"clip_wins", wins},
            {"identity", identity}};
  });
}
