#include "common/submission/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "tests/common/submission/finished_run.h"
#include "tests/common/submission/temporary.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class ComparisonTest : public testing::Test {
 protected:
  ComparisonTest() : folder_(TemporaryRoot() + "comparison") { fs::remove_all(folder_); }

  void Add(const std::string& name, int64_t seed, double loss, const std::map<std::string, std::string>& settings = {}) {
    FakeRun run;
    run.seed = seed;
    run.val_loss = loss;
    for (const auto& [setting, value] : settings) run.settings[setting] = value;
    run.Write(folder_ + "/" + name);
  }
  template <class Thrown, class Call>
  static std::string MessageOf(Call call) {
    try {
      call();
    } catch (const Thrown& error) {
      return error.what();
    }
    return "nothing was thrown";
  }
  const std::string folder_;
};

TEST_F(ComparisonTest, FindsARunOrItsSeeds) {
  Add("seed-42", 42, 2);
  Add("seed-7", 7, 2);
  Add("wide-seed-9", 9, 2);
  fs::create_directories(folder_ + "/submission");
  const auto seeds = [&](const std::string& name) {
    std::vector<int64_t> found;
    for (const FinishedRun& run : FindRuns(folder_ + name)) found.push_back(run.seed());
    return found;
  };
  EXPECT_THAT(seeds("/seed-42"), ElementsAre(42));
  EXPECT_THAT(seeds(""), ElementsAre(7, 42));
  EXPECT_THAT(seeds("/wide"), ElementsAre(9));
  EXPECT_THAT(MessageOf<IoError>([&] { FindRuns(folder_ + "/narrow"); }), HasSubstr("narrow: is no run, and there are none "));
}

TEST_F(ComparisonTest, ASeedThatIsUnderWayHidesNoOther) {
  Add("seed-42", 42, 2);
  Add("seed-7", 7, 2);
  fs::remove(folder_ + "/seed-7/eval.json");
  fs::create_directories(folder_ + "/seed-8");
  const std::vector<FinishedRun> found = FindRuns(folder_);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].seed(), 42);
  fs::remove(folder_ + "/seed-42/eval.json");
  EXPECT_THAT(MessageOf<IoError>([&] { FindRuns(folder_); }), HasSubstr("is no run, and there are none "));
}

TEST_F(ComparisonTest, ShowsWhatDiffersAndHowLikelyThatIsChance) {
  Add("seed-1", 1, 2.00);
  Add("seed-2", 2, 2.02);
  Add("wide-seed-1", 1, 1.90, {{"model_dim", "640"}});
  Add("wide-seed-2", 2, 1.92, {{"model_dim", "640"}, {"matrix_lr", "0.03"}});
  const std::vector<FinishedRun> a = FindRuns(folder_), b = FindRuns(folder_ + "/wide");
  const RunComparison comparison = CompareRuns(a, b);
  EXPECT_THAT(comparison.settings, ElementsAre(ElementsAre("setting", "A", "B"), ElementsAre("matrix_lr", "0.02", "0.02, 0.03"),
                                               ElementsAre("model_dim", "512", "640")));
  EXPECT_NEAR(comparison.val_bpb.mean_b - comparison.val_bpb.mean_a, FakeRun::BitsPerByte(-0.1), 1e-12);
  // Two groups of two with one spread: two degrees of freedom, t = 0.1 / 0.01 · 1 / sqrt 2.
  const double t = 0.1 / std::sqrt(2 * 0.0002 / 2);
  ASSERT_TRUE(comparison.val_bpb.p_value);
  EXPECT_NEAR(*comparison.val_bpb.p_value, 1 - t / std::sqrt(2 + t * t), 1e-9);
  EXPECT_THAT(comparison.results[1], ElementsAre("seeds", "2", "2"));
  EXPECT_THAT(comparison.results[3], ElementsAre("nats per token", "2.010000 (sd 0.014142)", "1.910000 (sd 0.014142)"));

  // Scores that were computed in other ways are shown as such.
  std::vector<FinishedRun> mixed = {a.front()};
  mixed[0].eval["ngram_order"] = 3;
  mixed[0].eval["method"] = "ttt";
  EXPECT_THAT(CompareRuns({a.front()}, mixed).settings, ElementsAre(ElementsAre("setting", "A", "B"), ElementsAre("eval: method", "sliding", "ttt"),
                                                                    ElementsAre("eval: ngram_order", "", "3")));

  const RunComparison single = CompareRuns({a.front()}, {b.front()});
  EXPECT_FALSE(single.val_bpb.p_value);
  EXPECT_THAT(single.results[3], ElementsAre("nats per token", "2.000000", "1.900000"));

  const std::string pictures = folder_ + "/not/there yet";
  DrawComparison(pictures, a, b);
  const std::string svg(InputFile(pictures + "/loss-curve.svg").text());
  for (const char* label : {"A, seed 1, training", "A, seed 2, training", "B, seed 1, training", "B, seed 2, training"})
    EXPECT_THAT(svg, HasSubstr(label));
}

// Of three seeds the median; one that never did is the slowest.
TEST_F(ComparisonTest, SaysWhenEachReachedTheOthersScore) {
  for (int seed : {1, 2, 3}) Add("seed-" + std::to_string(seed), seed, 2.2), Add("fast-seed-" + std::to_string(seed), seed, 2.0);
  const std::vector<FinishedRun> a = FindRuns(folder_);
  std::vector<FinishedRun> b = FindRuns(folder_ + "/fast");
  const auto seconds = [&] {
    const RunComparison comparison = CompareRuns(a, b);
    return *std::ranges::find(comparison.results, "seconds to the other's bits per byte", [](const auto& row) { return row[0]; });
  };
  // Before quantisation 1.2119 in the end, after 12 s; FakeRun::BitsPerByte(2.2) is 1.2696.
  EXPECT_THAT(seconds(), ElementsAre(testing::_, "not reached", "12.0"));
  b[0].log.validation = {{10, 3, 1.27, 2000}, {20, 2, 1.26, 4000}, {30, 2, 1.2, 6000}};
  b[1].log.validation.clear();
  EXPECT_THAT(seconds(), ElementsAre(testing::_, "not reached", "12.0"));
  b[2].log.validation = {{10, 2, 1.2, 2500}};
  EXPECT_THAT(seconds(), ElementsAre(testing::_, "not reached", "4.0"));
  EXPECT_THAT(CompareRuns({a[0]}, {b[0]}).results, testing::Contains(ElementsAre("seconds of training", "12.0", "12.0")));
}

TEST_F(ComparisonTest, TakesPublicLogsOnEitherSide) {
  Add("ours/seed-1", 1, 2.00, {{"matrix_lr", "0.02"}});
  MakeDirectories(folder_ + "/theirs");
  const auto log = [](int seed, double bpb) {
    return StringPrintf(
        "Hyperparameters:\n  matrix_lr: 0.026\n  seed: %d\nval_tokens: 40540160\n0/20000 val_loss: 9.0090 val_bpb: 3.4877\n"
        "500/20000 train_loss: 3.3342 train_time: 0.8m tok/s: 8242436\nstopping_early: wallclock_cap train_time: 588000ms step: 4900/20000\n"
        "quantized_sliding_window val_loss:%.4f val_bpb:%.4f eval_time:84115ms\n",
        seed, bpb * 2.583, bpb);
  };
  WriteFile(folder_ + "/theirs/train_seed1.log", log(1, 1.08));
  WriteFile(folder_ + "/theirs/train_seed2.log", log(2, 1.09));
  WriteFile(folder_ + "/theirs/copy.log", log(2, 1.09));
  WriteFile(folder_ + "/theirs/notes.txt", "nothing of a run\n");
  const Experiment ours = FindExperiment(folder_ + "/ours"), theirs = FindExperiment(folder_ + "/theirs");
  EXPECT_EQ(ours.runs.size(), 1u);
  ASSERT_EQ(theirs.logs.size(), 2u);
  EXPECT_EQ(theirs.logs[1].label, "train_seed1.log, seed 1");
  const RunComparison comparison = CompareExperiments(ours, theirs);
  EXPECT_THAT(comparison.settings, ElementsAre(ElementsAre("setting", "A", "B"), ElementsAre("matrix_lr", "0.02", "0.026")));
  EXPECT_THAT(comparison.results[1], ElementsAre("runs", "1", "2"));
  EXPECT_THAT(comparison.results[2], ElementsAre("bits per byte, last score", testing::_, "1.085000 (sd 0.007071)"));
  EXPECT_THAT(comparison.results[5], ElementsAre("milliseconds per step", testing::_, "120.00 (sd 0.00)"));
  EXPECT_NEAR(comparison.val_bpb.mean_b, 1.085, 1e-12);
  DrawExperiments(folder_ + "/pictures", ours, theirs);
  const std::string svg(InputFile(folder_ + "/pictures/loss-curve.svg").text());
  for (const char* label : {"A, seed 1, training", "B, train_seed1.log, seed 1, training", "B, copy.log, seed 2, validation"})
    EXPECT_THAT(svg, HasSubstr(label));

  const Experiment one = FindExperiment(folder_ + "/theirs/train_seed2.log");
  ASSERT_EQ(one.logs.size(), 1u);
  EXPECT_THAT(CompareExperiments(one, one).settings, ElementsAre(ElementsAre("setting", "A", "B")));
  EXPECT_THAT(MessageOf<InputError>([&] { FindExperiment(folder_ + "/theirs/notes.txt"); }), HasSubstr("is no training log"));
  EXPECT_THAT(MessageOf<IoError>([&] { FindExperiment(folder_ + "/nowhere"); }), HasSubstr("is no run"));
}

TEST_F(ComparisonTest, RefusesScoresOfOtherText) {
  Add("seed-1", 1, 2);
  std::vector<FinishedRun> a = FindRuns(folder_), b = a;
  b.front().eval["val_digest"] = "other";
  EXPECT_THAT(MessageOf<GateError>([&] { CompareRuns(a, b); }), HasSubstr("its scores are of other text than those of"));
}

// One text under two vocabularies: bits per byte compare, nats per token do not.
TEST_F(ComparisonTest, ComparesOneTextUnderOtherTokens) {
  Add("seed-1", 1, 2);
  std::vector<FinishedRun> a = FindRuns(folder_), b = a;
  for (std::vector<FinishedRun>* runs : {&a, &b}) {
    runs->front().eval["text_digest"] = "one text";
    runs->front().eval["bytes_proved"] = true;
    runs->front().eval["targets_dropped"] = 0;
  }
  b.front().eval["val_digest"] = "other shards";
  b.front().eval["byte_table_digest"] = "other table";
  b.front().eval["byte_sidecar_digest"] = "a sidecar";
  const RunComparison comparison = CompareRuns(a, b);
  EXPECT_EQ(comparison.results[2][0], "bits per byte");
  for (const auto& row : comparison.results) EXPECT_NE(row[0], "nats per token");
  // Any doubt about the text and they do not compare.
  const auto refused = [&](const char* name, const Json& value) {
    std::vector<FinishedRun> doubtful = b;
    doubtful.front().eval[name] = value;
    return MessageOf<GateError>([&] { CompareRuns(a, doubtful); });
  };
  for (const auto& [name, value] :
       std::vector<std::pair<const char*, Json>>{{"text_digest", "another text"}, {"text_digest", Json()}, {"bytes_proved", false}, {"targets_dropped", 3}})
    EXPECT_THAT(refused(name, value), HasSubstr("its scores are of other text than those of")) << name;
}

}  // namespace
}  // namespace fairway
