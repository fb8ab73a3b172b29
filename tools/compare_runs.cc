// compare-runs: two experiments side by side.
#include <nlohmann/json.hpp>

#include "common/base/log.h"
#include "common/base/text.h"
#include "common/submission/comparison.h"
#include "common/tool/tool.h"

using namespace fairway;

int main(int argc, char** argv) {
  std::string a, b, out;
  CommandLine line("compare-runs",
                   "Shows two experiments side by side: settings that differ, scores, sizes, how likely the difference is chance, and "
                   "all curves in one picture. A and B are directories of finished runs, or what the directories of several seeds "
                   "begin with: runs/cpu-demo/wide for wide-seed-1, wide-seed-2, …; runs/cpu-demo for seed-1, …. Either may be a public training log "
                   "of any of the field's layouts, or a folder of them.",
                   "compare-runs runs/cpu-demo runs/cpu-demo/wide --out comparison");
  line.Input("A", a, "a run, or several seeds of it; a public log, or a folder of them");
  line.Input("B", b, "another one");
  line.Option("--out", out, "folder for loss-curve.svg and loss-curve.png; otherwise nothing is drawn");
  return RunTool(line, argc, argv, [&]() -> Json {
    const Experiment of_a = FindExperiment(a), of_b = FindExperiment(b);
    const RunComparison comparison = CompareExperiments(of_a, of_b);
    LogLine("A: " + a);
    LogLine("B: " + b);
    for (const Table* table : {&comparison.settings, &comparison.results}) {
      LogLine("");
      for (const std::string& text : TextLines(*table)) LogLine(text);
    }
    const Difference& bpb = comparison.val_bpb;
    LogLine("");
    Log("bits per byte, B - A: %+.6f; %s", bpb.mean_b - bpb.mean_a,
        bpb.p_value ? StringPrintf("p = %.3g that both have one mean (Welch's t-test, two-sided)", *bpb.p_value).c_str()
                    : "one seed says nothing about chance: two of each are needed");
    if (!of_a.logs.empty() || !of_b.logs.empty()) LogLine("whether both scored the same text cannot be seen in a public log");
    if (!out.empty()) {
      DrawExperiments(out, of_a, of_b);
      LogLine("curves: " + ShellQuote(out + "/loss-curve.svg"));
    }
    return {{"tool", "compare-runs"},
            {"val_bpb_a", bpb.mean_a},
            {"val_bpb_b", bpb.mean_b},
            {"difference", bpb.mean_b - bpb.mean_a},
            {"p_value", bpb.p_value ? Json(*bpb.p_value) : Json()}};
  });
}
