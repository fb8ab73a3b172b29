// Several seeds, one figure: mean, spread, and whether they beat a baseline by more than chance.
#pragma once

#include <span>

namespace fairway {

double Mean(std::span<const double> values);                     // REQUIRES: at least one
double SampleStandardDeviation(std::span<const double> values);  // over n - 1. REQUIRES: at least two

// One-sample, one-sided t-test: how likely samples whose true mean is not below `bound` come out as low as these.
// Samples without any spread give 0 below the bound and 1 elsewhere. REQUIRES: at least two.
double ProbabilityNotBelow(std::span<const double> samples, double bound);

// Welch's two-sided t-test: how likely two groups of one true mean come out as far apart as these. Groups without any spread give 1
// where they are equal and 0 elsewhere. REQUIRES: at least two in each.
double ProbabilityOfOneMean(std::span<const double> a, std::span<const double> b);

}  // namespace fairway
