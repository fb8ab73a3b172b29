// stand-in: takes the place of any of the programs where only make is tested. It computes nothing, but reads its settings as that
// program does, and writes products that say what they were made from. It notes in $RAN that it ran. FAIL=PROGRAM makes that one
// fail; HOLD=PROGRAM makes it stay, its process in $RAN.pid.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/counter_names.h"
#include "common/checkpoint/lineage_json.h"
#include "common/tokens/shards.h"
#include "common/tool/tool.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void Note(const std::string& text, const std::string& file = "") {
  std::ofstream(Variable("RAN") + file, std::ios::app) << text << "\n";
}

struct StandIn {
  std::string name, out, byte_table, author, github_id;
  std::vector<std::string> words, prompts;
  std::optional<InputFile> in;
  Settings settings;

  Lineage Open(unsigned stages) const {
    const std::string digest = Trim(InputFile(ProgramDirectory() + "/" + name + ".digest").text());
    return OpenLineage(name, "stand-in", digest, settings, stages);
  }

  void Train() const {
    Counters counters;
    counters.Set(counter::kSteps, static_cast<double>(settings.iterations));
    counters.Set(counter::kEmaUpdates, settings.ema_enabled ? static_cast<double>(settings.iterations) : 0);
    counters.Set(counter::kSwaSnapshots, settings.swa_enabled ? static_cast<double>(settings.iterations / settings.swa_every) : 0);
    Lineage lineage = Open(scope::kModel | scope::kTrain);
    lineage.inputs.push_back({"train shards", ShardSet(settings.data_path, "train", settings.vocab_size).Identity(), {}});
    CheckpointWriter(out, Kind::kTraining, settings.Select(scope::kModel | scope::kTrain)).Finish(counters, lineage);
    for (const fs::directory_entry& entry : fs::directory_iterator("."))
      if (entry.path().filename().string().starts_with("train.partial-")) fs::remove(entry.path());
  }

  void Convert(Kind kind, const char* role, unsigned header, unsigned stages) {
    const CheckpointReader in(words.at(0));
    settings.Adopt(in.settings(), in.path());
    Lineage lineage = Open(stages);
    AddInput(lineage, role, in);
    // Its content depends on what it is made from.
    CheckpointWriter writer(words.at(1), kind, settings.Select(header));
    writer.Add({.name = "from", .dtype = DType::kInt8, .shape = {64}, .quantisation = {}}, std::as_bytes(std::span<const char>(in.identity())));
    writer.Finish(in.counters(), lineage);
  }

  void Pack() const {
    const CheckpointReader in(words.at(0));
    const std::string artifact = "packed " + in.identity() + "\n";
    Lineage lineage = Open(0);
    lineage.inputs.push_back({"artifact", Sha256Hex(artifact), {}});
    AddInput(lineage, "quantised checkpoint", in);
    CheckpointWriter(words.at(1) + ".lineage", Kind::kQuantised, in.settings()).Finish(in.counters(), lineage);
    WriteFile(words.at(1), artifact);
  }

  void Evaluate() {
    const std::string digest = Sha256Hex(in->bytes());
    Lineage lineage = Open(scope::kEvaluate);
    Json made_from = Json::array();
    if (in->text().starts_with("packed ")) {
      lineage.inputs.push_back({"artifact", digest, {}});
    } else {
      const CheckpointReader weights(std::move(*in));
      Lineage of_weights;
      of_weights.tool = weights.lineage().tool;
      of_weights.source_digest = weights.lineage().source_digest;
      lineage.inputs.push_back({"weights", weights.identity(), of_weights});
      for (const Lineage::Input& input : weights.lineage().inputs) made_from.push_back(input.identity);
    }
    const Json scores = {{"val_bpb", 1.5},
                         {"artifact_digest", digest},
                         {"made_from", made_from},
                         {"val_digest", ShardSet(settings.data_path, "val", settings.vocab_size).Identity()},
                         {"byte_table_digest", Sha256Hex(InputFile(settings.byte_table).bytes())},
                         {"lineage", LineageJson(lineage)}};
    WriteFile(out, scores.dump(2) + "\n");
  }

  void Submit() const {
    fs::remove_all(out);
    fs::create_directories(out);
    if (words.size() == 1)
      for (const char* file : {"model.bin.zst", "model.bin.zst.lineage", "eval.json", "train.log", "source.tar.zst", "before-last.json",
                               "before-ema.json", "before-swa.json"})
        if (const std::string path = words[0] + "/" + file; fs::exists(path) && InputFile(path).text() != "null\n") fs::copy(path, out + "/" + file);
    WriteFile(out + "/submission.json", Json{{"author", author}, {"github_id", github_id}}.dump() + "\n");
    LogLine("the table");
  }

  void Work() {
    if (name == "eval-sliding") in.emplace(words.at(0));  // its end: whoever writes into a pipe has noted its name
    if (!prompts.empty()) {  // text for a person, or a sample for the record: no stage of its own
      if (out.empty()) LogLine(prompts[0]);
      else WriteFile(out, "a sample\n");
      return;
    }
    Note(name);
    if ((name == "train" || name == "gptq-lite") && settings.code_bytes != 0 && fs::exists("source.tar.zst") &&
        settings.code_bytes == static_cast<int64_t>(fs::file_size("source.tar.zst")))
      Note("(with the code's bytes)");
    if (Variable("FAIL") == name) throw InputError(name, "fails on request");
    if (Variable("HOLD") == name) {
      Note(std::to_string(getpid()), ".pid");
      for (;;) pause();
    }
    if (!byte_table.empty()) WriteFile(byte_table, "table\n");
    if (name == "train") Train();
    if (name == "ema-finalize")
      Convert(Kind::kWeights, "training checkpoint", scope::kModel | scope::kFinalize | scope::kQuantise | scope::kEvaluate, scope::kFinalize);
    if (name == "gptq-lite") Convert(Kind::kQuantised, "weights", scope::kModel | scope::kQuantise | scope::kEvaluate, scope::kQuantise);
    if (name == "pack-zstd") Pack();
    if (name == "eval-sliding") Evaluate();
    if (name == "make-submission") Submit();
  }
};

int Main(int argc, char** argv) {
  StandIn program;
  program.name = BaseName(argv[0]);
  std::string resume, training, budget, tokenizer, tokens;
  CommandLine line(program.name, "Stands in for " + program.name + ".", program.name);
  line.Inputs("WORDS", program.words, "inputs and outputs");
  line.Optional();
  line.Option("--out", program.out, "");
  line.Option("--generate", program.prompts, "");
  line.Option("--tokens", tokens, "");
  line.Option("--author", program.author, "");
  line.Option("--github-id", program.github_id, "");
  line.Option("--budget", budget, "");
  line.Option("--resume", resume, "");
  line.Option("--training", training, "");
  line.Option("--tokenizer", tokenizer, "");
  if (program.name == "tokenize-shard")
    line.Option("--byte-table", program.byte_table, "");
  else
    line.Use(program.settings, scope::kAll);
  line.Ranks();
  return RunTool(line, argc, argv, [&]() -> Json {
    program.Work();
    return nullptr;
  });
}

}  // namespace
}  // namespace fairway

int main(int argc, char** argv) { return fairway::Main(argc, argv); }
