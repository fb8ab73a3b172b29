#include "common/tokens/manifest.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"

namespace fairway {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;

SplitRecord ReadSplit(const Json& json) {
  SplitRecord split;
  for (const Json& file : json.at("files"))
    split.files.push_back({file.at("name"), file.at("tokens"), file.at("bytes"), file.at("sha256")});
  split.documents = json.value("documents", int64_t{-1});
  split.text_bytes = json.value("text_bytes", int64_t{-1});
  split.corpus_sha256 = json.value("corpus_sha256", "");
  split.tokenizer_sha256 = json.at("tokenizer_sha256");
  return split;
}

Json WriteSplit(const SplitRecord& split) {
  Json json;
  Json files = Json::array();
  for (const ShardRecord& file : split.files) {
    files.push_back({{"name", file.name}, {"tokens", file.tokens}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  json["tokens"] = split.tokens();
  if (split.documents >= 0) json["documents"] = split.documents;
  if (split.text_bytes >= 0) json["text_bytes"] = split.text_bytes;
  if (!split.corpus_sha256.empty()) json["corpus_sha256"] = split.corpus_sha256;
  json["tokenizer_sha256"] = split.tokenizer_sha256;
  json["identity"] = split.Identity();
  json["files"] = std::move(files);
  return json;
}

}  // namespace

int64_t SplitRecord::tokens() const {
  int64_t tokens = 0;
  for (const ShardRecord& file : files) tokens += file.tokens;
  return tokens;
}

std::string SplitRecord::Identity() const {
  std::vector<std::string> digests;
  for (const ShardRecord& file : files) digests.push_back(file.sha256);
  return SplitIdentity(digests);
}

Manifest Manifest::Read(const std::string& folder) {
  const std::string path = Path(folder);
  Manifest manifest;
  if (!std::filesystem::exists(path)) return manifest;
  const InputFile file(path);
  try {
    const Json json = Json::parse(file.text());
    if (const int format = json.at("format"); format != kFormat)
      throw InputError(path, "is a manifest of format " + std::to_string(format) + "; this program reads format 1");
    for (const auto& [name, split] : json.at("splits").items()) manifest.splits[name] = ReadSplit(split);
  } catch (const Json::exception& error) {
    throw InputError(path, std::string("is not a manifest of token shards: ") + error.what());
  }
  return manifest;
}

std::string Manifest::ToJson() const {
  Json json{{"format", kFormat}, {"splits", Json::object()}};
  for (const auto& [name, split] : splits) json["splits"][name] = WriteSplit(split);
  return json.dump(2) + "\n";
}

const ShardRecord* Manifest::Find(const std::string& split, std::string_view name) const {
  const auto found = splits.find(split);
  if (found == splits.end()) return nullptr;
  for (const ShardRecord& file : found->second.files)
    if (file.name == name) return &file;
  return nullptr;
}

std::string SplitIdentity(const std::vector<std::string>& digests) {
  Sha256 sha256;
  for (const std::string& digest : digests) sha256.Update(digest + "\n");
  return ToHex(sha256.Finish());
}

}  // namespace fairway
