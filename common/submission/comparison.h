// Two experiments side by side, each of one or several seeds: where their settings differ, what they score, and whether that is
// more than chance.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/submission/public_log.h"
#include "common/submission/run.h"
#include "common/submission/table.h"

namespace fairway {

// The finished runs that a name refers to: that directory, or else its seeds: NAME/seed-* where NAME is a folder, NAME-seed-* beside
// it. In the order of their seeds. Throws IoError where there is none, and as ReadRun does.
std::vector<FinishedRun> FindRuns(const std::string& name);

// A log of another program, as the field publishes them.
struct PublicRun {
  std::string label;  // its name, and its seed where it states one
  PublicLog log;
};

// What a side of a comparison is: finished runs, or public logs.
struct Experiment {
  std::vector<FinishedRun> runs;
  std::vector<PublicRun> logs;
};

// FindRuns, or else the log that `name` is, or those that lie in the folder `name` (the same bytes once). Throws IoError where
// there is neither, and InputError where a file is no training log.
Experiment FindExperiment(const std::string& name);

struct Difference {
  double mean_a, mean_b;
  std::optional<double> p_value;  // that both have one true mean (Welch's t-test, two-sided); needs two seeds of each
};

struct RunComparison {
  Table settings;  // those that differ, seeds aside
  // Means over the seeds, with standard deviations. "Seconds to the other's bits per byte": the training time after which a validation
  // in training scored as well as the other side's artifacts do; the median of the seeds.
  Table results;
  Difference val_bpb;
};

// Throws GateError where their scores are not of the same text: digests of split and byte table. REQUIRES: a run in each.
RunComparison CompareRuns(const std::vector<FinishedRun>& a, const std::vector<FinishedRun>& b);

// The same where a side is of public logs: their last scores, and settings that both sides print under one name. Whether a log's
// scores are of the same text as another's cannot be seen in it; the numbers of validation tokens are shown.
RunComparison CompareExperiments(const Experiment& a, const Experiment& b);

void DrawExperiments(const std::string& directory, const Experiment& a, const Experiment& b);

// Writes the curves of both into `directory` (loss_curve.h), which it makes.
void DrawComparison(const std::string& directory, const std::vector<FinishedRun>& a, const std::vector<FinishedRun>& b);

}  // namespace fairway
