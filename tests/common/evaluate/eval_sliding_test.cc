// The program, on a model small enough for a test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/base/digest.h"
#include "common/evaluate/evaluate.h"
#include "common/evaluate/generate.h"
#include "common/model/cpu_engine.h"
#include "common/tokens/case_ops.h"
#include "common/tokens/manifest.h"
#include "tests/common/evaluate/program.h"
#include "tests/common/evaluate/tiny_model.h"
#include "tests/peak_memory.h"

namespace fairway {
namespace {

using nlohmann::json;
using testing::EndsWith;
using testing::HasSubstr;

class EvalSlidingTest : public testing::Test {
 protected:
  EvalSlidingTest() : settings(TinySettings()), model(TinyModel(settings)), fused(settings, model.parameters()), table(TinyTable(settings.vocab_size)) {
    Split(62);
    table.Write(folder / "byte_table.pb");
    WriteWeights(folder / "weights.ckpt", settings, model.parameters());
  }

  void Split(int64_t tokens) {
    std::filesystem::remove(folder / "fineweb_val_000001.bin");
    val.emplace(WriteVal(folder, RandomTokens(tokens, settings.vocab_size), settings.vocab_size));
  }

  Ran Evaluate(const std::string& options = "", const std::string& input = "weights.ckpt") const {
    return RunCommand("cd " + folder.path() +
                      " && VAL_BATCH_SIZE=256 EVAL_BATCH_SEQS=3 " BINARY_DIR "/eval-sliding --data-path . " + input +
                      " " + options);
  }
  json Scored(const std::string& options = "") const {
    const Ran ran = Evaluate(options);
    EXPECT_EQ(ran.status, 0) << ran.err;
    return json::parse(ran.out, nullptr, false);
  }

  ScratchFolder folder;
  Settings settings;
  Transformer model;
  CpuEngine fused;
  ByteTable table;
  std::optional<ShardSet> val;
};

TEST_F(EvalSlidingTest, KeepsToTheMemoryThatItSaid) {
  const std::string program = "eval-sliding --data-path . --val-batch-size 256 --eval-batch-seqs 3 --threads 1 weights.ckpt ";
  const Measured refused = RunMeasured(folder.path(), BINARY_DIR, program + "--memory-limit 100M > out 2> log");
  EXPECT_EQ(refused.status, 2);
  EXPECT_THAT(ReadBytes(folder / "log"), HasSubstr("eval-sliding: memory_limit = 100M: about 0."));
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "skipped: a sanitizer takes memory of its own";
#endif
  for (const std::string method : {"sliding", "kv_cache", "ttt --ttt-chunk-tokens 32"}) {
    const Measured ran = RunMeasured(folder.path(), BINARY_DIR, program + "--memory-limit 1G --method " + method + " > out 2> log");
    const std::string log = ReadBytes(folder / "log");
    ASSERT_EQ(ran.status, 0) << log;
    std::printf("summary: eval-sliding --method %s: estimated %jd MB, held %jd MB at most\n", method.c_str(), EstimateOf(log) / 1000000,
                ran.peak_bytes / 1000000);
    EXPECT_LE(ran.peak_bytes, EstimateOf(log)) << method;
  }
}

// Not of those that the weights were trained on.
TEST_F(EvalSlidingTest, SaysTheMemoryOfTheWindowsThatItScores) {
  Split(10002);
  int64_t of_short = 0;
  for (const std::string& windows : {std::string("16 --eval-stride 16"), std::string("10000 --eval-stride 10000")}) {
    const Ran ran = RunCommand("cd " + folder.path() + " && " BINARY_DIR "/eval-sliding --data-path . --val-batch-size 80000 --eval-batch-seqs 1 --eval-seq-len " +
                               windows + " --threads 1 weights.ckpt 2>&1");
    ASSERT_EQ(ran.status, 0) << ran.out;
    if (of_short == 0) of_short = EstimateOf(ran.out);
    else EXPECT_GT(EstimateOf(ran.out), of_short);
  }
}

TEST_F(EvalSlidingTest, KeepsToTheMemoryThatItSaidWhereAdaptersLearn) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "skipped: a sanitizer takes memory of its own";
#endif
  // A group of 40 documents of 65 tokens, in a vocabulary whose logits are most of what is held.
  for (const auto& [name, value] : {std::pair{"vocab_size", "3000"}, {"model_dim", "64"}, {"train_seq_len", "64"}})
    settings.Set(name, value, Origin::kCommandLine, "test");
  std::vector<uint16_t> tokens = RandomTokens(40 * 65 + 1, settings.vocab_size);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = i % 65 == 0 ? kBos : std::max<uint16_t>(tokens[i], kBos + 1);
  TinyTable(settings.vocab_size).Write(folder / "byte_table.pb");
  WriteVal(folder, tokens, settings.vocab_size);
  WriteWeights(folder / "weights.ckpt", settings, TinyModel(settings).parameters());
  const std::string program = "eval-sliding --data-path . --val-batch-size 512 --threads 1 --method ttt --ttt-lora-rank 4 --ttt-chunk-size 32 "
                              "--ttt-eval-seq-len 64 weights.ckpt ";
  const std::string phases = "--phased-ttt-prefix-docs 40 --ttt-batch-size 20 --global-ttt-chunk-tokens 1280 --global-ttt-batch-seqs 20";
  for (const std::string& more : {std::string(), std::string("--ngram-order 3"), phases, std::string("--ttt-batch-size 2")}) {
    const Measured ran = RunMeasured(folder.path(), BINARY_DIR, program + more + " > out 2> log");
    const std::string log = ReadBytes(folder / "log");
    ASSERT_EQ(ran.status, 0) << log;
    std::printf("summary: eval-sliding with adapters %s: estimated %jd MB, held %jd MB at most\n", more.c_str(), EstimateOf(log) / 1000000,
                ran.peak_bytes / 1000000);
    EXPECT_LE(ran.peak_bytes, EstimateOf(log)) << more;
    const std::string limit = " --memory-limit " + std::to_string(EstimateOf(log) - 20000000);
    EXPECT_EQ(RunMeasured(folder.path(), BINARY_DIR, program + more + limit + " > out 2> log").status, 2);
  }
}

TEST_F(EvalSlidingTest, SaysWhatTheLibraryScores) {
  const json result = Scored("--out eval.json");
  const Score sliding = EvaluateSliding(fused, *val, table, settings),
              plain = EvaluatePlain(fused, *val, table, settings);
  EXPECT_EQ(result["val_loss"], sliding.val_loss);
  EXPECT_EQ(result["val_bpb"], sliding.val_bpb);
  EXPECT_EQ(result["val_loss_plain"], plain.val_loss);
  EXPECT_EQ(result["val_bpb_plain"], plain.val_bpb);
  EXPECT_EQ(result["targets"], 61);
  EXPECT_EQ(result["targets_plain"], 48);
  EXPECT_EQ(result["bytes"], sliding.bytes);
  EXPECT_EQ(result["stride"], 5);
  EXPECT_EQ(result["seq_len"], 16);
  EXPECT_EQ(result["method"], "sliding");
  EXPECT_EQ(result["precision"], "float32");
  EXPECT_EQ(result["threads"], 1);
  const std::string file = ReadBytes(folder / "weights.ckpt");
  EXPECT_EQ(result["artifact_bytes"], file.size());
  EXPECT_EQ(result["artifact_digest"], Sha256Hex(file));
  EXPECT_EQ(result["byte_table_digest"], Sha256Hex(ReadBytes(folder / "byte_table.pb")));
  EXPECT_EQ(result["val_digest"], val->Identity());
  EXPECT_EQ(result["identity"], CheckpointReader(folder / "weights.ckpt").identity());
  EXPECT_EQ(json::parse(ReadBytes(folder / "eval.json")), result);
}

TEST_F(EvalSlidingTest, CountsTheBytesOfTheSidecar) {
  const json without = Scored("--out without.json");
  EXPECT_TRUE(without["byte_sidecar_digest"].is_null());
  // Token i has i % 5 bytes, and once for 12, the most that its piece of 4 bytes can mean.
  std::vector<uint16_t> bytes(62);
  for (int i = 0; i < 62; ++i) bytes[i] = i == 40 ? 12 : i % 5;
  WriteBytes(folder / "fineweb_val_bytes_000000.bin", ShardBytes({bytes.begin(), bytes.begin() + 31}));
  WriteBytes(folder / "fineweb_val_bytes_000001.bin", ShardBytes({bytes.begin() + 31, bytes.end()}));
  int64_t all = 0, first_48 = 0;  // targets
  for (int i = 1; i < 62; ++i) {
    all += bytes[i];
    if (i <= 48) first_48 += bytes[i];
  }
  for (const char* method : {"sliding", "kv_cache", "ttt --ttt-chunk-tokens 32"}) {
    const json result = Scored(std::string("--method ") + method);
    EXPECT_EQ(result["targets"], 61) << method;
    EXPECT_EQ(result["bytes"], all) << method;
    EXPECT_NEAR(result["val_bpb"].get<double>(), result["val_loss"].get<double>() / std::log(2.0) * 61 / all, 1e-12)
        << method;
    EXPECT_NEAR(result["val_bpb_plain"].get<double>(),
                result["val_loss_plain"].get<double>() / std::log(2.0) * 48 / first_48, 1e-9)
        << method;
  }
  const json result = Scored();
  EXPECT_EQ(result["val_loss"], without["val_loss"]);
  EXPECT_EQ(result["val_digest"], without["val_digest"]);
  EXPECT_EQ(result["byte_sidecar_digest"], ShardSet(folder.path(), "val", 40).BytesIdentity());
  // Such scores are not those of the byte table, even where the number of bytes is the same.
  json same_bytes = without;
  same_bytes["bytes"] = result["bytes"];
  WriteBytes(folder / "without.json", same_bytes.dump());
  const Ran compared = Evaluate("--expect without.json");
  EXPECT_EQ(compared.status, 4);
  EXPECT_THAT(compared.err,
              EndsWith("without.json: is of another evaluation: its bytes are counted by another sidecar\n"));
}

TEST_F(EvalSlidingTest, SaysWhetherTheBytesAreProved) {
  const json unproved = Scored();
  EXPECT_EQ(unproved["bytes_proved"], false);
  EXPECT_TRUE(unproved["text_bytes"].is_null());
  EXPECT_TRUE(unproved["text_digest"].is_null());
  EXPECT_THAT(Evaluate().err, HasSubstr("\ntext: unknown; "));
  Manifest manifest;
  SplitRecord& split = manifest.splits["val"];
  for (const std::string& path : val->files()) {
    const std::string bytes = ReadBytes(path);
    split.files.push_back({std::filesystem::path(path).filename(), 31, static_cast<int64_t>(bytes.size()), Sha256Hex(bytes)});
  }
  split.token_bytes = unproved["bytes"];
  split.text_bytes = split.token_bytes + 3;
  split.text_sha256 = "abcd";
  WriteBytes(folder / "manifest.json", manifest.ToJson());
  const json proved = Scored();
  EXPECT_EQ(proved["bytes_proved"], true);
  EXPECT_EQ(proved["text_bytes"], split.text_bytes);
  EXPECT_EQ(proved["text_digest"], "abcd");
  EXPECT_EQ(proved["val_bpb"], unproved["val_bpb"]);
  EXPECT_THAT(Evaluate().err, HasSubstr("bytes; the tokenizer drops or folds the others\n"));
  // Bytes that are not those of the text end it.
  --split.token_bytes;
  WriteBytes(folder / "manifest.json", manifest.ToJson());
  const Ran refused = Evaluate();
  EXPECT_EQ(refused.status, 4);
  EXPECT_THAT(refused.err, HasSubstr("manifest.json: the tokens of the split val are "));
}

TEST_F(EvalSlidingTest, RefusesShardsThatAreNotThoseOfTheirManifest) {
  const std::string digest = Sha256Hex(ReadBytes(folder / "fineweb_val_000001.bin"));
  WriteBytes(
      folder / "manifest.json",
      R"({"format": 1, "splits": {"val": {"tokenizer_sha256": "00", "files": [{"name": "fineweb_val_000001.bin", "tokens": 31, "bytes": 1086, "sha256": ")" +
          digest + R"("}]}}})");
  EXPECT_EQ(Scored()["val_digest"], val->Identity());
  std::vector<uint16_t> other(31, 7);
  WriteBytes(folder / "fineweb_val_000001.bin", ShardBytes(other));
  const Ran refused = Evaluate("--out never.json");
  EXPECT_EQ(refused.status, 4);
  EXPECT_THAT(refused.err,
              HasSubstr("fineweb_val_000001.bin: is not the file that ./manifest.json lists: its SHA-256 is "));
  EXPECT_FALSE(std::filesystem::exists(folder / "never.json"));
}

TEST_F(EvalSlidingTest, PrintsTheLinesOfTheField) {
  WriteWeights(folder / "rounded.ckpt", settings, model.parameters(), Kind::kQuantised);
  const Ran ran = Evaluate("--eval-batch-seqs 4", "rounded.ckpt");
  EXPECT_THAT(ran.err, testing::ContainsRegex(
                           "final_eval_mode:sliding_window stride:5 batch_seqs:4\n"
                           "  sliding_eval \\[ 40\\.0%\\] 4/10 windows running_bpb=[0-9]\\.[0-9]{6}\n"
                           "final_int8_zlib_roundtrip val_loss:[0-9.]{6} val_bpb:[0-9.]{6} eval_time:[0-9]+ms\n"
                           "final_int8_zlib_roundtrip_exact val_loss:[0-9.]{10} val_bpb:[0-9.]{10}\n"));
  EXPECT_THAT(Evaluate("--eval-stride 0", "rounded.ckpt").err,
              HasSubstr("final_eval_mode:standard\nfinal_int8_zlib_roundtrip val_loss:"));
  // Weights that were never rounded made no round trip.
  const std::string unrounded = Evaluate("--eval-stride 0").err;
  EXPECT_THAT(unrounded, testing::ContainsRegex("final_unrounded_weights val_loss:[0-9.]{6} .*\nfinal_unrounded_weights_exact val_loss:"));
  EXPECT_THAT(unrounded, testing::Not(HasSubstr("int8")));
}

TEST_F(EvalSlidingTest, SaysWhatItsScoresWereMadeFrom) {
  WriteWeights(folder / "rounded.ckpt", settings, model.parameters(), Kind::kQuantised);
  const json lineage = json::parse(Evaluate("--eval-stride 7", "rounded.ckpt").out)["lineage"];
  EXPECT_EQ(lineage["tool"], "eval-sliding");
  EXPECT_EQ(lineage["source_digest"].get<std::string>().size(), 64u);
  EXPECT_EQ(lineage["settings"]["eval_stride"], "7");
  EXPECT_FALSE(lineage["settings"].contains("threads"));
  EXPECT_EQ(lineage["inputs"][0]["role"], "artifact");
  EXPECT_EQ(lineage["inputs"][0]["identity"].get<std::string>().size(), 64u);
}

TEST_F(EvalSlidingTest, SaysByWhichMethodItScored) {
  const json windows = Scored("--out windows.json"), cached = Scored("--method kv_cache --out cached.json");
  EXPECT_EQ(cached["method"], "kv_cache");
  EXPECT_EQ(cached["val_loss"], EvaluateCached(fused, *val, table, settings).val_loss);
  EXPECT_EQ(cached["targets"], 61);
  EXPECT_NE(cached["val_loss"], windows["val_loss"]);
  EXPECT_EQ(cached["val_loss_plain"], windows["val_loss_plain"]);
  EXPECT_FALSE(cached.contains("ttt"));

  const std::string ttt = "--method ttt --ttt-chunk-tokens 20 --ttt-lr 0.05";
  const json adapted = Scored(ttt + " --out ttt.json");
  EXPECT_EQ(adapted["method"], "ttt");
  EXPECT_EQ(adapted["ttt"], json({{"chunk_tokens", 20}, {"steps", 3}, {"lr", 0.05}, {"momentum", 0.9}}));
  EXPECT_NE(adapted["val_loss"], windows["val_loss"]);
  EXPECT_EQ(adapted["val_loss_plain"], windows["val_loss_plain"]);  // before anything was learnt

  // Mixed with n-grams over what was scored.
  const json mixed = Scored("--ngram-order 2 --prove mixed-proof.json --out mixed.json");
  EXPECT_EQ(mixed["ngram_order"], 2);
  EXPECT_FALSE(windows.contains("ngram_order"));
  NgramMixture mixture(2, settings.vocab_size);
  EXPECT_EQ(mixed["val_loss"], EvaluateSliding(fused, *val, table, settings, {}, Communicator::Single(), nullptr, &mixture).val_loss);
  EXPECT_NE(mixed["val_loss"], windows["val_loss"]);
  EXPECT_EQ(mixed["val_loss_plain"], windows["val_loss_plain"]);
  EXPECT_EQ(json::parse(ReadBytes(folder / "mixed-proof.json"))["proved"], true);
  EXPECT_EQ(Evaluate("--ngram-order 2 --expect mixed.json").status, 0);
  EXPECT_THAT(Evaluate("--expect mixed.json").err, HasSubstr("mixed.json: is of another evaluation: ngram_order is 2 there and null here"));
  EXPECT_THAT(Evaluate("--ngram-order 3 --expect windows.json").err, HasSubstr("ngram_order is null there and 3 here"));
  EXPECT_THAT(Evaluate("--ngram-order 2 --memory-limit 60M").err, HasSubstr("memory_limit = 60M"));

  // Adapters per document need no windows that overlap.
  const std::string documents = "--method ttt --ttt-lora-rank 2 --ttt-chunk-size 7 --ttt-eval-seq-len 14 --ttt-lora-lr 0.05 --eval-stride 0";
  const json by_document = Scored(documents + " --prove proof.json --out documents.json");
  EXPECT_EQ(by_document["method"], "ttt");
  EXPECT_EQ(by_document["stride"], 7);
  EXPECT_EQ(by_document["targets"], 61);
  EXPECT_EQ(by_document["ttt"]["ttt_lora_rank"], "2");
  EXPECT_EQ(by_document["ttt"]["ttt_chunk_size"], "7");
  EXPECT_EQ(by_document["val_loss_plain"], windows["val_loss_plain"]);
  EXPECT_EQ(json::parse(ReadBytes(folder / "proof.json"))["proved"], true);
  EXPECT_EQ(Evaluate(documents + " --expect documents.json").status, 0);
  EXPECT_THAT(Evaluate(documents + " --ttt-lora-lr 0.06 --expect documents.json").err, HasSubstr("documents.json: is of another evaluation: ttt is "));

  EXPECT_EQ(Evaluate(ttt + " --expect ttt.json").status, 0);
  EXPECT_THAT(Evaluate(ttt + " --ttt-steps 2 --expect ttt.json").err, HasSubstr("ttt.json: is of another evaluation: ttt is "));
  EXPECT_THAT(Evaluate("--expect cached.json").err, HasSubstr("method is \"kv_cache\" there and \"sliding\" here"));
  for (const char* method : {"kv_cache", "ttt"}) {
    for (const char* stride : {"0", "64"}) {  // windows that do not overlap leave it nothing to do
      const Ran plain = Evaluate("--method " + std::string(method) + " --train-seq-len 16 --eval-stride " + stride);
      EXPECT_EQ(plain.status, 2);
      EXPECT_THAT(plain.err, HasSubstr("method = " + std::string(method) + " needs windows that overlap: eval_stride = " + stride));
    }
    const Ran refused = Evaluate("--published-quirks 1 --method " + std::string(method));
    EXPECT_EQ(refused.status, 2);
    EXPECT_THAT(refused.err, EndsWith("method = " + std::string(method) + ": the published sum, which published_quirks = 1 asks for, is that of method = sliding\n"));
  }
}

TEST_F(EvalSlidingTest, ReadsStandardInput) {
  json piped = json::parse(Evaluate("", "- < weights.ckpt").out), named = Scored();
  piped.erase("seconds");
  named.erase("seconds");
  EXPECT_EQ(piped, named);
}

TEST_F(EvalSlidingTest, PlainEvaluationFillsBothPairs) {
  for (const char* stride : {"0", "16", "-5"}) {
    const json result = Scored(std::string("--eval-stride ") + stride);
    EXPECT_EQ(result["val_bpb"], EvaluatePlain(fused, *val, table, settings).val_bpb);
    EXPECT_EQ(result["val_bpb"], result["val_bpb_plain"]);
    EXPECT_EQ(result["val_loss"], result["val_loss_plain"]);
    EXPECT_EQ(result["method"], "plain");
    EXPECT_EQ(result["stride"], 16);
    EXPECT_EQ(result["targets"], 48);
    EXPECT_EQ(result["targets_dropped"], 13);
  }
}

TEST_F(EvalSlidingTest, ASplitOfLessThanASequenceHasNoPlainScore) {
  Split(12);
  const json result = Scored();
  EXPECT_EQ(result["targets"], 11);
  EXPECT_TRUE(result["val_bpb_plain"].is_null());
  EXPECT_EQ(result["targets_plain"], 0);
  EXPECT_EQ(Evaluate("--eval-stride 0").status, 4);
}

TEST_F(EvalSlidingTest, HoldsAScoreToAnEarlierOne) {
  json earlier = Scored("--out eval.json");
  EXPECT_EQ(Evaluate("--expect eval.json").status, 0);

  const auto expect_with = [&](const char* name, const json& value, const std::string& options = "") {
    json changed = earlier;
    changed[name] = value;
    WriteBytes(folder / "changed.json", changed.dump());
    return Evaluate("--expect changed.json " + options);
  };
  const double bpb = earlier["val_bpb"];
  EXPECT_EQ(expect_with("val_bpb", bpb + 4e-9).status, 0);
  const Ran differs = expect_with("val_bpb", bpb - 1e-6, "--out again.json");
  EXPECT_EQ(differs.status, 5);
  EXPECT_THAT(differs.err, EndsWith("weights.ckpt: val_bpb differs by 1.00e-06 from changed.json, more than 5e-09\n"));
  EXPECT_FALSE(std::filesystem::exists(folder / "again.json"));
  EXPECT_EQ(expect_with("val_loss", earlier["val_loss"].get<double>() + 1e-6).status, 5);
  EXPECT_EQ(expect_with("val_bpb", bpb - 1e-6, "--tolerance 1e-5").status, 0);
  // Another processor or thread count may round otherwise.
  earlier["cpu"] = "another";
  EXPECT_EQ(expect_with("val_bpb", bpb - 9e-5).status, 0);
  EXPECT_EQ(expect_with("val_bpb", bpb - 2e-4).status, 5);
  const Ran other = expect_with("stride", 4);
  EXPECT_EQ(other.status, 4);
  EXPECT_THAT(other.err, EndsWith("changed.json: is of another evaluation: stride is 4 there and 5 here\n"));
  EXPECT_THAT(expect_with("packed_documents", true).err, HasSubstr("is of another evaluation: packed_documents is true there and false here"));
  json older = earlier;  // before eval.json said it
  older.erase("packed_documents"), older.erase("published_entry");
  WriteBytes(folder / "older.json", older.dump());
  EXPECT_EQ(Evaluate("--expect older.json").status, 0);
  WriteBytes(folder / "no.json", "not json");
  EXPECT_THAT(Evaluate("--expect no.json").err, EndsWith("no.json: is not JSON\n"));
  // Before anything else is opened.
  earlier.erase("val_loss");
  EXPECT_THAT(expect_with("stride", 5).err, testing::AllOf(EndsWith("changed.json: misses val_loss\n"), testing::Not(HasSubstr("estimate"))));
  EXPECT_THAT(Evaluate("--expect absent.json", "nor-this.ckpt").err, EndsWith("absent.json: No such file or directory\n"));
}

TEST_F(EvalSlidingTest, ContinuesAPrompt) {
  const Ran ran = Evaluate("--generate ABBA --tokens 12 --seed 7");
  EXPECT_EQ(ran.status, 0) << ran.err;
  const json result = json::parse(ran.out);
  const json& sample = result["samples"][0];
  EXPECT_EQ(sample["prompt"], "ABBA");
  EXPECT_LE(sample["tokens"], 12);
  EXPECT_EQ(result["seed"], 7);
  EXPECT_THAT(ran.err, EndsWith("ABBA" + sample["text"].get<std::string>() + "\n"));
  EXPECT_EQ(Evaluate("--generate ABBA --tokens 12 --seed 7").out, ran.out);
  EXPECT_NE(Evaluate("--generate ABBA --tokens 12 --seed 8").out, ran.out);
  const Ran written = Evaluate("--generate ABBA --tokens 12 --seed 7 --out sample.json");
  EXPECT_EQ(written.out, ran.out);
  EXPECT_EQ(json::parse(InputFile(folder / "sample.json").text()), result);
  EXPECT_THAT(written.err, testing::Not(HasSubstr("ABBA\n")));  // the file has the text, the terminal only the command
  EXPECT_EQ(Evaluate("--generate ABBA --expect eval.json").status, 2);
}

TEST_F(EvalSlidingTest, ContinuesSeveralPromptsAndTheEmptyOne) {
  const Ran ran = Evaluate("--generate ABBA --generate \"\" --generate= --tokens 12");
  EXPECT_EQ(ran.status, 0) << ran.err;
  const json samples = json::parse(ran.out)["samples"];
  ASSERT_EQ(samples.size(), 3u);
  EXPECT_EQ(samples[1]["prompt"], "");
  EXPECT_NE(samples[1]["text"], samples[2]["text"]);  // each prompt has draws of its own
  std::string shown;
  for (const json& sample : samples)
    shown += (shown.empty() ? "" : "\n") + sample["prompt"].get<std::string>() + sample["text"].get<std::string>() + "\n";
  EXPECT_THAT(ran.err, EndsWith(shown));
  EXPECT_THAT(ran.err, testing::Not(HasSubstr("val_bpb")));
}

// Of a tokenizer whose pieces are text with CaseOps, people see the text, and give it.
TEST_F(EvalSlidingTest, GeneratedTextWithCaseOpsIsCasedAgain) {
  for (int64_t id = 4; id < settings.vocab_size; ++id) {
    const bool mark = id < 8;
    table.pieces[id] = {.text = mark ? std::string(kCaseMarks[id - 4]) : std::string(1, static_cast<char>('a' + (id - 8) % 26)),
                        .bytes = static_cast<uint8_t>(mark ? 0 : 1),
                        .boundary = false,
                        .user_defined = mark};
  }
  ASSERT_TRUE(table.case_ops());
  table.Write(folder / "byte_table.pb");
  const std::string prompt = "BdbDfBDF";
  const Ran ran = Evaluate("--generate " + prompt + " --tokens 200 --temperature 10 --top-p 1 --seed 8");
  EXPECT_EQ(ran.status, 0) << ran.err;
  const std::string text = json::parse(ran.out)["samples"][0]["text"];
  EXPECT_TRUE(std::ranges::any_of(text, [](char c) { return c >= 'A' && c <= 'Z'; })) << text;
  EXPECT_THAT(ran.err, HasSubstr("\n" + prompt + text));
  // What follows the prompt's own ids, in the case that they leave open.
  std::vector<int64_t> all = table.Encode(prompt), ids = all;
  ids.insert(ids.begin(), kBos);
  const std::vector<int64_t> made = Generate(model, settings, ids, {.tokens = 200, .temperature = 10, .seed = 8, .stop = kBos});
  all.insert(all.end(), made.begin(), made.end());
  EXPECT_EQ(prompt + text, table.Decode(all));
}

TEST_F(EvalSlidingTest, SamplesAsItsOptionsSay) {
  const auto text = [&](const std::string& options) {
    const Ran ran = Evaluate("--generate ABBA --tokens 12 " + options);
    EXPECT_EQ(ran.status, 0) << ran.err;
    return json::parse(ran.out)["samples"][0]["text"].get<std::string>();
  };
  const std::string greedy = text("--temperature 0");
  EXPECT_EQ(text("--temperature 50 --top-k 1"), greedy);
  EXPECT_EQ(text("--temperature 50 --top-p 0"), greedy);
  EXPECT_NE(text("--temperature 50 --top-p 1"), greedy);
  EXPECT_EQ(Evaluate("--generate ABBA --top-p 1.5").status, 2);
  EXPECT_EQ(Evaluate("--generate ABBA --top-k -1").status, 2);
}

TEST_F(EvalSlidingTest, RefusesWhatDoesNotBelongTogether) {
  const auto refused = [&](const Ran& ran, int status, const std::string& line) {
    EXPECT_EQ(ran.status, status);
    EXPECT_THAT(ran.err, EndsWith("\neval-sliding: " + line + "\n"));
    EXPECT_EQ(ran.out, "");
  };
  TinyTable(39).Write(folder / "small.pb");
  refused(Evaluate("--byte-table small.pb"), 4, "small.pb: has 39 pieces where vocab_size is 40");
  WriteWeights(folder / "training.ckpt", settings, model.parameters(), Kind::kTraining);
  EXPECT_EQ(Evaluate("", "training.ckpt").status, 4);
  EXPECT_EQ(Evaluate("--num-layers 4").status, 4);
  EXPECT_EQ(Evaluate("", "no-such-file").status, 3);
  WriteBytes(folder / "fineweb_val_000000.bin", ShardBytes({1}));
  std::filesystem::remove(folder / "fineweb_val_000001.bin");
  refused(Evaluate(), 4, "./fineweb_val_000000.bin: the validation split holds 1 tokens where at least 2 are needed");

  NamedTensors broken = model.parameters();
  for (auto& [name, tensor] : broken) tensor = tensor.mul(NAN);
  WriteWeights(folder / "broken.ckpt", settings, broken);
  Split(62);
  refused(Evaluate("", "broken.ckpt"), 4, "broken.ckpt: its losses are not finite numbers");
}

}  // namespace
}  // namespace fairway
