#include "common/audit/report.h"

#include <algorithm>

#include "common/base/file.h"
#include "common/base/text.h"

namespace fairway {
namespace {

std::string NameOf(const Audit& audit) {
  std::string path = audit.folder;
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return Printable(BaseName(path));
}

std::vector<const Finding*> Sorted(const Audit& audit) {
  std::vector<const Finding*> findings;
  for (const Verdict verdict : {Verdict::kContradicted, Verdict::kUnknown, Verdict::kHolds})
    for (const Finding& finding : audit.findings)
      if (finding.verdict == verdict) findings.push_back(&finding);
  return findings;
}

std::string With(const std::string& text, const std::string& at) {
  return Printable(at.empty() ? text : text + " [" + at + "]");
}

}  // namespace

std::vector<std::string> AuditLines(const Audit& audit) {
  std::vector<std::string> lines = {NameOf(audit)};
  for (const Finding* finding : Sorted(audit)) {
    lines.push_back(StringPrintf("  %-14s  %-11s  ", VerdictName(finding->verdict), finding->check.c_str()) +
                    With(finding->claim, finding->claim_at));
    lines.push_back(std::string(31, ' ') + With(finding->files, finding->files_at));
  }
  lines.push_back(StringPrintf("  %zu hold, %zu contradicted, %zu cannot be told", audit.Count(Verdict::kHolds),
                               audit.Count(Verdict::kContradicted), audit.Count(Verdict::kUnknown)));
  return lines;
}

nlohmann::ordered_json AuditJson(const Audit& audit) {
  nlohmann::ordered_json findings = nlohmann::ordered_json::array();
  for (const Finding* finding : Sorted(audit)) {
    findings.push_back({{"verdict", VerdictName(finding->verdict)},
                        {"check", finding->check},
                        {"claim", finding->claim},
                        {"claim_at", finding->claim_at},
                        {"files", finding->files},
                        {"files_at", finding->files_at}});
  }
  return {{"folder", audit.folder},
          {"holds", audit.Count(Verdict::kHolds)},
          {"contradicted", audit.Count(Verdict::kContradicted)},
          {"cannot_be_told", audit.Count(Verdict::kUnknown)},
          {"findings", findings}};
}

Table AuditTable(const std::vector<Audit>& audits, bool whole) {
  Table table = {{"folder", "hold", "contradicted", "cannot be told", "what is contradicted"}};
  for (const Audit& audit : audits) {
    std::vector<std::string> contradicted, sorts;
    for (const Finding& finding : audit.findings) {
      if (finding.verdict != Verdict::kContradicted) continue;
      if (!whole && std::ranges::find(sorts, finding.check) != sorts.end()) continue;
      sorts.push_back(finding.check);
      const auto more = std::ranges::count_if(audit.findings, [&](const Finding& other) {
        return other.verdict == Verdict::kContradicted && other.check == finding.check;
      });
      contradicted.push_back(finding.check + ": " + finding.claim + " - " + finding.files +
                             (finding.files_at.empty() ? "" : " [" + finding.files_at + "]") +
                             (!whole && more > 1 ? StringPrintf(" (and %td more)", more - 1) : ""));
    }
    std::string text = Printable(Join(contradicted, "; "));
    std::ranges::replace(text, '|', '/');
    table.push_back({NameOf(audit), std::to_string(audit.Count(Verdict::kHolds)),
                     std::to_string(audit.Count(Verdict::kContradicted)),
                     std::to_string(audit.Count(Verdict::kUnknown)), text});
  }
  return table;
}

}  // namespace fairway
