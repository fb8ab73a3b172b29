#include "common/train/inputs.h"

#include <torch/headeronly/version.h>

#include <map>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/tokens/manifest.h"

namespace fairway {
namespace {

constexpr char kHowToContinue[] = " (give those of then to continue; remove the checkpoint, or choose another --out, to start afresh)";

}  // namespace

Lineage::Input LineageOf(const ShardSet& shards, const Settings& settings) {
  Lineage::Input input{.role = "train shards", .identity = shards.Identity(), .lineage = {}};
  const Manifest manifest = Manifest::Read(settings.data_path);
  // What the manifest says of the text is said of exactly the shards that it lists.
  if (const auto split = manifest.splits.find("train");
      split != manifest.splits.end() && split->second.Identity() == input.identity) {
    const auto add = [&](const char* role, const std::string& identity) {
      if (!identity.empty()) input.lineage.inputs.push_back({role, identity, {}});
    };
    input.lineage.tool = "tokenize-shard";
    add("text", split->second.corpus_sha256);
    add("tokenizer", split->second.tokenizer_sha256);
  }
  return input;
}

int64_t TokensToTrainOn(const ShardSet& train, const Settings& settings) {
  const int64_t left = train.tokens() - settings.select_tokens;
  if (settings.select_tokens > 0 && left <= settings.train_seq_len)
    throw InputError(train.files().front(), StringPrintf("the training split holds %jd tokens; select_tokens = %jd leaves too few of them",
                                                         train.tokens(), settings.select_tokens));
  return left;
}

void CheckResumable(const CheckpointReader& checkpoint, const Settings& settings, const Lineage& lineage) {
  checkpoint.Expect({Kind::kTraining});
  Settings().Adopt(checkpoint.settings(), checkpoint.path());  // refuses what has come to mean something else
  std::vector<std::string> differences;
  const SettingValues now = settings.Select(kTrainingStages);
  const SettingValues begun_with = CurrentSpelling(checkpoint.settings());
  std::map<std::string, std::string> then(begun_with.begin(), begun_with.end());
  const Settings defaults;  // of settings that came after the checkpoint's version
  for (const auto& [name, value] : now)
    if (then.try_emplace(name, defaults.Get(name)).first->second != value)
      differences.push_back(StringPrintf("%s was %s and is %s now", name.c_str(), then[name].c_str(), value.c_str()));
  if (!differences.empty())
    throw InputError(checkpoint.path(), "was begun with other settings: " + Join(differences, "; ") + kHowToContinue);
  const std::vector<Lineage::Input>& inputs = checkpoint.lineage().inputs;
  if (inputs.empty() || inputs.front().identity != lineage.inputs.front().identity)
    throw InputError(checkpoint.path(), "was begun on other training shards than those in " + settings.data_path + kHowToContinue);
}

std::vector<RankInvariant> InvariantsOf(const Settings& settings, const Lineage& lineage, const ShardSet& val, const ByteTable& table) {
  std::vector<RankInvariant> invariants = ProgramInvariants(lineage.version, lineage.source_digest, settings, kTrainingStages);
  invariants.push_back({"LibTorch", TORCH_VERSION});
  invariants.push_back({"the training split", lineage.inputs.front().identity});
  invariants.push_back({"the validation split", val.Identity() + " " + val.BytesIdentity()});
  invariants.push_back({"the byte table", table.digest});
  return invariants;
}

}  // namespace fairway
