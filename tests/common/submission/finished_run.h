// Finished runs made in a moment, whole and consistent, for tests to spoil.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "common/base/digest.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/counter_names.h"
#include "common/quantise/artifact.h"
#include "common/submission/record.h"

namespace fairway {

struct FakeRun {
  int64_t seed = 1337;
  double val_loss = 2.0;
  std::map<std::string, double> counters = {
      {counter::kSteps, 60},
      {counter::kTrainSeconds, 12},
      {counter::kDataWaitSeconds, 0.3},
      {counter::kTokens, 61440},
      {counter::kEmaUpdates, 60},
      {counter::kSwaSnapshots, 3},
      {counter::kQatReplacements, 1230},
      {counter::kQatFirstStep, 55},
      {counter::kClipRowsSearched, 8},
      {counter::ClipWins(0.999), 5},
      {counter::ClipWins(1), 3},
      {counter::kWarmupSteps, 2},
      {std::string(counter::kFinalizePrefix) + "ema", 1},
      {counter::kQuantiseEntropyBits, 4.5},
  };
  std::map<std::string, std::string> settings = {{"iterations", "60"}, {"num_layers", "5"}};
  std::string source = "the source archive";
  std::string train_program = "aa";  // digest of its sources
  std::string shards = "5ad5";
  std::string grid = "int6";
  Coder coder = Coder::kArithmetic;
  Json programs;  // that scored it; null: eval.json does not say, as older ones

  // 2.5 bytes per token.
  static constexpr double kTargets = 12000, kBytes = 30000;
  static double BitsPerByte(double loss) { return loss * kTargets / kBytes / 0.6931471805599453; }

  void Write(const std::string& directory) const {
    MakeDirectories(directory);
    const auto path = [&](const std::string& name) { return directory + "/" + name; };
    Settings all;
    all.Set("seed", std::to_string(seed), Origin::kProfile, "test");
    for (const auto& [name, value] : settings) all.Set(name, value, Origin::kProfile, "test");
    Counters counted;
    for (const auto& [name, value] : counters) counted.Set(name, value);

    Lineage lineage{"train", "fairway 0.1.0", train_program, all.NonDefault(scope::kModel | scope::kTrain), {}};
    lineage.settings.emplace_back("torch.version", "2.11.0");
    lineage.settings.emplace_back("hardware", "Abacus 9000, 2 threads");
    lineage.inputs.push_back({"train shards", shards, {"tokenize-shard", "", "", {}, {{"text", "7e87", {}}}}});
    const TensorInfo w{.name = "w", .shape = {2}};
    WriteCheckpoint(path(run_file::kTrain), Kind::kTraining, all.Select(scope::kModel | scope::kTrain), w, counted,
                    lineage);

    const auto next = [&](const char* tool, const char* role, const char* input) {
      const CheckpointReader made(path(input));
      lineage = {tool, "fairway 0.1.0", "bb", {}, {}};
      AddInput(lineage, role, made);
    };
    next("ema-finalize", "training checkpoint", run_file::kTrain);
    WriteCheckpoint(path(run_file::kWeights), Kind::kWeights,
                    all.Select(scope::kModel | scope::kFinalize | scope::kQuantise | scope::kEvaluate), w, counted,
                    lineage);

    next("gptq-lite", "weights", run_file::kWeights);
    {
      CheckpointWriter writer(path(run_file::kQuantised), Kind::kQuantised,
                              all.Select(scope::kModel | scope::kQuantise | scope::kEvaluate));
      const TensorInfo codes{.name = "blocks.0.attn.proj.weight.q",
                             .dtype = DType::kInt8,
                             .shape = {8, 16},
                             .quantisation = Quantisation{grid, -32, 31, "blocks.0.attn.proj.weight.scale"}};
      writer.Add(codes, std::vector<int8_t>(128, static_cast<int8_t>(seed % 31)));
      writer.Add({.name = codes.quantisation->scale, .dtype = DType::kFloat16, .shape = {8}},
                 std::vector<uint16_t>(8, 0x3c00));
      writer.Add({.name = "skip_weights", .shape = {3}}, std::vector<float>(3, 1.0f));
      writer.Finish(counted, lineage);
    }

    const CheckpointReader quantised(path(run_file::kQuantised));
    const Artifact artifact = PackArtifact(quantised, std::vector{1}, 1, coder);
    WriteFile(path(run_file::kArtifact), artifact.bytes);
    lineage = {"pack-zstd", "fairway 0.1.0", "bb", {}, {{"artifact", artifact.digest, {}}}};
    AddInput(lineage, "quantised checkpoint", quantised);
    CheckpointWriter(path(run_file::kLineage), Kind::kQuantised, quantised.settings())
        .Finish(quantised.counters(), lineage);

    Json eval = Scores(val_loss, artifact.digest, artifact.identity, Json::array());
    if (!programs.is_null()) eval.update({{"tokenizer_bytes", 254483}, {"programs", programs}});
    WriteFile(path(run_file::kEval), eval.dump(2) + "\n");
    for (const std::string set : kWeightSets) {
      const Json made_from = Json::array({CheckpointReader(path(run_file::kTrain)).identity()});
      WriteFile(path(run_file::Before(set)), Scores(val_loss - 0.01, "", "", made_from).dump(2) + "\n");
    }
    WriteFile(path(run_file::kLog),
              "seed:" + std::to_string(seed) +
                  "\nstep:0/60 val_loss:6.9319 val_bpb:4.0003 train_time:0ms step_avg:0.00ms\n"
                  "step:20/60 train_loss:5.9932 train_time:5083ms step_avg:254.17ms\n"
                  "step:60/60 train_loss:2.2492 train_time:12000ms step_avg:200.00ms\n"
                  "step:60/60 val_loss:2.1 val_bpb:1.2119 train_time:12000ms step_avg:200.00ms\n");
    WriteFile(path(run_file::kSource), source);
  }

 private:
  static void WriteCheckpoint(const std::string& path, Kind kind, const SettingValues& settings, const TensorInfo& info,
                              const Counters& counters, const Lineage& lineage) {
    CheckpointWriter writer(path, kind, settings);
    writer.Add(info, std::vector<float>(info.numel(), 0.5f));
    writer.Finish(counters, lineage);
  }

  static Json Scores(double loss, const std::string& digest, const std::string& identity, const Json& made_from) {
    return {{"val_loss", loss},
            {"val_bpb", BitsPerByte(loss)},
            {"val_loss_plain", loss + 0.05},
            {"val_bpb_plain", BitsPerByte(loss + 0.05)},
            {"targets", static_cast<int64_t>(kTargets)},
            {"bytes", static_cast<int64_t>(kBytes)},
            {"method", "sliding"},
            {"stride", 64},
            {"seq_len", 2048},
            {"published_quirks", false},
            {"artifact_bytes", 1},
            {"artifact_digest", digest},
            {"identity", identity},
            {"made_from", made_from},
            {"val_digest", "76a1"},
            {"byte_table_digest", "b7"},
            {"precision", "float32"},
            {"threads", 2},
            {"cpu", "Abacus 9000"},
            {"seconds", 1.5}};
  }
};

// A record of two such runs, which lie below `folder`, against a baseline.
inline Record TwoSeeds(const std::string& folder) {
  std::vector<FinishedRun> runs;
  for (const int64_t seed : {1337, 42}) {
    FakeRun run;
    run.seed = seed;
    run.val_loss += 0.001 * static_cast<double>(seed % 5);
    run.Write(folder + "/" + std::to_string(seed));
    runs.push_back(ReadRun(folder + "/" + std::to_string(seed)));
  }
  return MakeRecord(std::move(runs), {.author = "A", .date = "2026-03-31", .baseline_bpb = 2});
}

}  // namespace fairway
