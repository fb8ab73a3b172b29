#include "common/submission/comparison.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <set>
#include <system_error>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/checkpoint/counter_names.h"
#include "common/submission/loss_curve.h"
#include "common/submission/statistics.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxPublicLog = 64 << 20;

std::vector<double> Values(const std::vector<FinishedRun>& runs, double (*value)(const FinishedRun&)) {
  std::vector<double> values;
  for (const FinishedRun& run : runs) values.push_back(value(run));
  return values;
}

// Mean, and the standard deviation where there are several.
std::string Summary(std::span<const double> values, int digits) {
  std::string text = StringPrintf("%.*f", digits, Mean(values));
  if (values.size() > 1) text += StringPrintf(" (sd %.*f)", digits, SampleStandardDeviation(values));
  return text;
}

double BitsPerByte(const FinishedRun& run) { return run.eval["val_bpb"].get<double>(); }

double TrainingSeconds(const FinishedRun& run) { return run.counters.Get(counter::kTrainSeconds); }

// The training time, in seconds, after which a validation in training scored `bpb` or better: the median of the runs, of which
// those that never did count as infinitely long.
std::string TimeToScore(const std::vector<FinishedRun>& runs, double bpb) {
  std::vector<double> seconds;
  for (const FinishedRun& run : runs) {
    const auto reached = std::ranges::find_if(run.log.validation, [&](const ValidationPoint& at) { return at.bpb <= bpb && at.train_ms; });
    seconds.push_back(reached == run.log.validation.end() ? std::numeric_limits<double>::infinity() : *reached->train_ms / 1e3);
  }
  std::ranges::sort(seconds);
  const double median = (seconds[(seconds.size() - 1) / 2] + seconds[seconds.size() / 2]) / 2;
  return std::isfinite(median) ? StringPrintf("%.1f", median) : "not reached";
}

// The first digest of what two scores are of that differs, or "".
std::string DifferenceOfTokens(const FinishedRun& a, const FinishedRun& b) {
  for (const char* name : {"val_digest", "byte_table_digest", "byte_sidecar_digest"})
    if (a.eval.value(name, Json()) != b.eval.value(name, Json())) return name;
  return "";
}

// Whether both scored one text whole, though cut into other tokens: then their bits per byte can be compared.
bool ScoreTheSameText(const FinishedRun& a, const FinishedRun& b) {
  for (const FinishedRun* run : {&a, &b})
    if (run->eval.value("bytes_proved", Json()) != true || run->eval.value("targets_dropped", Json()) != 0) return false;
  const Json text = a.eval.value("text_digest", Json());
  return text.is_string() && text == b.eval.value("text_digest", Json());
}

}  // namespace

std::vector<FinishedRun> FindRuns(const std::string& name) {
  if (fs::exists(fs::path(name) / run_file::kTrain)) return {ReadRun(name)};
  const bool folder = fs::is_directory(name);
  const fs::path parent = folder ? fs::path(name) : fs::path(DirectoryOf(name));
  const std::string prefix = folder ? "seed-" : BaseName(name) + "-seed-";
  std::vector<FinishedRun> runs;
  std::error_code error;
  for (fs::directory_iterator entry(parent, error), end; !error && entry != end; entry.increment(error)) {
    int64_t seed;
    const std::string found = entry->path().filename();
    if (!found.starts_with(prefix) || !ParseInt(found.substr(prefix.size()), &seed)) continue;
    try {
      runs.push_back(ReadRun(entry->path()));
    } catch (const Error& cause) {  // a seed that is under way does not hide the others
      LogLine(entry->path().string() + " is left out: " + cause.what());
    }
  }
  if (error) throw IoError(parent, error.message());
  if (runs.empty()) throw IoError(name, "is no run, and there are none " + (parent / prefix).string() + "*");
  std::ranges::sort(runs, {}, &FinishedRun::seed);
  return runs;
}

RunComparison CompareRuns(const std::vector<FinishedRun>& a, const std::vector<FinishedRun>& b) {
  bool same_tokens = true;
  for (const std::vector<FinishedRun>* group : {&a, &b}) {
    for (const FinishedRun& run : *group) {
      const std::string difference = DifferenceOfTokens(run, a.front());
      if (difference.empty()) continue;
      same_tokens = false;
      if (!ScoreTheSameText(run, a.front()))
        throw GateError(run.directory + ": its scores are of other text than those of " + a.front().directory + ": " + difference + " differs");
    }
  }
  RunComparison comparison{.settings = {{"setting", "A", "B"}}, .results = {{"", "A", "B"}}, .val_bpb = {}};
  // A setting that differs within a group is shown with all its values.
  std::map<std::string, std::pair<std::vector<std::string>, std::vector<std::string>>> values;
  const auto note = [&](const std::vector<FinishedRun>& runs, auto side) {
    const auto see = [&](const std::string& name, const std::string& value) {
      if (std::vector<std::string>& seen = values[name].*side; std::ranges::find(seen, value) == seen.end()) seen.push_back(value);
    };
    for (const FinishedRun& run : runs) {
      for (const auto& [name, value] : run.stated)
        if (name != "seed") see(name, value);
      for (const char* name : {"method", "stride", "seq_len", "ttt", "ngram_order"})  // of the evaluation; the last two only where they are used
        if (run.eval.contains(name)) see(std::string("eval: ") + name, run.eval[name].is_string() ? run.eval[name].get<std::string>() : run.eval[name].dump());
    }
  };
  using Sides = std::pair<std::vector<std::string>, std::vector<std::string>>;
  note(a, &Sides::first);
  note(b, &Sides::second);
  for (const auto& [name, sides] : values)
    if (sides.first != sides.second) comparison.settings.push_back({name, Join(sides.first, ", "), Join(sides.second, ", ")});

  const auto row = [&](const char* name, int digits, double (*value)(const FinishedRun&)) {
    comparison.results.push_back({name, Summary(Values(a, value), digits), Summary(Values(b, value), digits)});
  };
  comparison.results.push_back({"seeds", std::to_string(a.size()), std::to_string(b.size())});
  row("bits per byte", 6, BitsPerByte);
  if (same_tokens) row("nats per token", 6, [](const FinishedRun& run) { return run.eval["val_loss"].get<double>(); });
  row("steps", 0, [](const FinishedRun& run) { return static_cast<double>(run.steps()); });
  row("milliseconds per step", 2, [](const FinishedRun& run) { return run.step_ms(); });
  row("seconds of training", 1, TrainingSeconds);
  const std::vector<double> of_a = Values(a, BitsPerByte), of_b = Values(b, BitsPerByte);
  comparison.results.push_back({"seconds to the other's bits per byte", TimeToScore(a, Mean(of_b)), TimeToScore(b, Mean(of_a))});
  row("bytes of the artifact", 0, [](const FinishedRun& run) { return static_cast<double>(run.artifact.compressed); });
  row("bytes in all", 0, [](const FinishedRun& run) { return static_cast<double>(run.artifact.compressed + run.source_bytes); });

  comparison.val_bpb = {Mean(of_a), Mean(of_b), std::nullopt};
  if (a.size() > 1 && b.size() > 1) comparison.val_bpb.p_value = ProbabilityOfOneMean(of_a, of_b);
  return comparison;
}

Experiment FindExperiment(const std::string& name) {
  Experiment experiment;
  std::error_code error;
  const auto add = [&](const std::string& path) {
    const InputFile file(path);
    if (file.bytes().size() > kMaxPublicLog) throw InputError(path, "is larger than " + WithCommas(kMaxPublicLog) + " bytes: no training log");
    PublicRun run{BaseName(path), ParsePublicLog(file.text())};
    if (run.log.seed) run.label += StringPrintf(", seed %.0f", run.log.seed->value);
    return run;
  };
  if (fs::is_regular_file(name, error)) {
    experiment.logs.push_back(add(name));
    if (!experiment.logs[0].log.HasSteps()) throw InputError(name, "is no training log: it has no line of a step");
    return experiment;
  }
  std::vector<std::string> paths;
  std::set<std::string> digests;
  bool run = fs::exists(fs::path(name) / run_file::kTrain, error);
  for (fs::directory_iterator entry(name, error), end; !run && !error && entry != end; entry.increment(error)) {
    const std::string found = entry->path().filename();
    run |= found.starts_with("seed-") && fs::is_directory(entry->path());
    if ((found.ends_with(".log") || found.ends_with(".txt")) && fs::is_regular_file(entry->path())) paths.push_back(entry->path());
  }
  std::ranges::sort(paths);
  for (const std::string& path : paths) {
    if (run) break;
    if (!digests.insert(Sha256Hex(InputFile(path).bytes())).second) continue;
    PublicRun log = add(path);
    if (log.log.HasSteps()) experiment.logs.push_back(std::move(log));
  }
  if (experiment.logs.empty()) experiment.runs = FindRuns(name);
  return experiment;
}

RunComparison CompareExperiments(const Experiment& a, const Experiment& b) {
  if (a.logs.empty() && b.logs.empty()) return CompareRuns(a.runs, b.runs);
  RunComparison comparison{.settings = {{"setting", "A", "B"}}, .results = {{"", "A", "B"}}, .val_bpb = {}};
  using Values = std::map<std::string, std::vector<std::string>>;
  const auto settings = [](const Experiment& side) {
    Values values;
    const auto note = [&](const std::string& name, const std::string& value) {
      if (std::vector<std::string>& seen = values[name]; std::ranges::find(seen, value) == seen.end()) seen.push_back(value);
    };
    for (const FinishedRun& run : side.runs)
      for (const auto& [name, value] : run.stated) note(name, value);
    for (const PublicRun& run : side.logs)
      for (const auto& [name, value] : run.log.settings) note(name, value.text);
    return values;
  };
  // One number or switch in two spellings is one value.
  const auto plain = [](std::vector<std::string> values) {
    for (std::string& value : values) {
      Figure figure;
      size_t length;
      if (value == "True" || value == "true") value = "1";
      if (value == "False" || value == "false") value = "0";
      if (ReadFigure(value, &figure, &length) && length == value.size()) value = ShortestDouble(figure.value);
    }
    std::ranges::sort(values);
    return values;
  };
  const Values of_a = settings(a), of_b = settings(b);
  for (const auto& [name, values] : of_a) {
    const auto other = of_b.find(name);
    if (name == "seed" || other == of_b.end() || plain(values) == plain(other->second)) continue;
    comparison.settings.push_back({name, Join(values, ", "), Join(other->second, ", ")});
  }

  struct Side {
    std::vector<double> bpb, loss, steps, step_ms, bytes, tokens;
  };
  const auto measure = [](const Experiment& of) {
    Side side;
    for (const FinishedRun& run : of.runs) {
      side.bpb.push_back(run.eval["val_bpb"].get<double>());
      side.loss.push_back(run.eval["val_loss"].get<double>());
      side.steps.push_back(static_cast<double>(run.steps()));
      side.step_ms.push_back(run.step_ms());
      side.bytes.push_back(static_cast<double>(run.artifact.compressed));
    }
    for (const PublicRun& run : of.logs) {
      const LoggedScore* last = nullptr;
      for (const LoggedScore& score : run.log.scores)
        if (!last || score.stage >= last->stage) last = &score;
      if (last) side.bpb.push_back(last->bpb.value);
      if (last && last->loss) side.loss.push_back(last->loss->value);
      const double steps = run.log.stop_step ? run.log.stop_step->value : static_cast<double>(run.log.curve.LastStep());
      side.steps.push_back(steps);
      if (const auto& end = run.log.stop_ms ? run.log.stop_ms : run.log.last_ms; end && steps > 0) side.step_ms.push_back(end->value / steps);
      if (run.log.model_bytes) side.bytes.push_back(run.log.model_bytes->value);
      if (run.log.validation_tokens) side.tokens.push_back(run.log.validation_tokens->value);
    }
    return side;
  };
  const Side side_a = measure(a), side_b = measure(b);
  const auto row = [&](const char* name, int digits, std::vector<double> Side::*values) {
    const auto text = [&](const Side& side) { return (side.*values).empty() ? std::string("not stated") : Summary(side.*values, digits); };
    if (!(side_a.*values).empty() || !(side_b.*values).empty()) comparison.results.push_back({name, text(side_a), text(side_b)});
  };
  comparison.results.push_back({"runs", std::to_string(a.runs.size() + a.logs.size()), std::to_string(b.runs.size() + b.logs.size())});
  row("bits per byte, last score", 6, &Side::bpb);
  row("nats per token", 6, &Side::loss);
  row("steps", 0, &Side::steps);
  row("milliseconds per step", 2, &Side::step_ms);
  row("bytes of the artifact", 0, &Side::bytes);
  row("validation tokens", 0, &Side::tokens);
  for (const auto& [side, values] : {std::pair{&a, &side_a}, {&b, &side_b}})
    if (values->bpb.empty()) throw InputError(side->logs[0].label, "has no score in bits per byte");
  comparison.val_bpb = {Mean(side_a.bpb), Mean(side_b.bpb), std::nullopt};
  if (side_a.bpb.size() > 1 && side_b.bpb.size() > 1) comparison.val_bpb.p_value = ProbabilityOfOneMean(side_a.bpb, side_b.bpb);
  return comparison;
}

void DrawExperiments(const std::string& directory, const Experiment& a, const Experiment& b) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) throw IoError(directory, error.message());
  std::vector<Curve> curves;
  for (const auto& [side, of] : {std::pair{"A", &a}, {"B", &b}}) {
    for (const FinishedRun& run : of->runs) curves.push_back({StringPrintf("%s, seed %jd", side, run.seed()), run.log});
    for (const PublicRun& run : of->logs) curves.push_back({std::string(side) + ", " + Printable(run.label), run.log.curve});
  }
  DrawLossCurve(directory, curves);
}

void DrawComparison(const std::string& directory, const std::vector<FinishedRun>& a, const std::vector<FinishedRun>& b) {
  DrawExperiments(directory, {a, {}}, {b, {}});
}

}  // namespace fairway
