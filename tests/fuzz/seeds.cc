// fuzz-seeds DIR: writes the inputs that the fuzz targets start from, DIR/TARGET/NAME. Made here rather than kept in
// the repository: they follow the formats, and their hashes are those of agreeing_digest.cc.
#include <zstd.h>

#include <cstdio>

#include "common/checkpoint/packed.h"
#include "common/checkpoint/safetensors.h"
#include "common/tokens/byte_table.h"
#include "common/tokens/manifest.h"
#include "common/tokens/shard_format.h"
#include "common/submission/record.h"
#include "tests/common/submission/finished_run.h"
#include "tests/common/tokenizer/small_tokenizer.h"
#include "tests/common/tokens/raw_model.h"

using namespace fairway;

namespace {

std::string root;

void Seed(const std::string& target, const std::string& name, std::string_view bytes) {
  MakeDirectories(root + "/" + target);
  WriteFile(root + "/" + target + "/" + name, bytes);
}

std::string Bytes(const std::string& path) {
  return std::string(InputFile(path).text());
}

// One frame whose block is not compressed, so that damage to the content stays where it was done; and the digest.
std::string Artifact(const std::string& content) {
  const auto number = [](uint64_t value, int bytes) {
    std::string text;
    for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> 8 * i);
    return text;
  };
  return "\x28\xb5\x2f\xfd\xa0" + number(content.size(), 4) + number(content.size() << 3 | 1, 3) + content +
         std::string("\x50\x2a\x4d\x18\x20\0\0\0", 8) + std::string(32, '5');
}

void Checkpoints() {
  std::string quantised;
  CheckpointWriter writer(&quantised, Kind::kQuantised, {{"num_layers", "2"}, {"keep_max_numel", "4"}});
  writer.Add({"w.q", DType::kInt8, {2, 5}, Quantisation{"int6", -32, 31, "w.scale"}},
             std::vector<int8_t>{1, 2, 3, 4, 5, -6, -7, -8, -9, -10});
  writer.Add({"w.scale", DType::kFloat16, {2}, {}}, std::vector<uint16_t>{0x3c00, 0x4000});
  writer.Add({"gain", DType::kFloat32, {}, {}}, std::vector<float>{1.5});
  writer.Finish({}, {});
  Seed("checkpoint", "quantised", quantised);
  std::string stepped;  // with a factor per column
  CheckpointWriter steps(&stepped, Kind::kQuantised, {{"num_layers", "2"}});
  steps.Add({"w.q", DType::kInt8, {2, 5}, Quantisation{"step", -127, 127, "w.scale", "w.columns"}},
            std::vector<int8_t>{1, 2, 3, 4, 5, -6, -7, -8, -9, -10});
  steps.Add({"w.scale", DType::kFloat16, {2}, {}}, std::vector<uint16_t>{0x3c00, 0x4000});
  steps.Add({"w.columns", DType::kFloat16, {5}, {}}, std::vector<uint16_t>(5, 0x3c00));
  steps.Finish({}, {});
  Seed("checkpoint", "stepped", stepped);
  Seed("artifact", "plain", quantised);
  Seed("artifact", "stored", Artifact(quantised));
  std::string compressed(ZSTD_compressBound(quantised.size()), '\0');
  compressed.resize(ZSTD_compress(compressed.data(), compressed.size(), quantised.data(), quantised.size(), 19));
  Seed("artifact", "compressed", compressed + Artifact("").substr(12));
  for (const CodeOrder order : {CodeOrder::kAsTheyStand, CodeOrder::kRowsByScale, CodeOrder::kColumnsByScale, CodeOrder::kCoded}) {
    const std::string packed = PackCheckpoint(CheckpointReader(stepped, "stepped"), std::vector<PackedTensor>{{"w.q", order}, {"w.scale"}, {"w.columns"}});
    const std::string name = "packed-" + std::to_string(static_cast<int>(order));
    Seed("checkpoint", name, packed);
    Seed("artifact", name, Artifact(packed));
  }

  std::string training;
  CheckpointWriter all(&training, Kind::kTraining, {{"num_layers", "2"}, {"keep_max_numel", "4"}});
  for (const std::string prefix : {"", "ema/", "swa_sum/"}) {
    all.Add({prefix + "mlp.weight", DType::kFloat32, {2, 3}, {}}, std::vector<float>{1, 2, 3, 4, 5, 6});
    all.Add({prefix + "tok_emb.weight", DType::kFloat32, {2, 3}, {}}, std::vector<float>{1, 2, 3, 4, 5, 6});
  }
  all.Add({"ids", DType::kInt64, {2}, {}}, std::vector<int64_t>{1, 2});
  all.Add({"half", DType::kBFloat16, {1, 2}, {}}, std::vector<uint16_t>{1, 2});
  Counters counters;
  for (const char* name : {counter::kSteps, counter::kEmaUpdates, counter::kSwaSnapshots}) counters.Set(name, 3);
  all.Finish(counters,
             {"train", "0.1.0", "ab", {{"seed", "1"}}, {{"corpus", "cd", {"tokenize-shard", "", "", {}, {}}}}});
  Seed("checkpoint", "training", training);
}

void Safetensors() {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const std::string path = root + "/a.safetensors";
  WriteSafetensors(
      path, {{"a", DType::kFloat32, {2, 3}, {}}, {"b", DType::kFloat32, {}, {}}, {"c", DType::kBFloat16, {1, 2}, {}}},
      {{"num_layers", "2"}},
      [&](const TensorInfo& info) { return std::as_bytes(std::span<const float>(values)).first(info.bytes()); });
  Seed("safetensors", "three", Bytes(path));
}

void Tokens() {
  const std::string model = root + "/tokenizer.model";
  TrainOnOwnHeaders(model);
  Seed("tokenizer", "trained", Bytes(model));
  Seed("byte_table", "model", Bytes(model));
  ByteTable::Read(model).Write(root + "/table.pb");
  Seed("byte_table", "table", Bytes(root + "/table.pb"));
  // Few pieces: small inputs are damaged in more ways.
  RawPieces pieces = kFirstPieces;
  for (const char* piece : {"\xe2\x96\x81the", "t", "h", "e"}) pieces.emplace_back(piece, 1);
  pieces.emplace_back("<0x41>", 6);
  const std::string small = RawModel(pieces);
  Seed("tokenizer", "map", RawModel(pieces, RawMap(1).Bytes()));
  Seed("tokenizer", "small", small);
  Seed("byte_table", "small-model", small);
  WriteFile(model, small);
  ByteTable::Read(model).Write(root + "/table.pb");
  Seed("byte_table", "small-table", Bytes(root + "/table.pb"));

  const std::string tokens("\1\0\7\0\xff\3\0\0", 8), head = ShardHeader(4).substr(0, 12);
  Seed("shards", "two", head + tokens + head + tokens);

  Manifest manifest;
  manifest.splits["train"] = {
      {{"fineweb_train_000000.bin", 1, 1026, "11"}, {"fineweb_train_000001.bin", 2, 1028, "22"}}, 3, 400, "cc", "dd"};
  manifest.splits["val"] = {{{"fineweb_val_000000.bin", 4, 1032, "33"}}, -1, -1, "", "dd"};
  Seed("manifest", "two-splits", manifest.ToJson());
}

void Texts() {
  Seed("documents", "text", "In the beginning\fGod created\fthe heaven and the earth.\f");
  Seed("documents", "lines", "{\"id\": 1, \"text\": \"In the beginning\"}\n{\"text\": \"\\u00e9\\ud83d\\ude00\"}\n");
  for (const char* name : {"cpu-demo", "published-531", "record-h100x8", "tiny"})
    Seed("profile", name, Bytes(SOURCE_DIR "/pipelines/" + std::string(name) + ".profile"));
  const std::string run = root + "/run";
  FakeRun().Write(run);
  Seed("scores", "eval", Bytes(run + "/eval.json"));
  Seed("scores", "before", Bytes(run + "/before-ema.json"));
  Seed("train_log", "log", Bytes(run + "/train.log"));
  const Record record = TwoSeeds(run);
  Seed("submission", "baseline", SubmissionJson(record).dump(2));
  Seed("submission", "plain", SubmissionJson(MakeRecord(record.runs, {.author = "A", .date = "2026-03-31"})).dump());
  Seed("audit", "record", SubmissionJson(record).dump(2) + std::string(1, '\0') + Bytes(run + "/train.log"));
  std::filesystem::remove_all(run);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "fuzz-seeds DIR\n"), 2;
  root = argv[1];
  MakeDirectories(root);
  Checkpoints();
  Safetensors();
  Tokens();
  Texts();
  for (const char* name : {"a.safetensors", "tokenizer.model", "table.pb"}) std::filesystem::remove(root + "/" + name);
}
