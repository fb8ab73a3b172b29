// A record: one experiment under one or several seeds, compared with its budget and with the standing record.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/submission/bytes.h"
#include "common/submission/run.h"
#include "common/submission/table.h"

namespace fairway {

// What a person says about a record; everything else is measured.
struct RecordOptions {
  std::string author, github_id;
  std::string name, blurb;                            // where empty, made from the settings and counters
  std::string date;                                   // 2026-03-31; where empty, today (UTC)
  std::optional<double> baseline_loss, baseline_bpb;  // the standing record's score: at most one of them
  uint64_t budget = kTrackBytes;                      // bytes of all that counts: artifact, code, other people's libraries (bytes.h)
};

// A record must beat the standing one by this, with such a probability of chance, over so many seeds (docs/formats.md,
// submission.json).
inline constexpr double kRequiredNats = 0.005, kRequiredProbability = 0.01;
inline constexpr size_t kRequiredSeeds = 3;

struct Comparison {
  double baseline_loss, baseline_bpb;
  double improvement;             // nats per token
  std::optional<double> p_value;  // that these losses come from a true mean not kRequiredNats better; needs two seeds
  bool qualifies;
};

struct Record {
  RecordOptions options;  // name, blurb and date filled in
  std::vector<FinishedRun> runs;
  double val_loss = 0, val_bpb = 0;  // means over the seeds
  std::optional<double> val_loss_std, val_bpb_std;
  uint64_t bytes_code = 0;   // the source archive as shipped
  uint64_t bytes_total = 0;  // of the largest run: all that counts (bytes.h)
  std::optional<Comparison> comparison;
  std::string hardware, pytorch_version;  // of the training; empty where train noted none
};

// Throws GateError where the runs are not one experiment under distinct seeds (settings, data and code the same), or
// where artifact, code and what else counts are over budget; UsageError for two baselines, or a date that is none.
// REQUIRES: at least one run.
Record MakeRecord(std::vector<FinishedRun> runs, RecordOptions options);

// Where the files of one run are in the record's folder: at its top, or with several seeds in "seed-1337/".
std::string RunPrefix(const Record& record, const FinishedRun& run);

// submission.json (docs/formats.md).
Json SubmissionJson(const Record& record);

// Reads a record's folder and compares its submission.json with its other files: it must agree with SubmissionJson of the runs
// in the folder. What a person stated (author, name, blurb, date, the baseline) is not checked. Throws IoError; InputError where
// a part is missing from submission.json, is of another type, or a file is damaged; GateError where the files contradict it, and
// as MakeRecord does.
Record ReadRecord(const std::string& folder, uint64_t budget);

// What a person should know before they publish it: rounding that costs more than kCostlyRounding. A line each.
inline constexpr double kCostlyRounding = 0.05;  // bits per byte
std::vector<std::string> Warnings(const Record& record);

// Steps, scores and sizes, one column a seed.
Table SummaryTable(const Record& record);

// Texts sampled from the first run's artifact: a line that says how, then the texts, wrapped and indented. Nothing where there is
// none.
std::vector<std::string> SampleLines(const Record& record);

// README.md: all of it is generated, except name and blurb.
std::string ReadMe(const Record& record);

// Writes the record's folder (docs/formats.md lists its files), replacing an older record of that name. Throws IoError,
// InputError (see OutputFolder).
void WriteRecord(const Record& record, const std::string& path);

}  // namespace fairway
