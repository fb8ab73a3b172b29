#include "common/submission/comparison.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "common/submission/loss_curve.h"
#include "common/submission/statistics.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;

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
    if (found.starts_with(prefix) && ParseInt(found.substr(prefix.size()), &seed)) runs.push_back(ReadRun(entry->path()));
  }
  if (error) throw IoError(parent, error.message());
  if (runs.empty()) throw IoError(name, "is no run, and there are none " + (parent / prefix).string() + "*");
  std::ranges::sort(runs, {}, &FinishedRun::seed);
  return runs;
}

RunComparison CompareRuns(const std::vector<FinishedRun>& a, const std::vector<FinishedRun>& b) {
  for (const std::vector<FinishedRun>* group : {&a, &b}) {
    for (const FinishedRun& run : *group) {
      for (const char* name : {"val_digest", "byte_table_digest"}) {
        if (run.eval[name] != a.front().eval[name])
          throw GateError(run.directory + ": its scores are of other text than those of " + a.front().directory + ": " + name + " differs");
      }
    }
  }
  RunComparison comparison{.settings = {{"setting", "A", "B"}}, .results = {{"", "A", "B"}}, .val_bpb = {}};
  // A setting that differs within a group is shown with all its values.
  std::map<std::string, std::pair<std::vector<std::string>, std::vector<std::string>>> values;
  const auto note = [&](const std::vector<FinishedRun>& runs, auto side) {
    for (const FinishedRun& run : runs)
      for (const auto& [name, value] : run.stated)
        if (std::vector<std::string>& seen = values[name].*side; name != "seed" && std::ranges::find(seen, value) == seen.end())
          seen.push_back(value);
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
  row("bits a byte", 6, [](const FinishedRun& run) { return run.eval["val_bpb"].get<double>(); });
  row("nats a token", 6, [](const FinishedRun& run) { return run.eval["val_loss"].get<double>(); });
  row("steps", 0, [](const FinishedRun& run) { return static_cast<double>(run.steps()); });
  row("milliseconds a step", 2, [](const FinishedRun& run) { return run.step_ms(); });
  row("bytes of the artifact", 0, [](const FinishedRun& run) { return static_cast<double>(run.artifact.compressed); });
  row("bytes in all", 0, [](const FinishedRun& run) { return static_cast<double>(run.artifact.compressed + run.source_bytes); });

  const auto bpb = [](const FinishedRun& run) { return run.eval["val_bpb"].get<double>(); };
  const std::vector<double> of_a = Values(a, bpb), of_b = Values(b, bpb);
  comparison.val_bpb = {Mean(of_a), Mean(of_b), std::nullopt};
  if (a.size() > 1 && b.size() > 1) comparison.val_bpb.p_value = ProbabilityOfOneMean(of_a, of_b);
  return comparison;
}

void DrawComparison(const std::string& directory, const std::vector<FinishedRun>& a, const std::vector<FinishedRun>& b) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) throw IoError(directory, error.message());
  std::vector<Curve> curves;
  for (const auto& [side, runs] : {std::pair{"A", &a}, {"B", &b}})
    for (const FinishedRun& run : *runs) curves.push_back({StringPrintf("%s, seed %ld", side, run.seed()), run.log});
  DrawLossCurve(directory, curves);
}

}  // namespace fairway
