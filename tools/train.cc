// train: trains a model and writes everything that is needed to continue the run.
#include <nlohmann/json.hpp>

#include "common/base/error.h"
#include "common/base/launch.h"
#include "common/checkpoint/checkpoint.h"
#include "common/plan/plan.h"
#include "common/tool/tool.h"
#include "common/train/train.h"

using namespace fairway;

int main(int argc, char** argv) {
  std::string out, resume;
  bool profile_steps = false, print_plan = false;
  Settings settings;
  CommandLine line("train",
                   "Trains the model on the shards of DATA_PATH. Keeps checkpoints OUT.partial-STEP.ckpt while it runs, writes OUT "
                   "at the end; if it is interrupted, it prints how to continue.",
                   "train --profile tiny --log train.log --out train.ckpt");
  line.Option("--out", out, "training checkpoint to write");
  line.Option("--resume", resume,
              "checkpoint to continue from; newest: the newest partial checkpoint, or a new run if there is none");
  line.Flag("--profile-step", profile_steps, "print at the end how a step's time divides among the operations (first thread)");
  line.Flag("--print-plan", print_plan, "print what the model is as JSON (weights, layers, order of visits, cost per token), and exit");
  line.Use(settings, scope::kModel | scope::kTrain);
  line.Ranks();

  return RunTool(line, argc, argv, [&]() -> Json {
    if (print_plan) {
      settings.CheckModel();
      return Json::parse(Plan(settings).ToJson());
    }
    if (out.empty()) throw UsageError("--out is required (see --help)");
    if (out == "-") throw UsageError("--out: a file is needed; a run keeps checkpoints beside it");
    const Lineage lineage = OpenLineage("train", Version(), SourceDigest(), settings, scope::kModel | scope::kTrain);
    const TrainResult result = Train(settings, out, resume, lineage, profile_steps);
    if (ReadLaunch().rank > 0) return nullptr;
    return {{"tool", "train"},
            {"out", result.path},
            {"finished", result.finished},
            {"steps", result.steps},
            {"train_seconds", result.seconds},
            {"train_loss", result.loss},
            // An interrupted run may not have been validated.
            {"val_loss", result.finished ? Json(result.val_loss) : Json()},
            {"val_bpb", result.finished ? Json(result.val_bpb) : Json()},
            {"identity", result.identity}};
  });
}
