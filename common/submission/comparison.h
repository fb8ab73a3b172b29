// Two experiments side by side, each of one or several seeds: where their settings differ, what they score, and whether that is
// more than chance.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/submission/run.h"
#include "common/submission/table.h"

namespace fairway {

// The finished runs that a name stands for: that directory, or else its seeds: NAME/seed-* where NAME is a folder, NAME-seed-* beside
// it. In the order of their seeds. Throws IoError where there is none, and as ReadRun does.
std::vector<FinishedRun> FindRuns(const std::string& name);

struct Difference {
  double mean_a, mean_b;
  std::optional<double> p_value;  // that both have one true mean (Welch's t-test, two-sided); needs two seeds of each
};

struct RunComparison {
  Table settings;  // those that differ, seeds aside
  Table results;   // means over the seeds, with standard deviations
  Difference val_bpb;
};

// Throws GateError where their scores are not of the same text: digests of split and byte table. REQUIRES: a run in each.
RunComparison CompareRuns(const std::vector<FinishedRun>& a, const std::vector<FinishedRun>& b);

// Writes the curves of both into `directory` (loss_curve.h), which it makes.
void DrawComparison(const std::string& directory, const std::vector<FinishedRun>& a, const std::vector<FinishedRun>& b);

}  // namespace fairway
