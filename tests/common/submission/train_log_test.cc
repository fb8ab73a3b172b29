#include "common/submission/train_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/base/error.h"
#include "common/base/file.h"

namespace fairway {
namespace {

using testing::HasSubstr;

std::string Refusal(const std::string& text) {
  try {
    ParseTrainLog(text, "train.log");
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

std::vector<int64_t> TrainSteps(const TrainLog& log) {
  std::vector<int64_t> steps;
  for (const TrainPoint& point : log.train) steps.push_back(point.step);
  return steps;
}

TEST(TrainLog, ReadsPublishedLines) {
  const TrainLog log = ParseTrainLog(
      "model_params:27878489\n"
      "seed:1337\n"
      "warmup_step:1/20\n"
      "step:5500/20000 val_loss:1.9427 val_bpb:1.1506 train_time:576327ms step_avg:104.79ms\n"
      "late_qat: enabled at step 55 (scale=0.125000)\n"
      "step:5700/20000 train_loss:1.9548 train_time:596112ms step_avg:104.58ms\n"
      "stopping_early: wallclock_cap train_time:600431ms step:5722/20000\n"
      "final_int8_zlib_roundtrip val_loss:1.9165 val_bpb:1.1351 eval_time:186267ms\n",
      "train.log");
  EXPECT_EQ(log.seed, 1337);
  ASSERT_EQ(log.validation.size(), 1u);
  EXPECT_EQ(log.validation[0].step, 5500);
  EXPECT_EQ(log.validation[0].loss, 1.9427);
  EXPECT_EQ(log.validation[0].bpb, 1.1506);
  ASSERT_EQ(log.train.size(), 1u);
  EXPECT_EQ(log.train[0].loss, 1.9548);
  EXPECT_EQ(log.train[0].train_ms, 596112);
  EXPECT_EQ(log.train[0].step_ms, 104.58);
  EXPECT_EQ(log.LastStep(), 5700);
}

TEST(TrainLog, AllowsFieldsAtTheEndAndAMissingNewline) {
  const TrainLog log = ParseTrainLog(
      "step:1/2 train_loss:6.9 train_time:310ms step_avg:310.20ms data_wait:3ms tokens/s:12\r\n"
      "step:2/2 train_loss:6.8 train_time:620ms step_avg:310.00ms data_wait:3ms",
      "train.log");
  EXPECT_EQ(TrainSteps(log), (std::vector<int64_t>{1, 2}));
}

TEST(TrainLog, AResumedRunReplacesWhatItDidAgain) {
  const TrainLog log = ParseTrainLog(
      "step:0/60 val_loss:6.9 val_bpb:4.0 train_time:0ms step_avg:0.00ms\n"
      "step:10/60 train_loss:5 train_time:10ms step_avg:1.00ms\n"
      "step:20/60 train_loss:4 train_time:20ms step_avg:1.00ms\n"
      "step:20/60 val_loss:4.1 val_bpb:2.5 train_time:20ms step_avg:1.00ms\n"
      "step:25/60 train_loss:3.9 train_time:25ms step_avg:1.00ms\n"
      "step:20/60 train_loss:4.5 train_time:22ms step_avg:1.10ms\n"
      "step:20/60 val_loss:4.2 val_bpb:2.6 train_time:22ms step_avg:1.10ms\n"
      "step:30/60 train_loss:3 train_time:30ms step_avg:1.00ms\n",
      "train.log");
  EXPECT_EQ(TrainSteps(log), (std::vector<int64_t>{10, 20, 30}));
  EXPECT_EQ(log.train[1].loss, 4.5);
  ASSERT_EQ(log.validation.size(), 2u);
  EXPECT_EQ(log.validation[1].loss, 4.2);
}

TEST(TrainLog, ALineThatWasCutOffCountsForNothing) {
  const TrainLog log = ParseTrainLog(
      "step:10/60 train_loss:5 train_time:10ms step_avg:1.00ms\n"
      "step:20/60 train_lo [cut off]\n"
      "seed: [cut off]\n"
      "step:20/60 train_loss:4 train_time:20ms step_avg:1.00ms\n",
      "train.log");
  EXPECT_EQ(TrainSteps(log), (std::vector<int64_t>{10, 20}));
}

TEST(TrainLog, ARunThatStartsAgainReplacesAll) {
  const TrainLog log = ParseTrainLog(
      "seed:1\nstep:1/9 train_loss:5 train_time:1ms step_avg:1ms\nstep:9/9 train_loss:4 train_time:9ms step_avg:1ms\n"
      "step:9/9 val_loss:4.2 val_bpb:2.6 train_time:22ms step_avg:1.10ms\n"
      "seed:2\nstep:0/3 val_loss:7 val_bpb:4 train_time:0ms step_avg:0ms\nstep:1/3 train_loss:6 train_time:1ms "
      "step_avg:1ms\n",
      "train.log");
  EXPECT_EQ(log.seed, 2);
  EXPECT_EQ(TrainSteps(log), std::vector<int64_t>{1});
  ASSERT_EQ(log.validation.size(), 1u);
  EXPECT_EQ(log.validation[0].loss, 7);
}

TEST(TrainLog, RefusesStepLinesThatItCannotRead) {
  EXPECT_EQ(Refusal("seed:1337\nstep:5/9 train_lo"), "train.log: line 2: misses val_loss");
  EXPECT_EQ(Refusal("step:5/9 train_loss:nan train_time:1ms step_avg:1ms"),
            "train.log: line 1: 'train_loss:nan' is not a number");
  EXPECT_EQ(Refusal("step:5/9 train_loss:3 train_time:1s step_avg:1ms"),
            "train.log: line 1: 'train_time:1s' is not a number of ms");
  EXPECT_EQ(Refusal("step:five train_loss:3 train_time:1ms step_avg:1ms"),
            "train.log: line 1: 'step:five' is not a step of a run");
  EXPECT_EQ(Refusal("seed:abc"), "train.log: line 1: 'seed:abc' is not an integer");
  EXPECT_EQ(Refusal(""), "accepted");
}

// The logs of the published script itself.
TEST(TrainLog, ReadsGoldenLogs) {
  const std::string golden = std::string(SHARED_DIR) + "/golden";
  if (!std::filesystem::exists(golden)) GTEST_SKIP() << "skipped: " << golden << " is absent";
  struct Expected {
    const char* name;
    int64_t seed;
    size_t train, validation;
    int64_t last;
    double last_bpb;
  };
  for (const Expected& expected :
       {Expected{"tiny", 1337, 15, 4, 60, 3.2268}, Expected{"tiny_one_thread", 1337, 15, 4, 60, 3.2264},
        Expected{"tiny_bf16", 1337, 15, 4, 60, 3.2256}, Expected{"tiny_warm", 1337, 11, 2, 20, 3.5261},
        Expected{"record_shape_1337", 1337, 4, 1, 4, 5.1090}, Expected{"record_shape_42", 42, 4, 1, 4, 5.0904}}) {
    const std::string path = golden + "/" + expected.name + "/result.json";
    std::string text;
    const nlohmann::json result = nlohmann::json::parse(InputFile(path).text());
    for (const auto& line : result["log"]) text += line.get<std::string>() + "\n";
    const TrainLog log = ParseTrainLog(text, path);
    EXPECT_EQ(log.seed, expected.seed) << path;
    EXPECT_EQ(log.train.size(), expected.train) << path;
    EXPECT_EQ(log.validation.size(), expected.validation) << path;
    EXPECT_EQ(log.LastStep(), expected.last) << path;
    EXPECT_EQ(log.validation.back().bpb, expected.last_bpb) << path;
  }
}

}  // namespace
}  // namespace fairway
