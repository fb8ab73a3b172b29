#include "common/submission/run.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <optional>
#include <set>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/text.h"
#include "common/checkpoint/counter_names.h"
#include "common/quantise/artifact.h"
#include "common/settings/schedule.h"

namespace fairway {
namespace {

[[noreturn]] void NotTogether(const std::string& path, const std::string& cause) {
  throw GateError(path + ": does not belong to the other parts: " + Shorten(cause, 500));  // it quotes files
}

// The one input of that role. `path` is the file that states the lineage.
const Lineage::Input& InputOf(const Lineage& lineage, const std::string& role, const std::string& path) {
  for (const Lineage::Input& input : lineage.inputs) {
    if (input.role == role) return input;
  }
  throw InputError(path, "its lineage names no " + role);
}

// REQUIRES: `input`, which `path` was made from, is `checkpoint`.
void CheckLink(const std::string& path, const Lineage::Input& input, const CheckpointReader& checkpoint) {
  if (input.identity == checkpoint.identity()) return;
  NotTogether(path, "it was made from the " + input.role + " " + input.identity + ", but " + checkpoint.path() +
                        " is " + checkpoint.identity());
}

// Fields that the record reads from a file of scores, each of its type.
void CheckScores(const Json& scores, const std::string& path) {
  if (!scores.is_object()) throw InputError(path, "is no JSON object");
  const auto require = [&](std::initializer_list<const char*> names, const char* type, auto is) {
    for (const char* name : names) {
      if (!scores.contains(name)) throw InputError(path, std::string("misses ") + name);
      if (!is(scores[name])) throw InputError(path, std::string(name) + " is no " + type);
    }
  };
  // Means and tests are made of them.
  const auto is_score = [](const Json& json) { return json.is_number() && json.get<double>() >= 0 && json.get<double>() <= kMaxScore; };
  require({"val_loss", "val_bpb"}, "score", is_score);
  // A split without a whole sequence has no plain score.
  require({"val_loss_plain", "val_bpb_plain"}, "score", [&](const Json& json) { return json.is_null() || is_score(json); });
  require({"targets", "bytes", "stride", "seq_len", "threads"}, "count", [](const Json& json) {
    return json.is_number_unsigned() && json.get<uint64_t>() >= 1 && json.get<uint64_t>() <= INT64_MAX;
  });
  require({"published_quirks"}, "switch", [](const Json& json) { return json.is_boolean(); });
  require({"artifact_digest", "identity", "val_digest", "byte_table_digest", "method", "precision", "cpu"}, "printable text",
          [](const Json& json) { return json.is_string() && IsPrintable(json.get_ref<const std::string&>()); });
  require({"made_from"}, "list", [](const Json& json) { return json.is_array(); });
  // Absent from older files. Bytes are added up.
  const auto is_size = [](const Json& json) { return json.is_number_unsigned() && json.get<uint64_t>() <= uint64_t{1} << 40; };
  if (scores.contains("tokenizer_bytes"))
    require({"tokenizer_bytes"}, "count", [&](const Json& json) { return json.is_null() || is_size(json); });
  if (!scores.contains("programs")) return;
  require({"programs"}, "list of programs", [&](const Json& json) {
    return json.is_array() && json.size() <= 10000 && std::ranges::all_of(json, [&](const Json& file) {
      const auto is_text = [&](const char* name) { return file.contains(name) && file[name].is_string() && IsPrintable(file[name].get_ref<const std::string&>()); };
      return file.is_object() && is_text("name") && is_text("from") && file.contains("bytes") && is_size(file["bytes"]);
    });
  });
}

ArtifactSizes Measure(const InputFile& file, const CheckpointReader& unpacked) {
  ArtifactSizes sizes;
  sizes.compressed = file.bytes().size();
  const std::set<std::string> scales = ScaleNames(unpacked);
  for (const TensorInfo& tensor : unpacked.tensors()) {
    (tensor.quantisation ? sizes.codes : scales.contains(tensor.name) ? sizes.scales : sizes.kept) += tensor.bytes();
  }
  const CheckpointReader::Packing& packing = unpacked.packing();
  sizes.coded = packing.stream_codes;
  sizes.codes = sizes.codes - packing.stream_codes + packing.stream_bytes;
  sizes.other = packing.bytes - sizes.codes - sizes.scales - sizes.kept;
  return sizes;
}

// The scores before quantisation, of weights that come from the training checkpoint of this identity, on the same text.
std::map<std::string, Json> ReadScoresBefore(const std::string& directory, const std::string& trained, const Json& eval) {
  std::map<std::string, Json> before;
  for (const std::string set : kWeightSets) {
    const std::string path = directory + "/" + run_file::Before(set);
    struct stat status;
    if (stat(path.c_str(), &status) != 0 && errno == ENOENT) continue;
    const Json scores = ReadJson(path);
    if (scores.is_null()) continue;  // an average that training did not keep
    CheckScores(scores, path);
    if (scores["made_from"] != Json::array({trained})) {
      NotTogether(path, "it is of weights made from " + scores["made_from"].dump() + ", but the run's training checkpoint is " +
                            trained);
    }
    for (const char* name : {"val_digest", "byte_table_digest", "seq_len", "published_quirks", "precision"}) {
      if (scores[name] == eval[name]) continue;
      NotTogether(path, std::string(name) + " is " + scores[name].dump() + ", but " + eval[name].dump() + " in " +
                            run_file::kEval);
    }
    before[set] = scores;
  }
  return before;
}

// What `eval-sliding --generate` printed of this artifact, where the run has it.
void ReadSamples(const std::string& path, const CheckpointReader& artifact, FinishedRun& run) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0 && errno == ENOENT) return;
  const Json json = ReadJson(path);
  const auto is_text = [](const Json& object, const char* name) { return object.contains(name) && object[name].is_string(); };
  const auto is_number = [&](const char* name) { return json.contains(name) && json[name].is_number(); };
  if (!json.is_object() || !is_text(json, "identity") || !json.contains("samples") || !json["samples"].is_array())
    throw InputError(path, "is not what eval-sliding --generate prints");
  if (json["identity"] != artifact.identity())
    NotTogether(path, "it is of the weights " + json["identity"].dump() + ", but " + run_file::kArtifact + " holds " + artifact.identity());
  for (const Json& sample : json["samples"]) {
    if (!sample.is_object() || !is_text(sample, "prompt") || !is_text(sample, "text")) throw InputError(path, "a sample misses prompt or text");
    run.samples.push_back({sample["prompt"], sample["text"]});
  }
  for (const char* name : {"temperature", "top_k", "top_p", "seed"})
    if (!is_number(name)) throw InputError(path, std::string("misses ") + name);
  std::vector<std::string> how = {"temperature " + json["temperature"].dump()};
  if (json["top_k"] != 0) how.push_back("top-k " + json["top_k"].dump());
  if (json["top_p"] != 1) how.push_back("top-p " + json["top_p"].dump());
  how.push_back("seed " + json["seed"].dump());
  run.sampling = Join(how, ", ");
}

// What `eval-sliding --prove` wrote, where it is of these scores.
Json ReadProof(const std::string& path, const Json& eval, bool must_belong) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0 && errno == ENOENT) return nullptr;
  const Json proof = ReadJson(path);
  const auto misses = [&](const std::string& name) { return InputError(path, "is not what eval-sliding --prove writes: misses " + name); };
  if (!proof.is_object()) throw misses("everything");
  for (const char* name : {"artifact_digest", "val_digest", "byte_table_digest", "method"}) {
    if (!proof.contains(name)) throw misses(name);
    if (proof[name] == eval[name]) continue;
    if (must_belong) NotTogether(path, std::string("its ") + name + " is " + proof[name].dump() + ", but " + eval[name].dump() + " in " + run_file::kEval);
    return nullptr;
  }
  for (const auto& [group, names] : std::initializer_list<std::pair<const char*, std::vector<const char*>>>{
           {"targets", {"in_all", "scored", "doubled", "dropped", "learnt_from"}}, {"bytes", {"counted", "spelt"}}, {"order", {"events"}},
           {"flips", {"tokens", "scores_kept"}}, {"sums", {"distributions", "worst"}}}) {
    if (!proof.contains(group) || !proof[group].is_object()) throw misses(group);
    for (const char* name : names)
      if (!proof[group].contains(name) || !proof[group][name].is_number()) throw misses(std::string(group) + "." + name);
  }
  if (const Json documents = proof.value("documents", Json()); documents.is_object())
    for (const char* name : {"train_documents", "val_documents", "shared", "near"})
      if (!documents.contains(name) || !documents[name].is_number()) throw misses(std::string("documents.") + name);
  if (const Json tokenizer = proof.value("tokenizer", Json()); tokenizer.is_object())
    for (const char* name : {"documents", "shared"})
      if (!tokenizer.contains(name) || !tokenizer[name].is_number()) throw misses(std::string("tokenizer.") + name);
  if (!proof.contains("proved") || !proof["proved"].is_boolean() || !proof.contains("failures") || !proof["failures"].is_array()) throw misses("proved");
  // It proves this score, computed again: to summation noise of other threads.
  constexpr double kNoise = 1e-4;
  if (!proof.contains("val_bpb") || !proof["val_bpb"].is_number()) throw misses("val_bpb");
  if (std::fabs(proof["val_bpb"].get<double>() - eval["val_bpb"].get<double>()) > kNoise) {
    if (must_belong) NotTogether(path, "its val_bpb is " + proof["val_bpb"].dump() + ", but " + eval["val_bpb"].dump() + " in " + run_file::kEval);
    return nullptr;
  }
  if (!proof["proved"].get<bool>())
    throw GateError(path + ": the score is not proved: " + Shorten(proof["failures"].empty() ? "it does not say why" : proof["failures"][0].dump(), 300));
  return proof;
}

void CheckEval(const std::string& path, const Json& eval, const std::string& artifact_digest, const CheckpointReader& artifact) {
  if (eval["artifact_digest"] != artifact_digest) {
    NotTogether(path, "it scores the artifact " + eval["artifact_digest"].dump() + ", but " + run_file::kArtifact +
                          " has the SHA-256 " + artifact_digest);
  }
  if (eval["identity"] != artifact.identity()) {
    NotTogether(path, "it scores the weights " + eval["identity"].dump() + ", but " + run_file::kArtifact + " holds " +
                          artifact.identity());
  }
}

void CheckLog(const std::string& path, const FinishedRun& run) {
  if (run.log.train.empty() && run.log.validation.empty()) throw InputError(path, "holds no line of a step");
  if (run.log.seed && *run.log.seed != run.seed()) {
    NotTogether(path, StringPrintf("it is of seed %jd, but the weights are of seed %jd", *run.log.seed, run.seed()));
  }
  if (run.log.LastStep() != run.steps()) {
    NotTogether(path, StringPrintf("it ends at step %jd, but training at step %jd", run.log.LastStep(), run.steps()));
  }
}

// What an artifact is made of must have happened. Averages that were not taken, and late QAT, are not claimed where they never acted
// (FinishedRun::Action).
void CheckClaims(const FinishedRun& run, const CheckpointReader& artifact) {
  for (const auto& [set, name] : {std::pair{"ema", counter::kEmaUpdates}, {"swa", counter::kSwaSnapshots}}) {
    if (run.counters.Get(counter::kFinalizePrefix + std::string(set)) == 0 || run.counters.Get(name) > 0) continue;
    throw GateError(run.directory + ": its weights are of the " + set + ", which was never taken (" + name + " is 0)");
  }
  // Of the published quantiser, int6 is the grid whose clip is searched for.
  const auto is_searched = [](const TensorInfo& tensor) { return tensor.quantisation && tensor.quantisation->grid == "int6"; };
  if (run.settings.quantiser == "published" && std::ranges::any_of(artifact.tensors(), is_searched) && !(run.counters.Get(counter::kClipRowsSearched) > 0))
    throw GateError(run.directory + ": the artifact has int6 matrices, but no row's clip was searched for (" + counter::kClipRowsSearched + " is 0)");
}

// What a lineage notes of settings: of its inputs first, so that the later stage counts.
void AdoptNoted(const Lineage& lineage, const std::string& path, Settings& settings) {
  for (const Lineage::Input& input : lineage.inputs) AdoptNoted(input.lineage, path, settings);
  SettingValues noted = lineage.settings;  // and of other things, as the processor
  std::erase_if(noted, [](const auto& value) {
    return std::ranges::find(SettingTable(), value.first, &SettingInfo::name) == SettingTable().end();
  });
  settings.Adopt(noted, path);
}

// The checkpoints of a run, which its record leaves out.
struct Stages {
  const CheckpointReader &train, &weights, &quantised;
};

FinishedRun Read(const std::string& directory, const std::string& source_path, const std::optional<Stages>& stages) {
  const auto path = [&](const std::string& name) { return directory + "/" + name; };
  FinishedRun run;
  run.directory = directory;

  const CheckpointReader lineage(path(run_file::kLineage));
  const InputFile artifact_file(path(run_file::kArtifact));
  const std::string artifact_digest = Sha256Hex(artifact_file.bytes());
  const CheckpointReader artifact = OpenWeights(path(run_file::kArtifact));

  // The chain, from its end to its beginning.
  const Lineage::Input& packed = InputOf(lineage.lineage(), "artifact", lineage.path());
  if (packed.identity != artifact_digest) {
    NotTogether(lineage.path(), "it is of the artifact " + packed.identity + ", but " + run_file::kArtifact +
                                    " has the SHA-256 " + artifact_digest);
  }
  const Lineage::Input& quantised = InputOf(lineage.lineage(), "quantised checkpoint", lineage.path());
  if (stages) CheckLink(lineage.path(), quantised, stages->quantised);
  if (artifact.identity() != quantised.identity) {
    NotTogether(artifact.path(), "it holds the weights " + artifact.identity() + ", but " + lineage.path() + " names " +
                                     quantised.identity);
  }
  const Lineage::Input& weights = InputOf(quantised.lineage, "weights", lineage.path());
  const Lineage::Input& train = InputOf(weights.lineage, "training checkpoint", lineage.path());
  constexpr unsigned kScope = scope::kModel | scope::kTrain | scope::kFinalize | scope::kQuantise | scope::kEvaluate;
  if (stages) {
    const auto& [own_train, own_weights, own_quantised] = *stages;
    CheckLink(own_quantised.path(), InputOf(own_quantised.lineage(), "weights", own_quantised.path()), own_weights);
    CheckLink(own_weights.path(), InputOf(own_weights.lineage(), "training checkpoint", own_weights.path()), own_train);
    std::set<std::string> stated;
    for (const CheckpointReader* stage : {&own_train, &own_weights, &own_quantised}) {
      run.settings.Adopt(stage->settings(), stage->path());
      for (const auto& [name, value] : stage->settings()) stated.insert(name);
    }
    run.stated = run.settings.Select(kScope);
    std::erase_if(run.stated, [&](const auto& value) { return !stated.contains(value.first); });
  } else {
    AdoptNoted(lineage.lineage(), lineage.path(), run.settings);
    run.settings.Adopt(lineage.settings(), lineage.path());
    run.stated = run.settings.Select(kScope);
  }
  run.counters = lineage.counters();
  // The record counts with these.
  for (const auto& [name, value] : run.counters.all())
    if (std::fabs(value) > 0x1p53) throw InputError(lineage.path(), "its counter " + name + " is beyond all counting");
  run.lineage = lineage.lineage();
  run.artifact = Measure(artifact_file, artifact);
  if (run.steps() <= 0) throw InputError(lineage.path(), "counts no training step");

  run.eval = ReadJson(path(run_file::kEval));
  CheckScores(run.eval, path(run_file::kEval));
  CheckEval(path(run_file::kEval), run.eval, artifact_digest, artifact);
  run.before = ReadScoresBefore(directory, stages ? stages->train.identity() : train.identity, run.eval);
  run.proof = ReadProof(path(run_file::kProof), run.eval, !stages);
  ReadSamples(path(run_file::kSample), artifact, run);
  run.log = ParseTrainLog(InputFile(path(run_file::kLog)).text(), path(run_file::kLog));
  CheckLog(path(run_file::kLog), run);
  CheckClaims(run, artifact);

  const InputFile source(source_path);
  run.source_digest = Sha256Hex(source.bytes());
  run.source_bytes = source.bytes().size();
  return run;
}

}  // namespace

Json ReadJson(const std::string& path) {
  return ParseJson<Json>(InputFile(path).text(), path);
}

int64_t FinishedRun::steps() const {
  return static_cast<int64_t>(counters.Get(counter::kSteps));
}

FinishedRun::Action FinishedRun::ema() const {
  if (!settings.ema_enabled) return {};
  return {counters.Get(counter::kEmaUpdates), static_cast<double>(steps())};
}

FinishedRun::Action FinishedRun::swa() const {
  if (!settings.swa_enabled) return {};
  const double late = LateSteps(settings, settings.swa_start_frac, steps());
  return {counters.Get(counter::kSwaSnapshots), std::max(1.0, std::floor(late / static_cast<double>(settings.swa_every)))};
}

FinishedRun::Action FinishedRun::late_qat() const {
  if (settings.late_qat_threshold <= 0) return {};
  const double late = LateSteps(settings, settings.late_qat_threshold, steps());
  const bool began = counters.Get(counter::kQatReplacements) > 0;
  return {began ? steps() - counters.Get(counter::kQatFirstStep) : 0, std::max(1.0, std::floor(late))};
}

double FinishedRun::step_ms() const {
  if (!log.train.empty()) return log.train.back().step_ms;
  return steps() == 0 ? 0 : 1000 * counters.Get(counter::kTrainSeconds) / steps();
}

FinishedRun ReadRun(const std::string& directory) {
  const CheckpointReader train(directory + "/" + run_file::kTrain), weights(directory + "/" + run_file::kWeights),
      quantised(directory + "/" + run_file::kQuantised);
  train.Expect({Kind::kTraining});
  weights.Expect({Kind::kWeights});
  quantised.Expect({Kind::kQuantised});
  return Read(directory, directory + "/" + run_file::kSource, Stages{train, weights, quantised});
}

FinishedRun ReadRecordedRun(const std::string& directory, const std::string& source) {
  return Read(directory, source, std::nullopt);
}

}  // namespace fairway
