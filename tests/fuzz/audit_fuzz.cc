// A public record: its submission.json and a log, as audit-record reads them. The first NUL parts the two.
#include <filesystem>

#include "common/audit/audit.h"
#include "common/audit/report.h"
#include "common/base/file.h"
#include "tests/fuzz/fuzz.h"

using namespace fairway;

FUZZ(input) {
  const std::string folder = fuzz::Folder() + "/record";
  std::filesystem::create_directories(folder);
  const size_t part = std::min(input.find('\0'), input.size());
  WriteFile(folder + "/submission.json", input.substr(0, part));
  WriteFile(folder + "/train_seed42.log", input.substr(std::min(part + 1, input.size())));
  const bool taken = fuzz::Takes([&] {
    const Audit audit = AuditFolder(ReadRecordFolder(folder), {});
    fuzz::Require(!audit.findings.empty(), "a record without a verdict");
    for (const std::string& line : AuditLines(audit)) fuzz::Require(IsPrintable(line), "a line that is not printable");
    AuditJson(audit).dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  });
  fuzz::Require(taken, "a record that is refused");
}
