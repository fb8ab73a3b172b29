#include "common/quantise/budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "common/base/error.h"

namespace fairway {
namespace {

using testing::HasSubstr;

// A coder's sizes: a floor, and so many bytes an octave up to a finest step; `disorder` is a share of the size.
struct Coder {
  double floor = 1000, octave = 12500, finest = 1e-3, ratio = 1, disorder = 0;
  uint64_t operator()(double step) const {
    const double octaves = std::max(-std::log2(std::max(step, finest)), -8.0);
    const double bytes = floor + octave * std::log1p(std::exp2(octaves));
    const double noise = disorder * std::sin(1e4 * octaves);
    return static_cast<uint64_t>(ratio * bytes * (1 + noise));
  }
};

TEST(FindStep, MeetsEveryBudgetFromBelow) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> share(0, 1);
  for (int i = 0; i < 500; ++i) {
    Coder fast, shipped;
    shipped.ratio = 0.95 + 0.1 * share(random);
    fast.disorder = shipped.disorder = 3e-4;
    const double low = static_cast<double>(shipped(1e30)), high = static_cast<double>(shipped(0));
    const auto budget = static_cast<uint64_t>(1.01 * low + share(random) * (0.99 * high - 1.01 * low));
    int packed = 0;
    const FoundStep found = FindStep(budget, std::exp2(20 * share(random) - 10), fast, [&](double step) {
      ++packed;
      return shipped(step);
    });
    EXPECT_EQ(found.bytes, shipped(found.step));
    EXPECT_LE(found.bytes, budget);
    EXPECT_GE(found.bytes, (1 - kBudgetShare) * budget) << i;
    EXPECT_LE(packed, 12);
  }
}

TEST(FindStep, ComesAsCloseAsIsAskedWhereSizesAreExact) {
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> share(0, 1);
  for (int i = 0; i < 200; ++i) {
    Coder coder;
    coder.disorder = 3e-5;
    const auto budget = static_cast<uint64_t>((0.05 + 0.9 * share(random)) * static_cast<double>(coder(0)));
    int sizes = 0;
    const auto exact = [&](double step) {
      ++sizes;
      return coder(step);
    };
    const FoundStep found = FindStep(budget, std::exp2(20 * share(random) - 10), exact, exact, kExactBudgetShare);
    EXPECT_LE(found.bytes, budget);
    EXPECT_GE(found.bytes, (1 - kExactBudgetShare) * budget) << i;
    EXPECT_LE(sizes, 25);
  }
}

// Sizes that jump by a third of a percent wherever the step changes at all.
TEST(FindStep, LooksBesideAJumpWhereNoStepOnItFits) {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> share(0.1, 0.9);
  const Coder coder;
  const auto jumps = [&](double step) {
    const auto place = static_cast<uint64_t>(1e4 * (std::log2(std::max(step, coder.finest)) + 20));
    std::mt19937_64 own(place);
    return static_cast<uint64_t>(static_cast<double>(coder(step)) * (1 + 0.0033 * static_cast<double>(own() % 2)));
  };
  for (int i = 0; i < 200; ++i) {
    const auto budget = static_cast<uint64_t>(share(random) * static_cast<double>(coder(0)));
    const FoundStep found = FindStep(budget, 1, jumps, jumps);
    EXPECT_LE(found.bytes, budget);
    EXPECT_GE(found.bytes, (1 - kBudgetShare) * budget) << i;
  }
}

TEST(FindStep, TakesTheFinestWhereThereIsRoom) {
  const Coder coder;
  EXPECT_EQ(FindStep(coder(0), 1, coder, coder).step, 0);
  EXPECT_EQ(FindStep(10 * coder(0), 1, coder, coder).step, 0);
  EXPECT_GT(FindStep(coder(0) - 1, 1, coder, coder).step, 0);
}

TEST(FindStep, RefusesWhatCannotBeAndSaysWhatCan) {
  const Coder coder;
  const uint64_t least = coder(1e30);
  EXPECT_EQ(FindStep(least, 1, coder, coder).bytes, least);
  try {
    FindStep(least - 1, 1, coder, coder);
    FAIL();
  } catch (const GateError& error) {
    EXPECT_THAT(error.what(), HasSubstr("do not come within " + std::to_string(least / 1000) + ","));
    EXPECT_THAT(error.what(), HasSubstr("every code zero, has " + std::to_string(least / 1000) + ","));
  }
}

TEST(FindStep, ComesAsCloseAsStepsAllow) {
  // Sizes of 0, 10,000, 20,000 … only.
  const auto coarse = [](double step) { return 10000 * static_cast<uint64_t>(std::clamp(10 - std::log2(std::max(step, 1e-9)), 1.0, 40.0)); };
  EXPECT_EQ(FindStep(125'000, 1, coarse, coarse).bytes, 120'000u);
}

TEST(TargetBytes, IsWhatTheStrongestPlaceSays) {
  Settings settings;
  EXPECT_THROW(TargetBytes(settings, 1000), UsageError);
  settings.Set("code_bytes", "100", Origin::kProfile, "p");
  settings.Set("bits_per_weight", "4", Origin::kProfile, "p");
  EXPECT_EQ(TargetBytes(settings, 1000), 500);
  settings.Set("target_ratio", "0.25", Origin::kEnvironment, "e");
  EXPECT_EQ(TargetBytes(settings, 1000), 1000);
  settings.Set("target_bytes", "700", Origin::kCommandLine, "c");
  EXPECT_EQ(TargetBytes(settings, 1000), 600);
  settings.Set("code_bytes", "700", Origin::kCommandLine, "c");
  EXPECT_THROW(TargetBytes(settings, 1000), UsageError);
  settings.Set("code_bytes", "0", Origin::kCommandLine, "c");
  settings.Set("bits_per_weight", "5", Origin::kCommandLine, "c");
  EXPECT_THROW(TargetBytes(settings, 1000), UsageError);
}

// A model whose token embedding alone takes 128,000 bytes where it is kept.
Settings WithTable(const std::string& keep) {
  Settings s;
  s.vocab_size = 1000;
  s.model_dim = 64;
  s.num_layers = 2;
  s.bigram_vocab_size = 100;
  s.bigram_dim = 16;
  s.keep_max_numel = 1000;
  s.quantiser = "gptq";
  s.fp16_keep_name_patterns = keep;
  return s;
}

TEST(KeptTensors, AreNamedWithTheirBytes) {
  const KeptTensors all = KeptOf(WithTable("tok_emb")), few = KeptOf(WithTable("auto"));
  EXPECT_EQ(all.bytes - few.bytes, 2u * 1000 * 64);
  EXPECT_EQ(all.largest, "tok_emb.weight");
  EXPECT_THAT(all.Text(), HasSubstr("tok_emb.weight alone 128,000"));
  EXPECT_LT(few.bytes, 5000u);
  EXPECT_EQ(CrowdedBudget(all, static_cast<int64_t>(3 * all.bytes)), "");
  EXPECT_THAT(CrowdedBudget(all, static_cast<int64_t>(3 * all.bytes) - 1), HasSubstr("tok_emb.weight alone 128,000, more than a third of the"));
  TensorsInMemory weights("weights");
  const std::vector<float> values(1000 * 64);
  weights.Add({.name = "tok_emb.weight", .shape = {1000, 64}}, values);
  EXPECT_EQ(KeptOf(weights, WithTable("tok_emb")).bytes, 128000u);
  EXPECT_EQ(KeptOf(weights, WithTable("auto")).bytes, 0u);
}

TEST(CheckSize, RefusesWhatKeptTensorsFill) {
  Settings s = WithTable("tok_emb");
  CheckSize(s);  // no size is given
  s.target_bytes = static_cast<int64_t>(KeptOf(s).bytes);
  CheckSize(s);
  s.code_bytes = 1;
  try {
    CheckSize(s);
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("tok_emb.weight alone 128,000: ask for more, or keep fewer of them"));
  }
  s.quantiser = "published";
  CheckSize(s);
  s = WithTable("auto");
  s.target_bytes = 20000;
  CheckSize(s);
}

}  // namespace
}  // namespace fairway
