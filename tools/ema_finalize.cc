// ema-finalize: takes one set of weights out of a training checkpoint.
#include <nlohmann/json.hpp>

#include "common/average/source.h"
#include "common/base/log.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/counter_names.h"
#include "common/tool/tool.h"

using namespace fairway;

int main(int argc, char** argv) {
  std::string in, out;
  bool select = false;
  Settings settings;
  CommandLine line(
      "ema-finalize",
      "Takes one set of weights out of a training checkpoint: the last ones, their moving average (ema), the average "
      "of snapshots (swa), a blend, or the best of these on tokens that were kept out of training (SELECT_TOKENS).",
      "ema-finalize --source swa train.ckpt weights.ckpt");
  line.Input("IN", in, "training checkpoint; - is standard input");
  line.Output("OUT", out, "checkpoint of weights; - is standard output");
  line.Flag("--select", select, "short for --source select");
  line.Use(settings, scope::kFinalize);
  line.Inherit(in, [](const std::string& path) { return CheckpointReader(path).settings(); });

  return RunTool(line, argc, argv, [&]() -> Json {
    const CheckpointReader training(in);
    training.Expect({Kind::kTraining});
    if (select) settings.Set("source", "select", Origin::kCommandLine, "--select");
    settings.Adopt(training.settings(), training.path());
    const Source source = ChooseSource(training, settings);

    CheckpointWriter writer(out, Kind::kWeights,
                            settings.Select(scope::kModel | scope::kFinalize | scope::kQuantise | scope::kEvaluate));
    WriteWeights(training, source, settings.published_quirks, writer);

    Counters counters = training.counters();
    Json shares;
    for (const SourcePart& part : source) {
      counters.Set(counter::kFinalizePrefix + part.set, part.share);
      shares[part.set] = part.share;
    }
    Lineage lineage = OpenLineage("ema-finalize", Version(), SourceDigest(), settings, scope::kFinalize);
    AddInput(lineage, "training checkpoint", training);
    const std::string identity = writer.Finish(counters, lineage);
    Log("ema-finalize: took %s", shares.dump().c_str());
    return {{"tool", "ema-finalize"},
            {"out", out},
            {"source", shares},
            {"ema_updates", static_cast<int64_t>(counters.Get(counter::kEmaUpdates))},
            {"swa_snapshots", static_cast<int64_t>(counters.Get(counter::kSwaSnapshots))},
            {"identity", identity}};
  });
}
