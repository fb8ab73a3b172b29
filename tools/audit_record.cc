// audit-record: what public records claim, against their own files.
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "common/audit/audit.h"
#include "common/audit/report.h"
#include "common/base/error.h"
#include "common/base/text.h"
#include "common/tool/tool.h"

using namespace fairway;

namespace {

void Print(const std::string& line) {
  std::printf("%s\n", line.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> folders;
  AuditOptions options;
  double baseline_loss = NAN, baseline_bpb = NAN;
  bool json = false, markdown = false;
  CommandLine line("audit-record",
                   "Reads public records' folders (submission.json, logs of any of the field's layouts, README, "
                   "script, artifact: what is there) and "
                   "says of each claim whether it holds by the folder's own files, is contradicted by one of their "
                   "lines, or cannot be told. Nothing "
                   "of a folder is executed. A claim that is contradicted ends it with status 5.",
                   "audit-record records/track_10min_16mb/2026-03-20_11L_EMA");
  line.Inputs("FOLDER", folders, "a record's folder; several: one line each, unless --json is given");
  line.Flag("--json", json, "print one JSON line with every finding instead of text");
  line.Flag("--markdown", markdown, "print the summary, one row per folder, as a table of Markdown");
  line.Option("--baseline-bpb", baseline_bpb, 0, 1e9, "the record to beat, in bits per byte");
  line.Option("--baseline-loss", baseline_loss, 0, 1e9, "the record to beat, in nats per token");
  line.Option("--budget", options.limit, 0, INT64_MAX, "bytes that artifact and code may have together");

  return RunTool(line, argc, argv, [&]() -> Json {
    if (json && markdown) throw UsageError("--json and --markdown exclude each other");
    if (!std::isnan(baseline_loss) && !std::isnan(baseline_bpb))
      throw UsageError("--baseline-bpb and --baseline-loss exclude each other");
    if (!std::isnan(baseline_loss)) options.baseline_loss = baseline_loss;
    if (!std::isnan(baseline_bpb)) options.baseline_bpb = baseline_bpb;
    std::vector<Audit> audits;
    size_t contradicted = 0, among = 0;
    for (const std::string& folder : folders) {
      audits.push_back(AuditFolder(ReadRecordFolder(folder), options));
      const size_t count = audits.back().Count(Verdict::kContradicted);
      contradicted += count;
      among += count > 0;
    }
    if (json) {
      Json result = {{"tool", "audit-record"}, {"records", Json::array()}};
      for (const Audit& audit : audits) result["records"].push_back(AuditJson(audit));
      Print(result.dump(-1, ' ', false, Json::error_handler_t::replace));
    } else if (markdown) {
      std::fputs(Markdown(AuditTable(audits, true)).c_str(), stdout);
    } else if (audits.size() == 1) {
      for (const std::string& text : AuditLines(audits[0])) Print(text);
    } else {
      Table table = AuditTable(audits, false);
      // The last column is as long as it is; it follows the others.
      std::vector<std::string> what;
      for (auto& row : table) {
        what.push_back(Shorten(row.back(), 200));
        row.pop_back();
      }
      const std::vector<std::string> lines = TextLines(table);
      for (size_t i = 0; i < lines.size(); ++i) Print(lines[i] + "  " + what[i]);
    }
    if (std::fflush(stdout) != 0) throw IoError("standard output", "cannot write");
    if (contradicted > 0) {
      throw GateError(StringPrintf("%zu claim%s of %zu record%s %s contradicted by the folder's own files",
                                   contradicted, contradicted == 1 ? "" : "s", among, among == 1 ? "" : "s",
                                   contradicted == 1 ? "is" : "are"));
    }
    return nullptr;
  });
}
