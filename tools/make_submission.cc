// make-submission: turns finished runs into a record, or reports why they are not one.
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/submission/record.h"
#include "common/tool/tool.h"

using namespace fairway;

int main(int argc, char** argv) {
  std::string out;
  std::vector<std::string> directories;
  RecordOptions options;
  double baseline_loss = NAN, baseline_bpb = NAN;
  int64_t budget = options.budget;
  bool check = false;
  CommandLine line(
      "make-submission",
      "Makes a record's folder of finished runs, one per seed: artifacts, source, logs, scores, loss curve, "
      "README.md and submission.json. Parts that do not belong together, a record over budget, and techniques that "
      "were claimed but never acted end it with status 5. With --check it writes nothing and checks the submission.json of "
      "finished records against their other files.",
      "make-submission --out submission runs/cpu-demo/seed-1337");
  line.Inputs("RUN_DIR", directories,
              "directory of a finished run; several: the same settings under other seeds; with --check, folders of records");
  line.Option("--out", out, "the record's folder; an older record there is replaced");
  line.Flag("--check", check, "check submission.json of records against their files; of the other options only --budget is allowed");
  line.Option("--author", options.author, "author, for submission.json");
  line.Option("--github-id", options.github_id, "the author's GitHub name");
  line.Option("--name", options.name, "name of the record; otherwise made from its settings");
  line.Option("--blurb", options.blurb, "a sentence about the record; otherwise made from its figures");
  line.Option("--date", options.date, "date, as 2026-03-31; otherwise today");
  line.Option("--baseline-bpb", baseline_bpb, 0, 1e9, "the record to beat, in bits per byte");
  line.Option("--baseline-loss", baseline_loss, 0, 1e9, "the record to beat, in nats per token");
  line.Option("--budget", budget, 0, INT64_MAX, "limit on the bytes of artifact and code together");

  return RunTool(line, argc, argv, [&]() -> Json {
    options.budget = budget;
    if (check) {
      const std::string given = out + options.author + options.github_id + options.name + options.blurb + options.date;
      if (!given.empty() || !std::isnan(baseline_loss) || !std::isnan(baseline_bpb))
        throw UsageError("--check takes what a record says from the record: of the other options only --budget goes with it");
      for (const std::string& folder : directories) ReadRecord(folder, options.budget);
      return {{"tool", "make-submission"}, {"checked", directories}};
    }
    if (out.empty()) throw UsageError("--out is required (see --help)");
    if (!std::isnan(baseline_loss)) options.baseline_loss = baseline_loss;
    if (!std::isnan(baseline_bpb)) options.baseline_bpb = baseline_bpb;
    std::vector<FinishedRun> runs;
    for (const std::string& directory : directories) runs.push_back(ReadRun(directory));
    const Record record = MakeRecord(std::move(runs), options);
    WriteRecord(record, out);

    if (options.author.empty() || options.github_id.empty()) {
      LogLine("submission.json names no author: make submission AUTHOR=NAME GITHUB_ID=NAME (or --author and --github-id)");
    }
    for (const std::string& text : TextLines(SummaryTable(record))) LogLine(text);
    for (const std::string& text : SampleLines(record)) LogLine(text);
    for (const std::string& text : Warnings(record)) LogLine(text);
    LogLine("submission: " + ShellQuote(std::filesystem::absolute(out).lexically_normal().string()));
    Json result = {{"tool", "make-submission"}, {"out", out}};
    result.update(SubmissionJson(record));
    return result;
  });
}
