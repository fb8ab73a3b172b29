// make-submission: turns finished runs into a record, or says why they are none.
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

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
  CommandLine line(
      "make-submission",
      "Puts finished runs, one a seed, together as a record's folder: artifacts, source, logs, scores, loss curve, "
      "README.md and submission.json. Parts that do not belong together, a record over budget, and techniques that "
      "were claimed but never acted end it with status 5.",
      "make-submission --out submission runs/cpu-demo/seed-1337");
  line.Inputs("RUN_DIR", directories, "directory of a finished run; several: the same settings under other seeds");
  line.Option("--out", out, "the record's folder; an older record there is replaced");
  line.Required("--out");
  line.Option("--author", options.author, "author, for submission.json");
  line.Option("--github-id", options.github_id, "the author's GitHub name");
  line.Option("--name", options.name, "name of the record; otherwise made from its settings");
  line.Option("--blurb", options.blurb, "a sentence on it; otherwise made from its figures");
  line.Option("--date", options.date, "date, as 2026-03-31; otherwise today");
  line.Option("--baseline-bpb", baseline_bpb, 0, 1e9, "the record to beat, in bits a byte");
  line.Option("--baseline-loss", baseline_loss, 0, 1e9, "the record to beat, in nats a token");
  line.Option("--budget", budget, 0, INT64_MAX, "bytes that artifact and code may have together");

  return RunTool(line, argc, argv, [&]() -> Json {
    options.budget = budget;
    if (!std::isnan(baseline_loss)) options.baseline_loss = baseline_loss;
    if (!std::isnan(baseline_bpb)) options.baseline_bpb = baseline_bpb;
    std::vector<FinishedRun> runs;
    for (const std::string& directory : directories) runs.push_back(ReadRun(directory));
    const Record record = MakeRecord(std::move(runs), options);
    WriteRecord(record, out);

    if (options.author.empty() || options.github_id.empty()) {
      LogLine("submission.json has no author yet: --author and --github-id");
    }
    for (const std::string& text : TextLines(SummaryTable(record))) LogLine(text);
    LogLine("submission: " + ShellQuote(std::filesystem::absolute(out).lexically_normal().string()));
    Json result = {{"tool", "make-submission"}, {"out", out}};
    result.update(SubmissionJson(record));
    return result;
  });
}
