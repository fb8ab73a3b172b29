// ema-finalize, gptq-lite and pack-zstd as a shell runs them, from a training checkpoint made here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "common/base/text.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/counter_names.h"
#include "common/quantise/artifact.h"
#include "tests/common/checkpoint/temporary_folder.h"
#include "tests/peak_memory.h"

namespace fairway {
namespace {

using testing::HasSubstr;

class Stages : public testing::Test {
 protected:
  Stages() {
    Settings settings;
    settings.Set("keep_max_numel", "64", Origin::kProfile, "test");
    CheckpointWriter writer(folder_ / "train.ckpt", Kind::kTraining, settings.Select(scope::kModel | scope::kTrain));
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (const char* set : {"", "ema/", "swa_sum/"}) {
      for (const char* name : {"tok_emb.weight", "blocks.0.attn.c_q.weight", "blocks.0.mlp.fc.weight"}) {
        std::vector<float> values(16 * 32);
        for (float& value : values) value = normal(random);
        writer.Add({.name = std::string(set) + name, .dtype = DType::kFloat32, .shape = {16, 32}}, values);
      }
    }
    Counters counters;
    counters.Set(counter::kSteps, 60);
    counters.Set(counter::kEmaUpdates, 60);
    counters.Set(counter::kSwaSnapshots, 3);
    counters.Set(counter::kTrainSeconds, 1.5);
    Lineage lineage;
    lineage.tool = "train";
    writer.Finish(counters, lineage);
  }

  // Runs a shell command in the folder, the programs on its path. Returns the exit status.
  int Run(const std::string& command) const {
    const std::string script =
        "cd " + ShellQuote(folder_.path()) + " && PATH=" + ShellQuote(BINARY_DIR) + ":$PATH && " + command;
    const int status = std::system(("env -i PATH=\"$PATH\" bash -o pipefail -c " + ShellQuote(script)).c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  std::string Text(const std::string& name) const { return std::string(InputFile(folder_ / name).text()); }
  bool Exists(const std::string& name) const { return std::filesystem::exists(folder_ / name); }

  TemporaryFolder folder_;
};

TEST_F(Stages, APipeMakesTheSameArtifactAsFiles) {
  ASSERT_EQ(Run("ema-finalize --source swa train.ckpt weights.ckpt > finalize.json 2> log && "
                "gptq-lite weights.ckpt quantised.ckpt > quantise.json 2>> log && "
                "pack-zstd quantised.ckpt model.bin.zst > pack.json 2>> log"),
            0);
  ASSERT_EQ(Run("ema-finalize --source swa train.ckpt - 2> 1.log | gptq-lite - - 2> 2.log | pack-zstd - piped.zst 2> "
                "3.log > 3.json"),
            0);
  EXPECT_EQ(Text("model.bin.zst"), Text("piped.zst"));

  // One result line each: on standard error where standard output carries the checkpoint.
  const auto result = [&](const std::string& name) { return nlohmann::json::parse(Text(name)); };
  const auto last_line = [&](const std::string& name) {
    std::string text = Text(name);
    text.pop_back();
    return nlohmann::json::parse(text.substr(text.rfind('\n') + 1));
  };
  EXPECT_EQ(last_line("1.log")["identity"], result("finalize.json")["identity"]);
  EXPECT_EQ(last_line("2.log")["identity"], result("quantise.json")["identity"]);
  EXPECT_EQ(result("3.json")["artifact_digest"], result("pack.json")["artifact_digest"]);
  EXPECT_EQ(result("pack.json")["identity"], result("quantise.json")["identity"]);
  EXPECT_EQ(result("pack.json")["artifact_bytes"], Text("model.bin.zst").size());
  EXPECT_EQ(result("quantise.json")["clip_rows_searched"], 16);

  // The log quotes the command and says what was taken.
  EXPECT_THAT(Text("1.log"), HasSubstr("ema-finalize --source swa train.ckpt -\n"));
  EXPECT_THAT(Text("1.log"), HasSubstr("swa:applying averaged 3 checkpoints\n"));

  // What the artifact leaves out is in a file beside it.
  const CheckpointReader artifact = OpenWeights(folder_ / "model.bin.zst");
  const CheckpointReader aside(folder_ / "model.bin.zst.lineage");
  EXPECT_TRUE(artifact.counters().all().empty());
  EXPECT_EQ(aside.counters().Get(counter::kTrainSeconds), 1.5);
  EXPECT_EQ(aside.counters().Get(std::string(counter::kFinalizePrefix) + "swa"), 1);
  EXPECT_EQ(aside.counters().Get(counter::kClipRowsSearched), 16);
  EXPECT_EQ(aside.settings(), artifact.settings());
  ASSERT_EQ(aside.lineage().inputs.size(), 2u);
  EXPECT_EQ(aside.lineage().inputs[0].role, "artifact");
  EXPECT_EQ(aside.lineage().inputs[0].identity, result("pack.json")["artifact_digest"]);
  EXPECT_EQ(aside.lineage().inputs[1].identity, artifact.identity());
  const Lineage& quantised = aside.lineage().inputs[1].lineage;
  EXPECT_EQ(quantised.tool, "gptq-lite");
  EXPECT_EQ(quantised.inputs.at(0).lineage.tool, "ema-finalize");
  EXPECT_EQ(quantised.inputs.at(0).lineage.inputs.at(0).lineage.tool, "train");
}

TEST_F(Stages, SettingsTravelDownTheChain) {
  ASSERT_EQ(Run("ema-finalize train.ckpt weights.ckpt &> log && gptq-lite weights.ckpt quantised.ckpt &> log"), 0);
  Settings settings;
  settings.Adopt(CheckpointReader(folder_ / "quantised.ckpt").settings(), "quantised.ckpt");
  EXPECT_EQ(settings.keep_max_numel, 64);
  EXPECT_EQ(CheckpointReader(folder_ / "weights.ckpt").counters().Get("finalize.ema"), 1);
  EXPECT_NE(Run("gptq-lite --model-dim 64 weights.ckpt other.ckpt 2> log"), 0);
  EXPECT_FALSE(Exists("other.ckpt"));
}

TEST_F(Stages, TheBudgetIsAGate) {
  ASSERT_EQ(Run("ema-finalize train.ckpt - 2> log | gptq-lite - quantised.ckpt &> log"), 0);
  ASSERT_EQ(Run("pack-zstd --dry-run quantised.ckpt 2> log > dry.json"), 0);
  const int64_t bytes = nlohmann::json::parse(Text("dry.json"))["artifact_bytes"];

  // Exactly at the budget it passes, a byte over it does not.
  const std::string code = " --code-bytes 1000 --budget ";
  EXPECT_EQ(Run("pack-zstd" + code + std::to_string(bytes + 999) + " quantised.ckpt a.zst > out.json 2> log"), 5);
  EXPECT_THAT(Text("log"), HasSubstr(StringPrintf("pack-zstd: over budget by 1 bytes: artifact %s + code 1,000 > %s\n",
                                                  WithCommas(bytes).c_str(), WithCommas(bytes + 999).c_str())));
  EXPECT_EQ(Text("out.json"), "");
  EXPECT_FALSE(Exists("a.zst"));
  EXPECT_FALSE(Exists(".a.zst.tmp"));
  EXPECT_FALSE(Exists("a.zst.lineage"));
  EXPECT_EQ(Run("pack-zstd" + code + std::to_string(bytes + 1000) + " quantised.ckpt a.zst > out.json 2> log"), 0);
  EXPECT_EQ(nlohmann::json::parse(Text("out.json"))["left"], 0);
  EXPECT_EQ(static_cast<int64_t>(Text("a.zst").size()), bytes);

  // An older artifact stays as it was; a dry run says the size and lets it pass.
  const std::string before = Text("a.zst");
  EXPECT_EQ(Run("pack-zstd --budget 10 quantised.ckpt a.zst &> log"), 5);
  EXPECT_EQ(Text("a.zst"), before);
  EXPECT_EQ(Run("pack-zstd --budget 10 --dry-run quantised.ckpt b.zst &> log"), 0);
  EXPECT_FALSE(Exists("b.zst"));
  EXPECT_EQ(Run("pack-zstd quantised.ckpt 2> log"), 2);
}

TEST_F(Stages, QuantisingKeepsToTheMemoryThatItSaid) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "skipped: a sanitizer takes memory of its own";
#endif
  {
    CheckpointWriter writer(folder_ / "large.ckpt", Kind::kWeights, {});
    std::vector<float> values(4 << 20);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 1009) - 504;
    for (const char* name : {"blocks.0.attn.c_q.weight", "blocks.0.mlp.fc.weight", "tok_emb.weight"})
      writer.Add({.name = name, .dtype = DType::kFloat32, .shape = {2048, 2048}}, values);
    writer.Finish({}, {});
  }
  const Measured ran = RunMeasured(folder_.path(), BINARY_DIR, "gptq-lite large.ckpt quantised.ckpt > out 2> log");
  ASSERT_EQ(ran.status, 0) << Text("log");
  const int64_t estimate = EstimateOf(Text("log"));
  std::printf("summary: gptq-lite: estimated %jd MB, held %jd MB at most\n", estimate / 1000000, ran.peak_bytes / 1000000);
  EXPECT_LE(ran.peak_bytes, estimate);
  EXPECT_LE(estimate, 2 * ran.peak_bytes) << "a bound that says nothing";

  std::filesystem::remove(folder_ / "quantised.ckpt");
  EXPECT_EQ(Run("gptq-lite --memory-limit 100M large.ckpt quantised.ckpt 2> log"), 2);
  EXPECT_THAT(Text("log"), HasSubstr("gptq-lite: memory_limit = 100M: about 0."));
  EXPECT_FALSE(Exists("quantised.ckpt"));
  EXPECT_EQ(Run("gptq-lite --memory-limit 4X large.ckpt quantised.ckpt 2> log"), 2);
  EXPECT_THAT(Text("log"), HasSubstr("gptq-lite: memory_limit = '4X' is no number of bytes such as 800M or 4G\n"));
  EXPECT_EQ(Run("MEMORY_LIMIT=2G gptq-lite large.ckpt quantised.ckpt &> log"), 0);
  EXPECT_TRUE(Exists("quantised.ckpt"));
}

TEST_F(Stages, AnArtifactMayGoToStandardOutput) {
  ASSERT_EQ(Run("ema-finalize train.ckpt - 2> log | gptq-lite - quantised.ckpt &> log"), 0);
  ASSERT_EQ(Run("pack-zstd quantised.ckpt a.zst &> log && pack-zstd quantised.ckpt - > b.zst 2> log"), 0);
  EXPECT_EQ(Text("a.zst"), Text("b.zst"));
  EXPECT_FALSE(Exists("-.lineage"));
}

}  // namespace
}  // namespace fairway
