#include "common/submission/record.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <numbers>
#include <set>
#include <tuple>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "common/checkpoint/counter_names.h"
#include "common/submission/bytes.h"
#include "common/submission/clock.h"
#include "common/submission/loss_curve.h"
#include "common/submission/output_folder.h"
#include "common/submission/statistics.h"

namespace fairway {
namespace {

constexpr char kSubmission[] = "submission.json";
const std::string kSeedFolder = "seed-";

std::string Today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc;
  gmtime_r(&now, &utc);
  return StringPrintf("%04d-%02d-%02d", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday);
}

// YYYY-MM-DD, of a day that there is.
bool IsDate(const std::string& date) {
  if (date.size() != 10 || date[4] != '-' || date[7] != '-') return false;
  int64_t year, month, day;
  for (const auto& [at, length, value] : {std::tuple{0, 4, &year}, {5, 2, &month}, {8, 2, &day}}) {
    const std::string digits = date.substr(at, length);
    if (digits.find_first_not_of("0123456789") != std::string::npos || !ParseInt(digits, value)) return false;
  }
  return std::chrono::year_month_day(std::chrono::year(static_cast<int>(year)), std::chrono::month(static_cast<unsigned>(month)),
                                     std::chrono::day(static_cast<unsigned>(day)))
      .ok();
}

// Whether `folder` has a file that only make-submission puts into a record, at its top or in a seed's folder.
bool WrittenHere(const std::string& folder) {
  const auto has = [](const std::filesystem::path& path) {
    std::error_code error;
    return std::filesystem::exists(path / run_file::kLineage, error) || std::filesystem::exists(path / run_file::kEval, error);
  };
  if (has(folder)) return true;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    if (entry->path().filename().string().starts_with(kSeedFolder) && has(entry->path())) return true;
  return false;
}

// What `tool` noted in its lineage, among its settings, or nothing.
std::string NotedBy(const Lineage& lineage, const std::string& tool, const std::string& name) {
  if (lineage.tool == tool) {
    for (const auto& [key, value] : lineage.settings) {
      if (key == name) return value;
    }
  }
  for (const Lineage::Input& input : lineage.inputs) {
    if (std::string value = NotedBy(input.lineage, tool, name); !value.empty()) return value;
  }
  return "";
}

// The programs of a lineage, and what training was given: shards, and what those were made from.
void Origins(const Lineage& lineage, bool given, std::vector<std::pair<std::string, std::string>>& origins) {
  origins.emplace_back("program " + lineage.tool, lineage.source_digest);
  given |= lineage.tool == "train";
  for (const Lineage::Input& input : lineage.inputs) {
    if (given) origins.emplace_back(input.role, input.identity);
    if (!input.lineage.tool.empty()) Origins(input.lineage, given, origins);
  }
}

// Everything that must be the same in all runs of a record, by name.
std::vector<std::pair<std::string, std::string>> Experiment(const FinishedRun& run) {
  std::vector<std::pair<std::string, std::string>> values;
  for (const auto& [name, value] : run.stated) {
    if (name != "seed") values.emplace_back(name, value);
  }
  for (const char* name :
       {"val_digest", "byte_table_digest", "method", "stride", "seq_len", "published_quirks", "precision", "targets", "bytes"}) {
    values.emplace_back(std::string(name) + " of eval.json", run.eval[name].dump());
  }
  for (const char* name : {"byte_sidecar_digest", "text_digest", "bytes_proved", "ttt", "ngram_order", "published_entry", "packed_documents"})  // absent from older files, or where not used
    values.emplace_back(std::string(name) + " of eval.json", run.eval.value(name, Json()).dump());
  Origins(run.lineage, false, values);
  values.emplace_back("the source archive", run.source_digest);
  return values;
}

void CheckOneExperiment(const std::vector<FinishedRun>& runs) {
  std::set<int64_t> seeds;
  for (const FinishedRun& run : runs) {
    if (!seeds.insert(run.seed()).second) {
      throw GateError(
          StringPrintf("%s: seed %jd was given twice", run.directory.c_str(), run.seed()));
    }
  }
  const auto first = Experiment(runs[0]);
  for (const FinishedRun& run : runs) {
    const auto values = Experiment(run);
    for (size_t i = 0; i < std::max(first.size(), values.size()); ++i) {
      if (i < first.size() && i < values.size() && first[i] == values[i]) continue;
      const auto say = [&](const auto& list) {
        return i < list.size() ? list[i].first + " is " + Shorten(list[i].second, 200) : std::string("there is nothing more");
      };
      throw GateError(run.directory + " is another experiment than " + runs[0].directory + ": " + say(values) +
                      " and " + say(first));
    }
  }
}

const FinishedRun& LargestRun(const Record& record) { return *std::ranges::max_element(record.runs, {}, CountedBytes); }

void CheckBudget(const Record& record) {
  if (record.bytes_total <= record.options.budget) return;
  const FinishedRun& largest = LargestRun(record);
  std::vector<std::string> parts;
  for (const ByteLine& line : ByteLedger(largest))
    if (line.counts) parts.push_back(line.what + " " + WithCommas(*line.bytes));
  throw GateError(StringPrintf("%s: over budget by %s bytes: %s > %s", largest.directory.c_str(),
                               WithCommas(record.bytes_total - record.options.budget).c_str(), Join(parts, " + ").c_str(),
                               WithCommas(record.options.budget).c_str()));
}

std::vector<double> Scores(const std::vector<FinishedRun>& runs, const char* name) {
  std::vector<double> scores;
  for (const FinishedRun& run : runs) scores.push_back(run.eval[name].get<double>());
  return scores;
}

std::optional<Comparison> Compare(const Record& record) {
  const auto& [loss, bpb] = std::tie(record.options.baseline_loss, record.options.baseline_bpb);
  if (loss && bpb) throw UsageError("--baseline-loss and --baseline-bpb: give one of them");
  if (!loss && !bpb) return std::nullopt;
  // Nats per token to bits per byte, on this text (pull request 531).
  const Json& eval = record.runs[0].eval;
  const double bpb_per_nat = eval["targets"].get<double>() / eval["bytes"].get<double>() / std::numbers::ln2;
  Comparison comparison;
  comparison.baseline_loss = loss ? *loss : *bpb / bpb_per_nat;
  comparison.baseline_bpb = bpb ? *bpb : *loss * bpb_per_nat;
  comparison.improvement = comparison.baseline_loss - record.val_loss;
  if (record.runs.size() > 1) {
    comparison.p_value = ProbabilityNotBelow(Scores(record.runs, "val_loss"), comparison.baseline_loss - kRequiredNats);
  }
  comparison.qualifies =
      record.runs.size() >= kRequiredSeeds && comparison.p_value && *comparison.p_value < kRequiredProbability;
  return comparison;
}

// By an eval.json, what learns while it scores; empty where nothing does. The field calls it test-time training.
std::string LearningOf(const Json& eval) {
  if (eval.value("method", "") != "ttt") return "";
  const Json ttt = eval.value("ttt", Json::object());
  if (!ttt.contains("ttt_lora_rank")) return "score-first TTT";
  const bool phased = ttt.value("phased_ttt_prefix_docs", "0") != "0";
  return std::string(phased ? "phased " : "") + "score-first TTT with adapters of rank " + ttt["ttt_lora_rank"].get<std::string>();
}

// "11L 512d + XSA4 + EMA + late QAT + score-first TTT": what was on, and by its counters acted.
std::string NameOf(const FinishedRun& run) {
  const Settings& settings = run.settings;
  std::vector<std::string> parts = {
      StringPrintf("%jdL %jdd", settings.num_layers, settings.model_dim)};
  for (const SettingInfo& info : SettingTable()) {
    std::string title(info.title());
    const std::string value = settings.Get(info.name);
    if (title.empty() || value == "0") continue;
    if (const size_t at = title.find('%'); at != std::string::npos) title.replace(at, 1, value);
    parts.push_back(title);
  }
  for (const char* set : kWeightSets) {
    const double share = run.counters.Get(counter::kFinalizePrefix + std::string(set));
    std::string upper = set;
    for (char& c : upper) c = static_cast<char>(std::toupper(c));
    const FinishedRun::Action action = upper == "EMA" ? run.ema() : run.swa();
    if (share > 0 && upper != "LAST" && action.counts()) parts.push_back(upper);
  }
  if (run.late_qat().counts()) parts.push_back("late QAT");
  if (run.counters.Get(counter::kClipRowsSearched) > 0) parts.push_back("clip search");
  // What learns while it is scored is another thing than a model that is scored: the title says so.
  if (const std::string learns = LearningOf(run.eval); !learns.empty()) parts.push_back(learns);
  if (run.eval.contains("ngram_order")) parts.push_back("n-gram mixture of order " + run.eval["ngram_order"].dump());
  return Join(parts, " + ");
}

std::string BlurbOf(const Record& record) {
  const FinishedRun& run = record.runs[0];
  return StringPrintf("%s steps of %s tokens, %.6f bits per byte over %zu seed%s.", WithCommas(run.steps()).c_str(),
                      WithCommas(run.settings.train_batch_tokens).c_str(), record.val_bpb, record.runs.size(),
                      record.runs.size() == 1 ? "" : "s");
}

double Rounded(double value) {
  return std::round(value * 100) / 100;
}

void Copy(const std::string& from, const std::string& to) {
  OutputFile file(to);
  file.Write(InputFile(from).bytes());
  file.Commit();
}

// The runs that lie in a record's folder.
std::vector<FinishedRun> RecordedRuns(const std::string& path) {
  const std::string source = path + "/" + run_file::kSource;
  std::vector<std::string> folders;
  if (!std::filesystem::exists(path + "/" + run_file::kEval)) {
    std::error_code error;
    for (std::filesystem::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error))
      if (const std::string name = entry->path().filename(); name.starts_with(kSeedFolder)) folders.push_back(name);
    if (error) throw IoError(path, error.message());
  }
  if (folders.empty()) return {ReadRecordedRun(path, source)};
  std::vector<FinishedRun> runs;
  for (const std::string& folder : folders) {
    runs.push_back(ReadRecordedRun(path + "/" + folder, source));
    if (folder != kSeedFolder + std::to_string(runs.back().seed()))
      throw InputError(runs.back().directory, "holds the run of seed " + std::to_string(runs.back().seed()));
  }
  return runs;
}

std::string_view TypeOf(const Json& json) {
  if (json.is_number()) return "number";
  if (json.is_string()) return "text";
  if (json.is_boolean()) return "switch";
  return json.is_array() ? "list" : json.is_object() ? "object" : "value";
}

// The value of that name in what `path` says, which must be of the type of `like`.
const Json& Said(const Json& said, const std::string& name, const Json& like, const std::string& path, const std::string& where) {
  if (!said.contains(name)) throw InputError(path, "misses " + where + name);
  const Json& value = said[name];
  if (TypeOf(value) != TypeOf(like)) throw InputError(path, where + name + " is no " + std::string(TypeOf(like)));
  return value;
}

// Throws unless what `path` says is what is shown, field by field. Last digits may differ between the libraries of two machines.
void CheckSaid(const Json& said, const Json& shown, const std::string& path, const std::string& where) {
  const auto same = [](const Json& a, const Json& b) {
    if (a == b) return true;
    if (!a.is_number_float() && !b.is_number_float()) return false;
    const double x = a.get<double>(), y = b.get<double>();
    return std::abs(x - y) <= 1e-9 * std::max(std::abs(x), std::abs(y));
  };
  const auto text = [](const Json& json) { return Shorten(Printable(json.dump()), 100); };
  for (const auto& [name, value] : shown.items()) {
    const Json& claim = Said(said, name, value, path, where);
    if (value.is_object()) {
      CheckSaid(claim, value, path, where + name + ".");
    } else if (!(value.is_number() ? same(claim, value) : claim == value)) {
      throw GateError(path + ": " + where + name + " is " + text(claim) + ", but the record's files make it " + text(value));
    }
  }
  for (const auto& [name, value] : said.items()) {
    if (!shown.contains(name))
      throw GateError(path + ": says " + Shorten(where + name, 100) + ", of which the record's files show nothing");
  }
}

}  // namespace

Record MakeRecord(std::vector<FinishedRun> runs, RecordOptions options) {
  CheckOneExperiment(runs);
  Record record;
  record.options = std::move(options);
  record.runs = std::move(runs);
  const std::vector<double> losses = Scores(record.runs, "val_loss"), bpbs = Scores(record.runs, "val_bpb");
  record.val_loss = Mean(losses);
  record.val_bpb = Mean(bpbs);
  if (record.runs.size() > 1) {
    record.val_loss_std = SampleStandardDeviation(losses);
    record.val_bpb_std = SampleStandardDeviation(bpbs);
  }
  record.bytes_code = record.runs[0].source_bytes;
  for (const FinishedRun& run : record.runs) {
    record.bytes_total = std::max(record.bytes_total, CountedBytes(run));
  }
  CheckBudget(record);
  record.comparison = Compare(record);
  record.hardware = NotedBy(record.runs[0].lineage, "train", "hardware");
  record.pytorch_version = NotedBy(record.runs[0].lineage, "train", "torch.version");
  if (record.options.date.empty()) record.options.date = Today();
  if (!IsDate(record.options.date)) throw UsageError("--date: '" + Shorten(record.options.date, 100) + "' is no date such as 2026-03-31");
  if (record.options.name.empty()) record.options.name = NameOf(record.runs[0]);
  if (record.options.blurb.empty()) record.options.blurb = BlurbOf(record);
  return record;
}

std::vector<std::string> Warnings(const Record& record) {
  std::vector<std::string> lines;
  for (const FinishedRun& run : record.runs) {
    // The set of which most was taken, scored before it was rounded.
    const Json* before = nullptr;
    double share = 0;
    for (const char* set : kWeightSets) {
      const double of_set = run.counters.Get(counter::kFinalizePrefix + std::string(set));
      const auto found = run.before.find(set);
      if (of_set <= share || found == run.before.end()) continue;
      share = of_set;
      before = &found->second["val_bpb_plain"];
    }
    const Json& after = run.eval["val_bpb_plain"];
    if (before == nullptr || !before->is_number() || !after.is_number()) continue;
    const double cost = after.get<double>() - before->get<double>();
    if (cost <= kCostlyRounding) continue;
    lines.push_back(StringPrintf("warning: rounding costs %.3f bits per byte (%.6f before, %.6f from the artifact, both plain): of %s bytes of "
                                 "artifact %s are of tensors kept in floating point, before compression",
                                 cost, before->get<double>(), after.get<double>(), WithCommas(run.artifact.compressed).c_str(),
                                 WithCommas(run.artifact.kept).c_str()));
    if (record.runs.size() > 1) lines.back() += StringPrintf(" (seed %jd)", run.seed());
  }
  return lines;
}

std::string RunPrefix(const Record& record, const FinishedRun& run) {
  return record.runs.size() == 1 ? "" : kSeedFolder + std::to_string(run.seed()) + "/";
}

Json SubmissionJson(const Record& record) {
  const RecordOptions& options = record.options;
  Json seeds = Json::array(), results;
  for (const FinishedRun& run : record.runs) {
    seeds.push_back(run.seed());
    results[std::to_string(run.seed())] = {{"val_loss", run.eval["val_loss"]},
                                           {"val_bpb", run.eval["val_bpb"]},
                                           {"artifact_bytes", run.artifact.compressed},
                                           {"steps", run.steps()},
                                           {"step_avg_ms", Rounded(run.step_ms())}};
  }
  const bool qualifies = record.comparison && record.comparison->qualifies;
  const bool fits = record.bytes_total <= kTrackBytes;
  const std::vector<std::string> outside = OutsideTrack(record.runs);
  Json json = {{"author", options.author},
               {"github_id", options.github_id},
               {"name", options.name},
               {"blurb", options.blurb},
               {"date", options.date},
               {"track", !fits ? "non-record" : qualifies && outside.empty() ? "10min_16mb" : "non-record-16mb"},
               {"val_loss", record.val_loss},
               {"val_bpb", record.val_bpb},
               {"bytes_total", record.bytes_total},
               {"bytes_code", record.bytes_code},
               {"seeds", seeds},
               {"seed_results", results}};
  // What keeps a score that is good enough off the leaderboard, or a record out of both tracks.
  if ((qualifies || !fits) && !outside.empty()) json["track_reasons"] = outside;
  if (const FinishedRun& largest = LargestRun(record); largest.eval.contains("programs")) {
    for (const ByteLine& line : ByteLedger(largest))
      json["bytes_ledger"].push_back({{"what", line.what}, {"bytes", line.bytes ? Json(*line.bytes) : Json()}, {"counts", line.counts}});
  }
  if (record.val_bpb_std) {
    json["val_loss_std"] = *record.val_loss_std;
    json["val_bpb_std"] = *record.val_bpb_std;
  }
  if (record.comparison) {
    json["baseline"] = {{"val_loss", record.comparison->baseline_loss},
                        {"val_bpb", record.comparison->baseline_bpb},
                        {"improvement_nats", record.comparison->improvement},
                        {"required_nats", kRequiredNats}};
    if (record.comparison->p_value) json["baseline"]["p_value"] = *record.comparison->p_value;
    json["baseline"]["qualifies"] = record.comparison->qualifies;
  }
  if (!record.hardware.empty()) json["hardware"] = record.hardware;
  if (!record.pytorch_version.empty()) json["pytorch_version"] = record.pytorch_version;
  return json;
}

Record ReadRecord(const std::string& folder, uint64_t budget) {
  const std::string path = folder + "/" + kSubmission;
  if (std::filesystem::exists(path) && !WrittenHere(folder)) {
    throw InputError(folder, "is not a record written by make-submission: it has no " + std::string(run_file::kLineage) +
                                 "; audit-record compares what any public record claims with its files");
  }
  const Json said = ReadJson(path);
  if (!said.is_object()) throw InputError(path, "is no JSON object");
  RecordOptions options;
  options.budget = budget;
  // What a person said.
  for (const auto& [name, text] : {std::pair{"author", &options.author},
                                   {"github_id", &options.github_id},
                                   {"name", &options.name},
                                   {"blurb", &options.blurb},
                                   {"date", &options.date}}) {
    *text = Said(said, name, "", path, "");
  }
  if (!IsDate(options.date)) throw InputError(path, "date is \"" + Shorten(options.date, 40) + "\", no date such as 2026-03-31");
  if (said.contains("baseline")) {
    const Json& baseline = Said(said, "baseline", Json::object(), path, "");
    options.baseline_bpb = Said(baseline, "val_bpb", 0, path, "baseline.").get<double>();
    if (!(*options.baseline_bpb >= 0 && *options.baseline_bpb <= kMaxScore)) throw InputError(path, "baseline.val_bpb is no score");
  }
  const Json& seeds = Said(said, "seeds", Json::array(), path, "");

  std::vector<FinishedRun> runs = RecordedRuns(folder);
  std::ranges::stable_sort(runs, {}, [&](const FinishedRun& run) {
    return std::ranges::find(seeds, Json(run.seed())) - seeds.begin();
  });
  const Record record = MakeRecord(std::move(runs), std::move(options));
  CheckSaid(said, SubmissionJson(record), path, "");
  return record;
}

void WriteRecord(const Record& record, const std::string& path) {
  try {
    OutputFolder folder(path, kSubmission);
    const std::string root = folder.temporary() + "/";
    std::vector<Curve> curves;
    for (const FinishedRun& run : record.runs) {
      const std::string from = run.directory + "/", to = root + RunPrefix(record, run);
      MakeDirectories(to);
      for (const char* name : {run_file::kArtifact, run_file::kLineage, run_file::kEval, run_file::kLog}) {
        Copy(from + name, to + name);
      }
      if (!run.samples.empty()) Copy(from + run_file::kSample, to + run_file::kSample);
      if (!run.proof.is_null()) Copy(from + run_file::kProof, to + run_file::kProof);
      for (const auto& [set, scores] : run.before) Copy(from + run_file::Before(set), to + run_file::Before(set));
      curves.push_back({"seed " + std::to_string(run.seed()), run.log});
    }
    Copy(record.runs[0].directory + "/" + run_file::kSource, root + run_file::kSource);
    DrawLossCurve(folder.temporary(), curves);
    WriteFile(root + "README.md", ReadMe(record));
    WriteFile(root + kSubmission, SubmissionJson(record).dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    folder.Commit();
  } catch (const std::filesystem::filesystem_error& error) {
    throw IoError(path, error.code().message());
  }
}

}  // namespace fairway
