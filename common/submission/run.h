// One finished run, as part of a record: every file read, and checked to belong to the others.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/checkpoint/checkpoint.h"
#include "common/settings/settings.h"
#include "common/submission/train_log.h"

namespace fairway {

using Json = nlohmann::ordered_json;

// The files of a run directory that a record is made from.
namespace run_file {
inline constexpr char kTrain[] = "train.ckpt";
inline constexpr char kWeights[] = "weights.ckpt";
inline constexpr char kQuantised[] = "quantised.ckpt";
inline constexpr char kArtifact[] = "model.bin.zst";
inline constexpr char kLineage[] = "model.bin.zst.lineage";
inline constexpr char kEval[] = "eval.json";
inline constexpr char kLog[] = "train.log";
inline constexpr char kSource[] = "source.tar.zst";
inline constexpr char kSample[] = "sample.json";
inline constexpr char kProof[] = "prove.json";
inline std::string Before(const std::string& set) {
  return "before-" + set + ".json";
}
}  // namespace run_file

// The sets of weights that may be scored before quantisation, in the order in which they are shown.
inline constexpr const char* kWeightSets[] = {"last", "ema", "swa"};

// No score in nats or bits is larger: what is can be no score, and could not be counted with.
inline constexpr double kMaxScore = 1e9;

// Bytes of the artifact by what they are for; the first four before compression by zstd.
struct ArtifactSizes {
  uint64_t codes = 0;            // streams of the arithmetic coder, and one byte for each code that lies in none
  uint64_t scales = 0, kept = 0;  // payloads: of scales, and of tensors kept in floating point
  uint64_t other = 0;            // names, shapes, settings, hashes
  uint64_t compressed = 0;       // the file
  uint64_t coded = 0;            // how many codes lie in streams
};

// Text that the artifact continued a prompt with.
struct Sample {
  std::string prompt, text;
};

struct FinishedRun {
  std::string directory;
  Settings settings;     // as trained, finalised and quantised
  SettingValues stated;  // of those, what the three checkpoints state; all of them where a record is read
  Counters counters;     // of the whole chain
  Lineage lineage;       // of the artifact, back to the corpus
  ArtifactSizes artifact;
  Json eval;                           // eval.json
  std::map<std::string, Json> before;  // scores before quantisation by set of weights; absent ones left out
  Json proof;  // prove.json, of this artifact and this evaluation; null where the run has none
  std::vector<Sample> samples;  // from sample.json, which a run need not have
  std::string sampling;         // how they were drawn: "temperature 0.8, top-p 0.95, seed 1337"
  TrainLog log;
  std::string source_digest;  // SHA-256 of the source archive
  uint64_t source_bytes = 0;

  int64_t seed() const { return settings.seed; }
  int64_t steps() const;

  // How often a technique acted, by its own counter, and how often the settings meant it to: updates of the EMA, snapshots of the SWA,
  // steps of late QAT. `acted` is 0 of `meant` 0 where it is off.
  struct Action {
    double acted = 0, meant = 0;
    bool on() const { return meant > 0; }
    // Less than a hundredth of what it was meant for is no claim (a clock may end a run before a technique has begun).
    bool counts() const { return acted > 0 && acted >= meant / 100; }
  };
  Action ema() const;
  Action swa() const;
  Action late_qat() const;
  // Of training, as the log's last line of a step states it: the clock has calibration and the writing of files too. A log without
  // such a line: the clock over the steps.
  double step_ms() const;
};

// Reads a run directory. Throws IoError or InputError for a part that is missing or damaged, and GateError
// - where parts do not belong together: each of artifact, quantised checkpoint, weights and training checkpoint must
// name the
//   one before it by its identity, and scores and log must be of these;
// - where the artifact has int6 matrices and no row's clip was searched for;
// - where a proof of this artifact failed. One of another artifact or evaluation, from before, is ignored.
FinishedRun ReadRun(const std::string& directory);

// The same of what a record keeps of a run: its checkpoints are not there, so the lineage of the artifact replaces the chain, and
// for the settings. A proof of something else is GateError. `source` is the path of the source archive.
FinishedRun ReadRecordedRun(const std::string& directory, const std::string& source);

// A whole file of JSON. Throws IoError, InputError (common/base/json.h).
Json ReadJson(const std::string& path);

}  // namespace fairway
