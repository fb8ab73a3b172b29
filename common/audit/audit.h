// Reads a public record's folder and reports for each claim whether the record's own files support it.
//
// A verdict is "contradicted" only where a line of the folder says otherwise; what no file shows is "cannot be told".
// Intentions are not judged, and nothing in the folder is executed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/audit/folder.h"

namespace fairway {

enum class Verdict { kHolds, kContradicted, kUnknown };

const char* VerdictName(Verdict verdict);  // "holds", "contradicted", "cannot be told"

struct Finding {
  std::string check;     // "size", "clock", "score", …
  std::string claim;     // what is claimed
  std::string claim_at;  // where: "submission.json:9"; empty for the rules of the track
  std::string files;     // what the files say
  std::string files_at;  // where; several separated by ", "
  Verdict verdict;
};

struct AuditOptions {
  std::optional<double> baseline_loss, baseline_bpb;  // the record to beat: at most one of them
  int64_t limit = 16'000'000;                         // bytes of artifact and code
};

struct Audit {
  std::string folder;
  std::vector<Finding> findings;  // at least one

  size_t Count(Verdict verdict) const;
};

Audit AuditFolder(const RecordFolder& folder, const AuditOptions& options);

}  // namespace fairway
