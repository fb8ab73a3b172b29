#include "common/average/source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/error.h"
#include "common/checkpoint/counter_names.h"
#include "tests/common/checkpoint/temporary_folder.h"

namespace fairway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

TEST(ParseSource, TakesPlainNamesAndBlends) {
  for (const char* set : {"last", "ema", "swa"}) {
    const Source source = ParseSource(set);
    ASSERT_EQ(source.size(), 1u);
    EXPECT_EQ(source[0].set, set);
    EXPECT_EQ(source[0].share, 1);
  }
  const Source blend = ParseSource("ema:0.25, swa:0.5,last:0.25");
  ASSERT_EQ(blend.size(), 3u);
  EXPECT_EQ(blend[1].set, "swa");
  EXPECT_EQ(blend[1].share, 0.5);
  EXPECT_EQ(ParseSource("ema:0.3333333,swa:0.6666667").size(), 2u);
}

TEST(ParseSource, TakesAllThatCanBeSelected) {
  EXPECT_THAT(SelectableSources(false, false), ElementsAre("last"));
  EXPECT_THAT(SelectableSources(true, false), ElementsAre("last", "ema", "last:0.5,ema:0.5"));
  EXPECT_THAT(SelectableSources(false, true), ElementsAre("last", "swa", "last:0.5,swa:0.5"));
  EXPECT_EQ(SelectableSources(true, true).size(), 6u);
  for (const std::string& source : SelectableSources(true, true)) EXPECT_NO_THROW(ParseSource(source)) << source;
}

TEST(ParseSource, RefusesTheRest) {
  const auto error_of = [](const char* text) -> std::string {
    try {
      ParseSource(text);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(error_of(""), "source: expected last, ema, swa, or a blend such as ema:0.5,swa:0.5");
  EXPECT_EQ(error_of("everything"), "source: \"everything\" is none of last, ema, swa");
  EXPECT_EQ(error_of("ema:x,swa:0.5"), "source: \"ema:x\" has no number after the colon");
  EXPECT_EQ(error_of("ema:0.5,ema:0.5"), "source: ema is named twice");
  EXPECT_EQ(error_of("ema:0.5,swa:0.6"), "source: the shares of a blend sum to 1.1, not 1");
  EXPECT_EQ(error_of("ema:0.5,swa:0.500002"), "source: the shares of a blend sum to 1.000002, not 1");
  EXPECT_EQ(error_of("ema,swa"), "source: the shares of a blend sum to 2, not 1");
}

// One float32 and one bfloat16 weight. Numbers are chosen so that every rounding shows.
class FinalizeTest : public testing::Test {
 protected:
  CheckpointReader Training(double ema_updates, double snapshots, bool published_quirks) {
    {
      CheckpointWriter writer(folder_ / "train.ckpt", Kind::kTraining, {});
      const DType sum = published_quirks ? DType::kBFloat16 : DType::kFloat32;
      Add(writer, "a", DType::kFloat32, {1, 2});
      Add(writer, "e", DType::kBFloat16, {1, -2});
      Add(writer, "adam_m/a", DType::kFloat32, {7, 7});
      if (ema_updates > 0) {
        Add(writer, "ema/a", DType::kFloat32, {1.1f, 2.1f});
        Add(writer, "ema/e", DType::kFloat32, {1.1f, -2.1f});
      }
      if (snapshots > 0) {
        Add(writer, "swa_sum/a", DType::kFloat32, {1, 2});
        Add(writer, "swa_sum/e", sum, {1, -2});
      }
      Counters counters;
      counters.Set(counter::kSteps, 60);
      counters.Set(counter::kEmaUpdates, ema_updates);
      counters.Set(counter::kSwaSnapshots, snapshots);
      writer.Finish(counters, {});
    }
    return CheckpointReader(folder_ / "train.ckpt");
  }

  static void Add(CheckpointWriter& writer, const std::string& name, DType dtype, const std::vector<float>& values) {
    const TensorInfo info{.name = name, .dtype = dtype, .shape = {static_cast<int64_t>(values.size())}};
    if (dtype == DType::kFloat32) return writer.Add(info, values);
    std::vector<uint16_t> narrow;
    for (const float value : values) narrow.push_back(FloatToBFloat16(value));
    writer.Add(info, narrow);
  }

  CheckpointReader Finalize(const CheckpointReader& training, const std::string& source, bool published_quirks) {
    Settings settings;
    settings.source = source;
    settings.published_quirks = published_quirks;
    testing::internal::CaptureStderr();
    const Source chosen = ChooseSource(training, settings);
    log_ = testing::internal::GetCapturedStderr();
    CheckpointWriter writer(folder_ / "weights.ckpt", Kind::kWeights, {});
    WriteWeights(training, chosen, published_quirks, writer);
    writer.Finish({}, {});
    CheckpointReader weights(folder_ / "weights.ckpt");
    weights.ExpectTensors({"a", "e"});
    return weights;
  }

  std::string ErrorOf(const CheckpointReader& training, const std::string& source, bool published_quirks = false) {
    try {
      Finalize(training, source, published_quirks);
    } catch (const InputError& error) {
      testing::internal::GetCapturedStderr();
      return error.what();
    }
    return "no error";
  }

  TemporaryFolder folder_;
  std::string log_;
};

float Rounded(float value) {
  return BFloat16ToFloat(FloatToBFloat16(value));
}

TEST_F(FinalizeTest, LastKeepsItsBytes) {
  const CheckpointReader weights = Finalize(Training(0, 0, false), "last", false);
  EXPECT_EQ(weights.Find("e").dtype, DType::kBFloat16);
  EXPECT_THAT(weights.Floats("a"), ElementsAre(1, 2));
  EXPECT_THAT(weights.Floats("e"), ElementsAre(1, -2));
  EXPECT_EQ(log_, "");
}

TEST_F(FinalizeTest, AveragesStayFloat32) {
  const CheckpointReader training = Training(60, 3, false);
  const CheckpointReader ema = Finalize(training, "ema", false);
  EXPECT_EQ(ema.Find("e").dtype, DType::kFloat32);
  EXPECT_THAT(ema.Floats("a"), ElementsAre(1.1f, 2.1f));
  EXPECT_THAT(ema.Floats("e"), ElementsAre(1.1f, -2.1f));
  EXPECT_EQ(log_, "ema:applying moving average from 60 steps (decay=0.997)\n");
  const CheckpointReader swa = Finalize(training, "swa", false);
  EXPECT_THAT(swa.Floats("a"), ElementsAre(1.0f / 3, 2.0f / 3));
  EXPECT_THAT(swa.Floats("e"), ElementsAre(1.0f / 3, -2.0f / 3));
  EXPECT_EQ(log_, "swa:applying averaged 3 checkpoints\n");
}

TEST_F(FinalizeTest, BlendsInProportion) {
  const CheckpointReader weights = Finalize(Training(60, 4, false), "last:0.5,ema:0.25,swa:0.25", false);
  // In float64 before the one rounding at the end.
  EXPECT_THAT(weights.Floats("a"), ElementsAre(static_cast<float>(0.5 + 0.25 * 1.1f + 0.25 * 0.25),
                                               static_cast<float>(1 + 0.25 * 2.1f + 0.25 * 0.5)));
  EXPECT_EQ(log_, "ema:applying moving average from 60 steps (decay=0.997)\nswa:applying averaged 4 checkpoints\n");
}

TEST_F(FinalizeTest, PublishedQuirkCastsToTheStorageType) {
  const CheckpointReader weights = Finalize(Training(60, 0, true), "ema", true);
  EXPECT_EQ(weights.Find("e").dtype, DType::kBFloat16);
  EXPECT_THAT(weights.Floats("a"), ElementsAre(1.1f, 2.1f));
  EXPECT_THAT(weights.Floats("e"), ElementsAre(Rounded(1.1f), Rounded(-2.1f)));
}

TEST_F(FinalizeTest, PublishedQuirkLetsSwaReplaceEma) {
  const CheckpointReader weights = Finalize(Training(60, 3, true), "swa", true);
  EXPECT_THAT(weights.Floats("a"), ElementsAre(1.0f / 3, 2.0f / 3));
  EXPECT_THAT(weights.Floats("e"), ElementsAre(Rounded(1.0f / 3), Rounded(-2.0f / 3)));
  EXPECT_EQ(
      log_,
      "ema:applying moving average from 60 steps (decay=0.997)\nswa:applying averaged 3 checkpoints (post-ema)\n");
}

TEST_F(FinalizeTest, PublishedQuirkStaysOnEmaWithOneSnapshot) {
  EXPECT_THAT(Finalize(Training(60, 1, true), "swa", true).Floats("a"), ElementsAre(1.1f, 2.1f));
  EXPECT_EQ(log_, "ema:applying moving average from 60 steps (decay=0.997)\n");
  EXPECT_THAT(Finalize(Training(0, 1, true), "swa", true).Floats("a"), ElementsAre(1, 2));
  EXPECT_EQ(log_, "");
}

// The least loss wins, whatever else the checkpoint counts; a blend is taken in its shares.
TEST_F(FinalizeTest, SelectsByWhatTrainScored) {
  const auto with = [&](const std::vector<std::pair<std::string, double>>& losses) {
    {
      CheckpointWriter writer(folder_ / "selectable.ckpt", Kind::kTraining, {});
      for (const char* prefix : {"", "ema/", "swa_sum/"}) {
        Add(writer, std::string(prefix) + "a", DType::kFloat32, {1, 2});
        Add(writer, std::string(prefix) + "e", DType::kFloat32, {1, 2});
      }
      Counters counters;
      counters.Set(counter::kEmaUpdates, 3);
      counters.Set(counter::kSwaSnapshots, 2);
      counters.Set("loss.last", 0);
      for (const auto& [source, loss] : losses) counters.Set("select." + source, loss);
      writer.Finish(counters, {});
    }
    return CheckpointReader(folder_ / "selectable.ckpt");
  };
  Finalize(with({{"last", 2.5}, {"ema", 2.25}, {"swa", 2.375}, {"ema:0.5,swa:0.5", 2.25}}), "select", false);
  EXPECT_THAT(log_, HasSubstr("select:last loss:2.50000000\nselect:ema loss:2.25000000\n"));
  EXPECT_THAT(log_, HasSubstr("ema:applying moving average"));
  EXPECT_THAT(log_, Not(HasSubstr("swa:applying")));
  const CheckpointReader blend = Finalize(with({{"last", 2.5}, {"ema", 2.25}, {"last:0.5,swa:0.5", 2.125}}), "select", false);
  EXPECT_THAT(blend.Floats("a"), ElementsAre(0.75f, 1.5f));  // of 1 and 1/2, 2 and 2/2
  EXPECT_THAT(ErrorOf(with({}), "select"), HasSubstr("selectable.ckpt: holds no scores to select by: it was trained with select_tokens = 0"));
}

TEST_F(FinalizeTest, RefusesWhatIsNotThere) {
  const CheckpointReader training = Training(0, 0, false);
  EXPECT_THAT(ErrorOf(training, "ema"), HasSubstr("train.ckpt: holds no ema weights: its counter ema.updates is 0"));
  EXPECT_THAT(ErrorOf(training, "swa"), HasSubstr("train.ckpt: holds no swa weights: its counter swa.snapshots is 0"));
  EXPECT_THAT(ErrorOf(training, "last:0.5,swa:0.5"), HasSubstr("counter swa.snapshots is 0"));
}

TEST_F(FinalizeTest, RefusesAverageOfAnotherShape) {
  {
    CheckpointWriter writer(folder_ / "train.ckpt", Kind::kTraining, {});
    Add(writer, "a", DType::kFloat32, {1, 2});
    Add(writer, "ema/a", DType::kFloat32, {1, 2, 3});
    Counters counters;
    counters.Set(counter::kEmaUpdates, 1);
    counters.Set(counter::kSwaSnapshots, 1);
    writer.Finish(counters, {});
  }
  const CheckpointReader training(folder_ / "train.ckpt");
  const auto write = [&](const char* set) {
    CheckpointWriter writer(folder_ / "weights.ckpt", Kind::kWeights, {});
    WriteWeights(training, ParseSource(set), false, writer);
  };
  try {
    write("ema");
    ADD_FAILURE();
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr("tensor ema/a has another shape than a"));
  }
  EXPECT_THROW(write("swa"), InputError);  // misses swa_sum/a
}

}  // namespace
}  // namespace fairway
