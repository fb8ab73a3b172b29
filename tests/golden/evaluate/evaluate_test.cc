// The published script's own scores, from the weights it scored.
#include "common/evaluate/evaluate.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/text.h"
#include "common/model/cpu_engine.h"
#include "tests/common/evaluate/program.h"
#include "tests/golden/golden.h"

namespace fairway {
namespace {

// The weights are the same, so only sums are taken in another order: the README's floor, in nats as in bits per byte.
constexpr double kRounding = 2e-6;

struct Case {
  Settings settings;
  ShardSet val;
  ByteTable table;

  Case(const nlohmann::json& result, const std::string& precision)
      : settings(golden::CaseSettings(result, precision)),
        val(settings.data_path, "val", settings.vocab_size),
        table(ByteTable::Load(settings)) {
    at::set_num_threads(1);
  }
  CpuEngine Model(const std::string& file) const { return {settings, golden::Parameters("tiny", file, settings)}; }
};

TEST(GoldenSliding, ScoreAndProgressAreThePublishedOnes) {
  SKIP_WITHOUT_GOLDEN();
  const nlohmann::json result = golden::Result("tiny");
  const Case tiny(result, "float32");
  BatchDone first{};
  CpuEngine model = tiny.Model("roundtrip");
  const Score score = EvaluateSliding(model, tiny.val, tiny.table, tiny.settings, [&](const BatchDone& batch) {
    if (batch.batch == 0) first = batch;
  });
  const std::string line = golden::LogLine(result, "final_int8_zlib_roundtrip_exact");
  EXPECT_NEAR(score.val_loss, golden::Number(line, "val_loss:"), kRounding);
  EXPECT_NEAR(score.val_bpb, golden::Number(line, "val_bpb:"), kRounding);
  EXPECT_EQ(score.rescored, 3 * 32);  // windows 369 to 371 run past the end
  EXPECT_EQ(score.dropped, 12000 - 11904);
  const std::string progress = golden::LogLine(result, "sliding_eval");
  EXPECT_NEAR(first.bits_per_byte, golden::Number(progress, "running_bpb="), kRounding);
  EXPECT_EQ(StringPrintf("%jd/%jd windows", first.windows_done, first.windows), "16/372 windows");
}

// Four decimals are logged: half a unit of the last, and the rounding above.
TEST(GoldenPlain, ValidationOfTheFirstAndTheLastStepIsThePublishedOne) {
  SKIP_WITHOUT_GOLDEN();
  const nlohmann::json result = golden::Result("tiny");
  const Case tiny(result, "float32");
  for (const auto& [file, start] :
       {std::pair("init", "step:0/60 val_loss"), std::pair("last", "step:60/60 val_loss")}) {
    CpuEngine model = tiny.Model(file);
    const Score score = EvaluatePlain(model, tiny.val, tiny.table, tiny.settings);
    const std::string line = golden::LogLine(result, start);
    EXPECT_NEAR(score.val_loss, golden::Number(line, "val_loss:"), 5e-5 + kRounding) << file;
    EXPECT_NEAR(score.val_bpb, golden::Number(line, "val_bpb:"), 5e-5 + kRounding) << file;
    EXPECT_EQ(score.dropped, 12000 - 11904);
  }
}

// tiny_bf16 trained its own weights and its folder holds none, so tiny's stand in: the original's float32 and bfloat16
// scores differ by 1.8e-3 (README), and three times the original's own noise is the measure of what is right.
TEST(GoldenSliding, BFloat16ScoresWithinTheNoiseOfTheOriginal) {
  SKIP_WITHOUT_GOLDEN();
  const nlohmann::json result = golden::Result("tiny_bf16");
  const Case tiny(result, "bfloat16");
  CpuEngine model = tiny.Model("roundtrip");
  const Score score = EvaluateSliding(model, tiny.val, tiny.table, tiny.settings);
  EXPECT_NEAR(score.val_bpb, golden::Number(golden::LogLine(result, "final_int8_zlib_roundtrip_exact"), "val_bpb:"),
              3 * 1.8e-3);
}

// The program's log against the script's: all but the clock.
TEST(GoldenSliding, TheProgramPrintsThePublishedLines) {
  SKIP_WITHOUT_GOLDEN();
  const nlohmann::json result = golden::Result("tiny");
  const Settings settings = golden::CaseSettings(result, "float32");
  const ScratchFolder folder;
  WriteWeights(folder / "weights.ckpt", settings, golden::Parameters("tiny", "roundtrip", settings), Kind::kQuantised);
  const Ran ran =
      RunCommand(BINARY_DIR "/eval-sliding " + folder / "weights.ckpt" + " --data-path " + settings.data_path +
                 " --tokenizer-path " + settings.tokenizer_path + " --eval-batch-seqs 16");
  ASSERT_EQ(ran.status, 0) << ran.err;
  EXPECT_THAT(ran.err, testing::HasSubstr("\n" + golden::LogLine(result, "final_eval_mode") + "\n"));
  const auto upto = [](const std::string& line, const std::string& end) { return line.substr(0, line.find(end)); };
  EXPECT_THAT(ran.err, testing::HasSubstr(upto(golden::LogLine(result, "final_int8_zlib_roundtrip "), "eval_time")));
  // Of its six decimals the last may end otherwise after another order of sums.
  std::string progress = golden::LogLine(result, "sliding_eval");
  progress.pop_back();
  EXPECT_THAT(ran.err, testing::HasSubstr("\n  " + progress));
}

}  // namespace
}  // namespace fairway
