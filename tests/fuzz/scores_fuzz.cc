// eval.json and the scores before quantisation, in a run that is otherwise whole: read, compared, and made a record of.
#include "common/submission/record.h"
#include "tests/common/submission/finished_run.h"
#include "tests/fuzz/fuzz.h"

using namespace fairway;

namespace {

// Reads the run and makes the record's texts; parts that do not belong together are refused too.
void MakeTexts(const std::string& run) {
  fuzz::Takes([&] {
    try {
      const Record record = MakeRecord({ReadRun(run)}, {});
      ReadMe(record);
      SubmissionJson(record).dump(2, ' ', false, Json::error_handler_t::replace);
    } catch (const GateError& error) {
      fuzz::Require(std::string_view(error.what()).size() < 4096, "the message is too long");
    }
  });
}

}  // namespace

FUZZ(input) {
  static const std::string run = [] {
    FakeRun().Write(fuzz::Folder() + "/run");
    return fuzz::Folder() + "/run";
  }();
  for (const std::string name : {run_file::kEval, "before-ema.json"}) {
    static fuzz::MemoryFile file;
    const std::string whole(InputFile(run + "/" + name).text());
    WriteFile(run + "/" + name, input);
    MakeTexts(run);
    WriteFile(run + "/" + name, whole);
  }
}
