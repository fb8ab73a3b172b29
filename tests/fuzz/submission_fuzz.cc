// submission.json, of a record that is otherwise whole: read, and compared with the other files.
#include "common/submission/record.h"
#include "tests/common/submission/finished_run.h"
#include "tests/fuzz/fuzz.h"

using namespace fairway;

namespace {

// True where the record's files bear out what it says.
bool Holds(const std::string& record, Json* shown) {
  bool holds = false;
  fuzz::Takes([&] {
    try {
      *shown = SubmissionJson(ReadRecord(record, RecordOptions().budget));
      holds = true;
    } catch (const GateError& error) {
      fuzz::Require(std::string_view(error.what()).size() < 4096, "the message is too long");
    }
  });
  return holds;
}

}  // namespace

FUZZ(input) {
  static const std::string record = [] {
    const std::string folder = fuzz::Folder() + "/record";
    WriteRecord(TwoSeeds(fuzz::Folder()), folder);
    return folder;
  }();
  WriteFile(record + "/submission.json", input);
  if (Json shown, again; Holds(record, &shown)) {
    WriteFile(record + "/submission.json", shown.dump());
    fuzz::Require(Holds(record, &again) && shown == again, "what is shown does not hold");
  }
}
