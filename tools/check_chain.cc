// check-chain: which stages of a run have to be made, and whether they may be.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/chain/chain.h"
#include "common/tool/tool.h"

using namespace fairway;

int main(int argc, char** argv) {
  ChainOptions options;
  std::string run;
  bool begin = false, list = false, paths = false;
  CommandLine line(
      "check-chain",
      "Says which stage of a run has to be made next, by comparing what it would be made from (inputs, settings, sources of its "
      "program) with what its product says that it was made from: a line NAME, or NAME afresh, or nothing where all is done. It "
      "writes PROGRAM.settings for that stage. The settings are those of the profile, the run and the environment.",
      "check-chain --profile cpu-demo --goal eval runs/cpu-demo/seed-1337");
  line.Input("RUN_DIR", run, "the run's folder");
  line.Optional();
  line.Option("--profile", options.profile, "settings from this file, or from pipelines/NAME.profile");
  line.Required("--profile");
  line.Option("--goal", options.goal, "the last stage: train, finalize, quantise, pack, eval or submission");
  line.Option("--source-bytes", options.source_bytes, 0, INT64_MAX, "size of the source archive, which TARGET_BYTES counts");
  line.Option("--budget", options.budget, 0, INT64_MAX, "bytes that artifact and code may have together; 0: no limit");
  line.Flag("--again", options.again, "let finished stages be replaced that differ");
  line.Flag("--begin", begin,
            "first refuse (status 2) what would replace a finished stage unasked, or cannot end in a record, and say what is kept");
  line.Flag("--list", list, "print all stages that have to be made, and write nothing");
  line.Flag("--paths", paths, "print data_path, tokenizer_path and byte_table of the profile and the environment instead");

  return RunTool(line, argc, argv, [&]() -> Json {
    if (paths) {
      Settings settings;
      settings.LoadProfile(options.profile);
      settings.LoadEnvironment();
      for (const char* name : {"data_path", "tokenizer_path", "byte_table"}) std::printf("%s = %s\n", name, settings.Get(name).c_str());
      return nullptr;
    }
    if (run.empty() || options.goal.empty()) throw UsageError("RUN_DIR and --goal are required without --paths (see --help)");
    options.run = run;
    const Chain chain(options);
    if (begin)
      for (const std::string& text : chain.Check()) LogLine("check-chain: " + text);
    for (const DueStage& due : chain.Due()) {
      if (begin && !due.why.empty()) LogLine("check-chain: made again: " + due.why);
      std::printf("%s%s\n", due.name.c_str(), due.afresh ? " afresh" : due.none ? " none" : "");
      if (list) continue;
      chain.WriteSettings(due.name);
      break;
    }
    return nullptr;
  });
}
