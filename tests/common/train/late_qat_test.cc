// Late QAT's steps where a budget chooses them: the export's of the same weights, at the budget's size.
#include "common/train/late_qat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/error.h"
#include "common/calibrate/calibrate.h"
#include "common/model/tensors.h"
#include "common/quantise/artifact.h"
#include "common/quantise/export.h"
#include "common/train/train.h"
#include "tests/common/train/corpus.h"

namespace fairway {
namespace {

class LateQatTest : public CorpusTest {
 protected:
  Settings Sized(const std::string& quantiser, const Options& more = {}) const {
    Options options = {{"quantiser", quantiser}, {"bits_per_weight", "6"}, {"calibration_windows", "2"}, {"calibration_tokens", "12"},
                       {"model_dim", "48"}, {"fp16_keep_name_patterns", ""}};
    for (const auto& [name, value] : more) options[name] = value;
    return Make(options);
  }
  ShardSet Shards(const Settings& settings) const { return ShardSet(settings.data_path, "train", settings.vocab_size); }
};

TEST_F(LateQatTest, StepsAreThoseOfTheExportAtTheBudget) {
  for (const Options& options : std::vector<Options>{{{"quantiser", "rtn"}}, {{"quantiser", "gptq"}}, {{"calibration_windows", "0"}}}) {
    const Settings settings = Sized("rtn", options);
    SCOPED_TRACE(settings.quantiser + " " + settings.Get("calibration_windows"));
    const NamedTensors weights = RandomParameters(settings);
    const StepsToTrainOn found = FindStepsToTrainOn(weights, settings, Shards(settings), Communicator::Single());

    std::string content, exported;
    CheckpointWriter writer(&content, Kind::kWeights, {});
    int64_t numel = 0, coded = 0;
    for (const auto& [name, weight] : weights) {
      AddTensor(writer, name, weight);
      numel += weight.numel();
    }
    writer.Finish({}, {});
    const Calibration calibration =
        settings.calibration_windows == 0 ? Calibration() : Calibrate(weights, settings, Shards(settings), [](int64_t, int64_t) {});
    CheckpointWriter out(&exported, Kind::kQuantised, settings.Select(scope::kModel | scope::kQuantise | scope::kEvaluate));
    ExportWeights(CheckpointReader(content, "weights"), settings, calibration, found.step, out);
    out.Finish({}, {});
    // As shipped it is within some percent: the share by which it is less than the coder's fast level says is that of another step.
    const CheckpointReader reader(exported, "exported");
    const auto bytes = static_cast<double>(PackArtifact(reader, kShippedLevels).bytes.size()), budget = 6.0 * static_cast<double>(numel) / 8;
    EXPECT_NEAR(bytes, budget, 0.03 * budget);
    for (const auto& [name, steps] : found.matrices) {
      EXPECT_EQ(reader.Floats(name + ".scale"), steps.rows) << name;
      if (reader.Has(name + ".column")) EXPECT_EQ(reader.Floats(name + ".column"), steps.columns) << name;
      else EXPECT_THAT(steps.columns, testing::Each(1)) << name;
    }
    for (const TensorInfo& info : reader.tensors()) coded += info.quantisation.has_value();
    EXPECT_EQ(coded, static_cast<int64_t>(found.matrices.size()));
  }
}

TEST_F(LateQatTest, ABudgetIsNeededAndMustBePossible) {
  Settings settings = Sized("rtn");
  const NamedTensors weights = RandomParameters(settings);
  const auto find = [&] { FindStepsToTrainOn(weights, settings, Shards(settings), Communicator::Single()); };
  settings.bits_per_weight = 0;
  EXPECT_THROW(find(), UsageError);
  settings.target_bytes = 100;
  EXPECT_THAT([&] { find(); }, testing::ThrowsMessage<GateError>(testing::HasSubstr("tensors kept in floating point take")));
}

TEST_F(LateQatTest, StepsAreFoundWhereLateQatMayBegin) {
  const auto finds = [&](const Options& more) { return FindsSteps(Sized("rtn", more)); };
  EXPECT_TRUE(finds({}));
  EXPECT_FALSE(finds({{"late_qat_threshold", "0"}}));
  EXPECT_FALSE(finds({{"warmdown_iters", "0"}}));
  EXPECT_TRUE(finds({{"warmdown_iters", "0"}, {"late_qat_threshold", "1.0001"}}));
  EXPECT_TRUE(finds({{"warmdown_iters", "0"}, {"warmdown_frac", "0.5"}}));
  EXPECT_FALSE(finds({{"warmdown_frac", "0.5"}, {"min_lr", "0.5"}}));
  // The scale ends at min_lr, and must come below the threshold.
  EXPECT_FALSE(finds({{"warmdown_frac", "0.5"}, {"min_lr", "0.25"}, {"late_qat_threshold", "0.25"}}));
  EXPECT_TRUE(finds({{"warmdown_frac", "0.5"}, {"min_lr", "0.24"}, {"late_qat_threshold", "0.25"}}));
  EXPECT_FALSE(finds({{"published_quirks", "1"}}));
}

// The time that the search takes is kept from steps and is no step's: whatever it takes, late QAT then acts on the steps that follow.
TEST_F(LateQatTest, TimeForItIsKept) {
  const std::string out = folder / "train.ckpt";
  const auto run = [&](const Options& more) {
    Options options = {{"max_wallclock_seconds", "600"}, {"iterations", "6"}, {"warmdown_iters", "1000000000"}, {"calibration", "train"}};
    for (const auto& [name, value] : more) options[name] = value;
    testing::internal::CaptureStderr();
    Train(Sized("gptq", options), out, "", {.tool = "train"});
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_THAT(run({}), testing::AllOf(testing::ContainsRegex("clock: [0-9.]+ s are kept for calibration at the end, [0-9.]+ s to prepare late QAT"),
                                      testing::HasSubstr("quantise_step:")));
  const CheckpointReader checkpoint(out);
  EXPECT_GT(checkpoint.counters().Get(counter::kQatSeconds), 0);
  EXPECT_LT(checkpoint.counters().Get(counter::kQatSeconds), checkpoint.counters().Get(counter::kTrainSeconds));
  EXPECT_EQ(checkpoint.counters().Get(counter::kSteps), 6);
  EXPECT_LE(checkpoint.counters().Get(counter::kQatFirstStep), 1);
  EXPECT_THAT(run({{"calibration", "self"}, {"late_qat_threshold", "0"}}), testing::Not(testing::HasSubstr("are kept")));
  EXPECT_THROW(run({{"max_wallclock_seconds", "0.001"}}), UsageError);
  testing::internal::GetCapturedStderr();
}

// Without late QAT no budget is asked for; with it, before the first step.
TEST_F(LateQatTest, TrainingAsksForTheBudgetBeforeItBegins) {
  const auto trains = [&](const Options& more) {
    Settings settings = Sized("rtn", more);
    settings.iterations = 1;
    Train(settings, folder / "train.ckpt", "", {.tool = "train"});
  };
  EXPECT_THROW(trains({{"bits_per_weight", "0"}}), UsageError);
  trains({{"bits_per_weight", "0"}, {"late_qat_threshold", "0"}});
}

}  // namespace
}  // namespace fairway
