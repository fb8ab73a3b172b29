#include "common/chain/chain.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <span>

#include "common/average/source.h"
#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/text.h"
#include "common/chain/combinations.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/counter_names.h"
#include "common/quantise/budget.h"
#include "common/quantise/grid.h"
#include "common/quantise/calibration.h"
#include "common/tokens/shards.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

enum Stage { kTrain, kFinalize, kQuantise, kPack, kEval, kBeforeLast, kBeforeEma, kBeforeSwa, kSubmission, kStages };

struct StageInfo {
  const char *name, *program, *product;
  unsigned scope;    // of settings that decide what it makes
  const char* input;  // role in the product's lineage of what the stage before made; null: none
};
constexpr StageInfo kInfo[kStages] = {
    {"train", "train", "train.ckpt", scope::kModel | scope::kTrain, nullptr},
    {"finalize", "ema-finalize", "weights.ckpt", scope::kFinalize, "training checkpoint"},
    {"quantise", "gptq-lite", "quantised.ckpt", scope::kQuantise, "weights"},
    {"pack", "pack-zstd", "model.bin.zst", 0, "quantised checkpoint"},
    {"eval", "eval-sliding", "eval.json", scope::kEvaluate, "artifact"},
    {"before-last", "eval-sliding", "before-last.json", scope::kEvaluate, "training checkpoint"},
    {"before-ema", "eval-sliding", "before-ema.json", scope::kEvaluate, "training checkpoint"},
    {"before-swa", "eval-sliding", "before-swa.json", scope::kEvaluate, "training checkpoint"},
    {"submission", "make-submission", "submission", 0, nullptr},
};
constexpr const char* kSizes[] = {"target_bytes", "target_ratio", "bits_per_weight"};  // of which one counts
constexpr const char* kCodeBytes = "code_bytes";

constexpr char kSettingsHeading[] = "# Settings of ";

bool IsBefore(int stage) { return stage >= kBeforeLast && stage <= kBeforeSwa; }
bool IsSize(std::string_view name) { return std::ranges::find(kSizes, name) != std::end(kSizes); }

bool IsSetting(std::string_view name) {
  return std::ranges::find(SettingTable(), name, &SettingInfo::name) != SettingTable().end();
}

// REQUIRES: IsSetting(name).
unsigned ScopesOf(std::string_view name) { return std::ranges::find(SettingTable(), name, &SettingInfo::name)->scopes; }

// What a product says of itself.
struct Product {
  bool there = false;
  bool says = true;      // what it was made from
  std::string identity;  // what the stage after it names it by
  std::string program;   // digest of the sources of the program that made it
  SettingValues values;   // as stated
  Settings settings;      // the same; what is not stated is at its default
  std::map<std::string, std::string> inputs;  // identity by role
  Counters counters;
};

void AddLineage(const Lineage& lineage, Product& product) {
  product.program = lineage.source_digest;
  for (const Lineage::Input& input : lineage.inputs) product.inputs[input.role] = input.identity;
}

void SetStated(const SettingValues& values, const std::string& path, Product& product) {
  product.settings.Adopt(values, path);
  for (const SettingInfo& info : SettingTable())
    if (product.settings.origin(info.name) == Origin::kCheckpoint) product.values.emplace_back(info.name, product.settings.Get(info.name));
}

Product ReadCheckpoint(const std::string& path) {
  const CheckpointReader checkpoint(path);
  Product product;
  product.there = true;
  product.identity = checkpoint.identity();
  product.counters = checkpoint.counters();
  AddLineage(checkpoint.lineage(), product);
  SetStated(checkpoint.settings(), path, product);
  return product;
}

Product ReadArtifact(const std::string& path) {
  const std::string digest = Sha256Hex(InputFile(path).bytes()), lineage_path = path + ".lineage";
  Product product;
  product.there = true;
  product.identity = digest;
  if (!fs::exists(lineage_path)) {
    product.says = false;
    return product;
  }
  const CheckpointReader lineage(lineage_path);
  AddLineage(lineage.lineage(), product);
  if (product.inputs["artifact"] != digest) product.says = false;
  return product;
}

Product ReadScores(const std::string& path) {
  Product product;
  product.there = true;
  const Json scores = ParseJson<Json>(InputFile(path).text(), path);
  if (scores.is_null()) return product;
  if (!scores.is_object()) throw InputError(path, "is no JSON object");
  const auto text = [](const Json& json, const char* name) {
    return json.is_object() && json.contains(name) && json[name].is_string() ? json[name].get<std::string>() : std::string();
  };
  const Json lineage = scores.value("lineage", Json());
  product.program = text(lineage, "source_digest");
  product.says = !product.program.empty();
  SettingValues values;
  if (product.says && lineage.contains("settings") && lineage["settings"].is_object())
    for (const auto& [name, value] : lineage["settings"].items())
      if (value.is_string() && IsSetting(name)) values.emplace_back(name, value.get<std::string>());
  SetStated(values, path, product);
  product.inputs["artifact"] = text(scores, "artifact_digest");
  product.inputs["validation shards"] = text(scores, "val_digest");
  product.inputs["byte table"] = text(scores, "byte_table_digest");
  product.inputs["byte sidecar"] = text(scores, "byte_sidecar_digest");  // null where there is none
  if (const Json made_from = scores.value("made_from", Json()); made_from.is_array() && made_from.size() == 1 && made_from[0].is_string())
    product.inputs["training checkpoint"] = made_from[0].get<std::string>();
  if (product.says && lineage.contains("inputs") && lineage["inputs"].is_array())
    for (const Json& input : lineage["inputs"])
      if (input.is_object()) product.inputs["program of the " + text(input, "role")] = text(input.value("lineage", Json()), "source_digest");
  return product;
}

bool SameContent(const std::string& a, const std::string& b) {
  if (!fs::exists(a) || !fs::exists(b)) return false;
  if (fs::file_size(a) != fs::file_size(b)) return false;
  return InputFile(a).text() == InputFile(b).text();
}

std::string Content(const std::string& path) { return fs::exists(path) ? std::string(InputFile(path).text()) : ""; }

std::string Short(const std::string& identity) { return identity.empty() ? "nothing" : identity.substr(0, 12); }

}  // namespace

struct Chain::State {
  ChainOptions options;
  int goal = 0;
  Settings environment;  // given by hand now
  std::array<Product, kStages> products;
  std::array<Settings, kStages> settings;  // that a stage would be made with
  std::optional<Product> unfinished;       // the newest checkpoint of training that did not end
  std::string unfinished_path;
  mutable std::map<std::string, std::string> splits;  // identities of the shards and of the byte sidecar, once asked for

  std::string Path(const std::string& name) const { return options.run + "/" + name; }
  bool Given(std::string_view name) const { return environment.origin(name) == Origin::kEnvironment; }

  // --- what is there

  void ReadProducts() {
    for (int stage = 0; stage <= goal; ++stage) {
      const std::string path = Path(kInfo[stage].product);
      if (!fs::exists(path)) continue;
      if (stage <= kQuantise) products[stage] = ReadCheckpoint(path);
      if (stage == kPack) products[stage] = ReadArtifact(path);
      if (stage == kEval || IsBefore(stage)) products[stage] = ReadScores(path);
      if (stage == kSubmission) products[stage].there = fs::exists(path + "/submission.json") && fs::exists(Path("submission.log"));
    }
    int64_t newest = -1;
    std::error_code error;
    for (fs::directory_iterator entry(options.run, error), last; !error && entry != last; entry.increment(error)) {
      const std::string name = entry->path().filename(), begin = "train.partial-", end = ".ckpt";
      int64_t step;
      if (!name.starts_with(begin) || !name.ends_with(end)) continue;
      if (!ParseInt(std::string_view(name).substr(begin.size(), name.size() - begin.size() - end.size()), &step) || step <= newest) continue;
      newest = step;
      unfinished_path = Path(name);
    }
    if (error) throw IoError(options.run, "cannot be listed: " + error.message());
    if (newest >= 0) unfinished = ReadCheckpoint(unfinished_path);
  }

  const std::string& Split(const std::string& split) const {
    auto [found, added] = splits.try_emplace(split);
    if (!added) return found->second;
    const bool sidecar = split == "val bytes";
    const ShardSet shards(Path("data"), sidecar ? "val" : split, settings[kTrain].vocab_size);
    if (!sidecar)
      found->second = shards.Identity();
    else if (shards.has_bytes())
      found->second = shards.BytesIdentity();
    return found->second;
  }
  DataSizes Sizes() const {
    const ShardSet train(Path("data"), "train", settings[kTrain].vocab_size), val(Path("data"), "val", settings[kTrain].vocab_size);
    DataSizes sizes{.train = train.tokens(), .val = val.tokens()};
    for (const ShardSet::Range& shard : train.ranges()) sizes.largest_train_shard = std::max(sizes.largest_train_shard, shard.tokens);
    return sizes;
  }
  static std::string ProgramDigest(int stage) {
    return Trim(InputFile(ProgramDirectory() + "/" + kInfo[stage].program + ".digest").text());
  }

  // --- the settings of each stage

  std::string SettingsPath(int stage) const { return Path(std::string(kInfo[stage].program) + ".settings"); }

  // Settings of the run that were given by hand when the stage was made: its file says so. Without one, all that the product states.
  SettingValues GivenBefore(int stage) const {
    SettingValues given;
    const std::string path = SettingsPath(stage);
    if (!fs::exists(path) || !InputFile(path).text().starts_with(kSettingsHeading)) {
      given = products[stage].values;
      std::erase_if(given, [&](const auto& value) { return value.first == kCodeBytes || !(ScopesOf(value.first) & kInfo[stage].scope); });
      return given;
    }
    const InputFile file(path);
    for (std::string_view rest = file.text(); !rest.empty();) {
      const std::string_view line = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(rest.size(), line.size() + 1));
      const size_t equals = line.find(" = "), comment = line.find("  # ");
      if (line.starts_with('#') || equals == std::string_view::npos) continue;
      const std::string name(line.substr(0, equals));
      const std::string origin(comment == std::string_view::npos ? OriginName(Origin::kEnvironment) : line.substr(comment + 4));
      if (!IsSetting(name) || (origin != OriginName(Origin::kEnvironment) && origin != OriginName(Origin::kCommandLine))) continue;
      if (ScopesOf(name) & scope::kRun) continue;  // how a run is carried out is for each command to say
      given.emplace_back(name, Trim(line.substr(equals + 3, comment == std::string_view::npos ? comment : comment - equals - 3)));
    }
    return given;
  }

  void Resolve() {
    std::map<std::string, std::pair<std::string, std::string>> before;  // value and file by name
    const bool size_given = std::ranges::any_of(kSizes, [&](const char* name) { return Given(name); });
    for (int stage = 0; stage <= kEval; ++stage) {
      if (stage != kPack) {
        const SettingValues given = GivenBefore(stage);
        const bool size = std::ranges::any_of(given, [](const auto& value) { return IsSize(value.first); });
        if (size) std::erase_if(before, [](const auto& entry) { return IsSize(entry.first); });
        for (const auto& [name, value] : given)
          if (!(size_given && IsSize(name))) before[name] = {value, SettingsPath(stage)};
      }
      Settings& s = settings[stage];
      s.LoadProfile(options.profile);
      for (const auto& [name, value] : before) s.Set(name, value.first, Origin::kEnvironment, value.second);
      s.LoadEnvironment();
      // One size counts, the one given in the strongest place (common/quantise/budget.h).
      Origin strongest = Origin::kDefault;
      for (const char* name : kSizes)
        if (s.Get(name) != "0") strongest = std::max(strongest, s.origin(name));
      for (const char* name : kSizes)
        if (s.origin(name) < strongest && s.Get(name) != "0") Clear(s, name);
      if (stage == kTrain || stage == kQuantise) CountCode(stage, s);
    }
    for (int stage = kBeforeLast; stage <= kBeforeSwa; ++stage) {
      settings[stage] = settings[kEval];
      settings[stage].Set("eval_stride", "0", Origin::kCommandLine, "");
      settings[stage].Set("method", "sliding", Origin::kCommandLine, "");
      settings[stage].Set("ngram_order", "0", Origin::kCommandLine, "");
    }
  }
  static void Clear(Settings& s, std::string_view name) {
    if (name == "target_bytes") s.target_bytes = 0;
    if (name == "target_ratio") s.target_ratio = 0;
    if (name == "bits_per_weight") s.bits_per_weight = 0;
  }

  // The bytes of the code matter where a size in bytes is asked for. Training under way keeps the number that it began with; an
  // artifact keeps its own as long as the code has not grown.
  void CountCode(int stage, Settings& s) const {
    if (s.origin(kCodeBytes) >= Origin::kEnvironment) return;
    s.code_bytes = s.target_bytes > 0 && HasSize(s) ? options.source_bytes : 0;
    const auto keep = [&](const Settings& stated) {
      const auto names = Differing(stated, s, kInfo[stage].scope);
      if (names.size() == 1 && names[0] == kCodeBytes) s.code_bytes = stated.code_bytes;
    };
    if (stage == kTrain && unfinished) keep(unfinished->settings);
    if (stage == kQuantise && products[stage].there && products[stage].settings.code_bytes >= s.code_bytes) keep(products[stage].settings);
  }

  // --- comparison

  // "iterations was 140 and is 100 now" for each setting that decides what the stage makes.
  static std::vector<std::string> Differing(const Settings& stated, const Settings& now, unsigned scopes) {
    std::vector<std::string> names;
    for (const SettingInfo& info : SettingTable())
      if ((info.scopes & scopes) && !(info.scopes & scope::kRun) && stated.Get(info.name) != now.Get(info.name)) names.emplace_back(info.name);
    return names;
  }
  static std::string Tell(const std::vector<std::string>& names, const Settings& stated, const Settings& now) {
    std::vector<std::string> parts;
    for (const std::string& name : names)
      parts.push_back(StringPrintf("%s was %s and is %s now", name.c_str(), Quoted(stated.Get(name)).c_str(), Quoted(now.Get(name)).c_str()));
    return Join(parts, ", ");
  }
  static std::string Quoted(const std::string& value) { return value.empty() ? "''" : Shorten(value, 100); }

  // A setting given by hand for the goal, which an earlier stage has too, but for the model's shape.
  bool MeantForGoal(int stage, const std::string& name) const {
    if (stage >= goal || goal > kEval || !Given(name) || options.again) return false;
    return (ScopesOf(name) & kInfo[goal].scope & ~scope::kRun) && !(ScopesOf(name) & scope::kModel);
  }

  struct Verdict {
    std::vector<std::string> causes;  // why the product is not what would be made now; what the stage before made left out
    bool other_input = false;         // the stage before has made something else since
    std::string kept;                 // settings that differ but are meant for the goal
  };

  Verdict Judge(int stage) const {
    const Product& product = products[stage];
    Verdict verdict;
    if (!product.there) return verdict;
    if (stage == kSubmission) {
      JudgeSubmission(verdict);
      return verdict;
    }
    if (IsBefore(stage) && NoWeights(stage)) {
      if (!product.program.empty()) verdict.other_input = true;
      return verdict;
    }
    if (!product.says || product.program.empty()) {
      verdict.causes.push_back("it does not say what it was made from");
      return verdict;
    }
    std::vector<std::string> names = Differing(product.settings, settings[stage], kInfo[stage].scope), kept;
    // Finished training is not for the code to undo: only the first guess of its late QAT goes by the code's bytes.
    if (stage == kTrain && settings[stage].origin(kCodeBytes) < Origin::kEnvironment) std::erase(names, kCodeBytes);
    for (const std::string& name : names)
      if (MeantForGoal(stage, name)) kept.push_back(name);
    std::erase_if(names, [&](const std::string& name) { return std::ranges::find(kept, name) != kept.end(); });
    verdict.kept = Tell(kept, product.settings, settings[stage]);
    if (!names.empty()) verdict.causes.push_back(Tell(names, product.settings, settings[stage]));
    const auto compare = [&](const std::string& role, const std::string& what, const std::string& now) {
      const auto found = product.inputs.find(role);
      if (found == product.inputs.end() || found->second == now) return;
      verdict.causes.push_back(StringPrintf("%s were %s and are %s now", what.c_str(), Short(found->second).c_str(), Short(now).c_str()));
    };
    if (product.inputs.contains("train shards")) compare("train shards", "the training shards", Split("train"));
    if (product.inputs.contains("validation shards")) {
      compare("validation shards", "the validation shards", Split("val"));
      compare("byte sidecar", "the bytes of each token", Split("val bytes"));
      compare("byte table", "the pieces of the byte table", Sha256Hex(InputFile(Path("byte_table.pb")).bytes()));
    }
    if (const std::string now = ProgramDigest(stage); product.program != now)
      verdict.causes.push_back(StringPrintf("the sources of %s were %s and are %s now", kInfo[stage].program, Short(product.program).c_str(),
                                            Short(now).c_str()));
    if (IsBefore(stage)) {
      const auto found = product.inputs.find("program of the weights");
      if (found == product.inputs.end() || found->second != ProgramDigest(kFinalize)) verdict.causes.push_back("the sources of ema-finalize changed");
    }
    if (kInfo[stage].input != nullptr) {
      const Product& made_from = products[IsBefore(stage) ? kTrain : stage - 1];
      const auto found = product.inputs.find(kInfo[stage].input);
      if (made_from.there && (found == product.inputs.end() || found->second != made_from.identity)) verdict.other_input = true;
    }
    return verdict;
  }

  bool NoWeights(int stage) const {
    const Product& train = products[kTrain];
    if (!train.there) return false;
    if (stage == kBeforeEma) return train.counters.Get(counter::kEmaUpdates) == 0;
    return stage == kBeforeSwa && train.counters.Get(counter::kSwaSnapshots) == 0;
  }

  // The folder holds copies of what it was made from.
  void JudgeSubmission(Verdict& verdict) const {
    const auto same = [&](const std::string& name) { return SameContent(Path(name), Path("submission/" + name)); };
    for (const char* name : {"model.bin.zst", "model.bin.zst.lineage", "eval.json", "train.log", "source.tar.zst"})
      if (!same(name)) verdict.other_input = true;
    for (int stage = kBeforeLast; stage <= kBeforeSwa; ++stage) {
      const std::string name = kInfo[stage].product;
      const bool scored = !products[stage].program.empty();
      if (scored ? !same(name) : fs::exists(Path("submission/" + name))) verdict.other_input = true;
    }
    const Json said = ParseJson<Json>(InputFile(Path("submission/submission.json")).text(), Path("submission/submission.json"));
    for (const char* name : {"author", "github_id"})
      if (!said.is_object() || said.value(name, "") != Content(Path(std::string(name) + ".txt"))) verdict.other_input = true;
    if (Trim(Content(Path("submission.digest"))) != ProgramDigest(kSubmission)) verdict.other_input = true;
  }

  // What is wrong with going on from the unfinished checkpoint; empty where nothing is.
  std::string WhyNotResumed() const {
    if (!unfinished) return "";
    const Settings &then = unfinished->settings, &now = settings[kTrain];
    if (const auto names = Differing(then, now, kInfo[kTrain].scope); !names.empty()) return Tell(names, then, now);
    const auto found = unfinished->inputs.find("train shards");
    if (found != unfinished->inputs.end() && found->second != Split("train"))
      return StringPrintf("the training shards were %s and are %s now", Short(found->second).c_str(), Short(Split("train")).c_str());
    return "";
  }

  // What training calibrated for is one source of weights (common/quantise/calibration.h).
  void CheckCalibratedSource(int first, const ChainSettings& chain) const {
    if (first == kTrain || first > kQuantise || goal < kQuantise || !TrainingCalibrates(chain.quantise) || chain.finalize.source == "select") return;
    const auto shares = [](std::string_view source) {
      std::map<std::string, double> shares;
      for (const SourcePart& part : ParseSource(source)) shares[part.set] = part.share;
      return shares;
    };
    for (const auto& [name, value] : products[kTrain].counters.all())
      if (const std::string_view prefix = counter::kCalibrationOfPrefix; name.starts_with(prefix))
        if (const std::string source = name.substr(prefix.size()); shares(source) != shares(chain.finalize.source))
          throw UsageError("CALIBRATION = train: training calibrated for SOURCE = " + source + ", and the weights are those of SOURCE = " + chain.finalize.source +
                           "; CALIBRATION=self calibrates on text that the weights generate");
  }

  bool IsDue(int stage, const Verdict& verdict) const {
    return !products[stage].there || !verdict.causes.empty() || verdict.other_input;
  }
};

Chain::Chain(ChainOptions options) : state_(std::make_unique<State>()) {
  state_->options = std::move(options);
  const auto found = std::ranges::find(kInfo, state_->options.goal, [](const StageInfo& info) { return std::string(info.name); });
  if (found == std::end(kInfo) || IsBefore(static_cast<int>(found - kInfo)))
    throw UsageError("'" + state_->options.goal + "' is none of train, finalize, quantise, pack, eval, submission");
  state_->goal = static_cast<int>(found - kInfo);
  state_->environment.LoadEnvironment();
  state_->ReadProducts();
  state_->Resolve();
}

Chain::~Chain() = default;

std::vector<DueStage> Chain::Due() const {
  const State& state = *state_;
  std::vector<DueStage> due;
  for (int stage = 0; stage <= state.goal; ++stage) {
    if (IsBefore(stage) && state.goal != kSubmission) continue;
    const State::Verdict verdict = state.Judge(stage);
    const bool follows = !due.empty() && (!IsBefore(stage) || due.front().name == kInfo[kTrain].name);
    if (!follows && !state.IsDue(stage, verdict)) continue;
    DueStage one;
    one.name = kInfo[stage].name;
    one.none = IsBefore(stage) && state.NoWeights(stage);
    if (!verdict.causes.empty()) one.why = std::string(kInfo[stage].product) + ": " + Join(verdict.causes, "; ");
    one.afresh = stage == kTrain && !state.WhyNotResumed().empty();
    due.push_back(one);
  }
  return due;
}

std::vector<std::string> Chain::Check() const {
  const State& state = *state_;
  std::vector<std::string> lines;
  const std::string choice = "; AGAIN=1 makes it again in this run, RUN=NAME makes another run";
  int first = kStages;
  ChainSettings chain{state.settings[kTrain], state.settings[kFinalize], state.settings[kQuantise], state.settings[kEval]};
  Settings* const of_stage[] = {&chain.train, &chain.finalize, &chain.quantise, nullptr, &chain.eval};
  for (int stage = 0; stage <= state.goal; ++stage) {
    if (IsBefore(stage)) continue;
    const Product& product = state.products[stage];
    const State::Verdict verdict = state.Judge(stage);
    const std::string path = state.Path(kInfo[stage].product);
    if (product.there && !verdict.causes.empty() && !state.options.again && (stage < state.goal || stage == kTrain))
      throw UsageError(path + " is finished, and would be made from something else now: " + Join(verdict.causes, "; ") + choice);
    if (!product.there && stage < state.goal && !state.options.again)
      for (int later = stage + 1; later <= std::min(state.goal, static_cast<int>(kEval)); ++later)
        if (state.products[later].there)
          throw UsageError(path + " is missing, and " + kInfo[later].product + " that came of it is there" + choice);
    if (!verdict.kept.empty()) lines.push_back(std::string(kInfo[stage].product) + " is kept: " + verdict.kept + ", for " + kInfo[state.goal].name + " alone");
    if (state.IsDue(stage, verdict)) first = std::min(first, stage);
    if (stage <= kEval && of_stage[stage] != nullptr && !state.IsDue(stage, verdict)) *of_stage[stage] = product.settings;
  }
  if (first == kTrain && !state.options.again)
    if (const std::string why = state.WhyNotResumed(); !why.empty())
      throw UsageError(state.unfinished_path + " is of an unfinished run with other settings: " + why +
                       "; the settings of then continue it, AGAIN=1 starts afresh in its place, RUN=NAME makes another run");
  if (first <= kEval) {
    constexpr LastStage kNamed[] = {LastStage::kTrain, LastStage::kFinalize, LastStage::kQuantise, LastStage::kQuantise, LastStage::kEval};
    const LastStage last = state.goal == kSubmission ? LastStage::kSubmission : kNamed[state.goal];
    CheckCombinations(chain, last, state.options.budget);
    state.CheckCalibratedSource(first, chain);
    CheckDataSizes(chain, kNamed[first], last, state.Sizes());
  }
  if (first == kTrain)
    for (const std::string& line : IdleTechniques(chain.train)) lines.push_back(line);
  return lines;
}

void Chain::WriteSettings(const std::string& stage) const {
  const auto found = std::ranges::find(kInfo, stage, [](const StageInfo& info) { return std::string(info.name); });
  const int index = IsBefore(static_cast<int>(found - kInfo)) ? kEval : static_cast<int>(found - kInfo);
  if (index == kPack || index > kEval) return;
  const Settings& settings = state_->settings[index];
  std::string text = std::string(kSettingsHeading) + kInfo[index].program + " in this run, and where they came from.\n";
  for (const SettingInfo& info : SettingTable()) {
    std::string value = settings.Get(info.name), origin(OriginName(settings.origin(info.name)));
    bool active = settings.origin(info.name) != Origin::kDefault;
    if (index == kQuantise && std::ranges::find(kBatchSettings, info.name) != std::end(kBatchSettings)) active = true;
    // The run's own links, so that a moved run finds them.
    if (info.name == "data_path") std::tie(value, origin, active) = std::tuple("data", "link", true);
    if (info.name == "byte_table") std::tie(value, origin, active) = std::tuple("byte_table.pb", "of the run", true);
    if (info.name == "tokenizer_path") continue;
    if (info.name == kCodeBytes && settings.origin(info.name) < Origin::kEnvironment)
      std::tie(origin, active) = std::tuple("source.tar.zst", index == kTrain || index == kQuantise);
    if (value.find('#') != std::string::npos || value != Trim(value))
      throw UsageError(info.Environment() + " = '" + Shorten(value, 100) + "' cannot be written in a profile: it has a # or blanks at an end");
    text += StringPrintf("%s%s = %s  # %s\n", active ? "" : "# ", std::string(info.name).c_str(), value.c_str(), origin.c_str());
  }
  const std::string path = state_->SettingsPath(index);
  if (Content(path) != text) WriteFile(path, text);
}

}  // namespace fairway
