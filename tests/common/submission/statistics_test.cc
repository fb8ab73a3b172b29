#include "common/submission/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

namespace fairway {
namespace {

TEST(Statistics, PublishedSeeds) {
  const std::vector<double> bpb = {1.13507850, 1.12977337};
  EXPECT_DOUBLE_EQ(Mean(bpb), 1.132425935);
  // Of two values: their distance over the square root of 2. 1e-15: a few roundings of numbers near 1.
  EXPECT_NEAR(SampleStandardDeviation(bpb), 0.00530513 / std::numbers::sqrt2, 1e-15);
}

// With one and two degrees of freedom the t distribution has a closed form.
TEST(Statistics, AgreesWithClosedForms) {
  const std::vector<double> two = {1.13507850, 1.12977337};
  for (double bound : {1.12, 1.13, 1.132425935, 1.14, 1.2}) {
    const double t = (Mean(two) - bound) / (SampleStandardDeviation(two) / std::sqrt(2.0));
    EXPECT_NEAR(ProbabilityNotBelow(two, bound), 0.5 + std::atan(t) / std::numbers::pi, 1e-12) << bound;
  }
  const std::vector<double> three = {1.1228, 1.1236, 1.1235};
  for (double bound : {1.1, 1.1233, 1.124, 1.1255, 1.13, 1.1351}) {
    const double t = (Mean(three) - bound) / (SampleStandardDeviation(three) / std::sqrt(3.0));
    EXPECT_NEAR(ProbabilityNotBelow(three, bound), 0.5 + t / (2 * std::sqrt(2 + t * t)), 1e-12) << bound;
  }
}

TEST(Statistics, WelchAgreesWithClosedForms) {
  // Groups of two with one spread have two degrees of freedom.
  const std::vector<double> a = {1.0, 1.2};
  for (double distance : {0.0, 0.05, 0.3, 1.0}) {
    const std::vector<double> b = {1.0 + distance, 1.2 + distance};
    const double t = distance / std::sqrt(2 * 0.02 / 2);
    EXPECT_NEAR(ProbabilityOfOneMean(a, b), 1 - t / std::sqrt(2 + t * t), 1e-12) << distance;
    EXPECT_NEAR(ProbabilityOfOneMean(b, a), ProbabilityOfOneMean(a, b), 1e-15);
  }
  // One group without spread: that leaves the other's one degree.
  const std::vector<double> flat = {2.0, 2.0};
  const double t = 0.9 / 0.1;
  EXPECT_NEAR(ProbabilityOfOneMean(a, flat), 1 - 2 * std::atan(t) / std::numbers::pi, 1e-12);
  EXPECT_EQ(ProbabilityOfOneMean(flat, flat), 1);
  EXPECT_EQ(ProbabilityOfOneMean(flat, std::vector<double>{3.0, 3.0}), 0);
}

// The sibling record: three seeds with a mean of 1.1233 against the published 1.1351.
TEST(Statistics, SiblingBeatsThePublishedEntry) {
  const std::vector<double> sibling = {1.1228, 1.1236, 1.1235};
  EXPECT_LT(ProbabilityNotBelow(sibling, 1.13507850), 0.001);
  EXPECT_GT(ProbabilityNotBelow(sibling, 1.1230), 0.5);
}

// The table value t(2 degrees of freedom, 0.99) = 6.9646: such samples stand exactly at p = 0.01.
TEST(Statistics, TableValue) {
  const std::vector<double> samples = {-1, 0, 1};                                  // deviation 1
  EXPECT_NEAR(ProbabilityNotBelow(samples, 6.9646 / std::sqrt(3.0)), 0.01, 1e-6);  // the table has five digits
}

TEST(Statistics, SamplesWithoutSpread) {
  const std::vector<double> same = {1.5, 1.5, 1.5};
  EXPECT_EQ(ProbabilityNotBelow(same, 1.6), 0);
  EXPECT_EQ(ProbabilityNotBelow(same, 1.5), 1);
  EXPECT_EQ(ProbabilityNotBelow(same, 1.4), 1);
}

}  // namespace
}  // namespace fairway
