#include "common/tokens/manifest.h"

#include <filesystem>

#include "common/base/digest.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/text.h"
#include "common/tokens/shard_format.h"

namespace fairway {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormat = 2;

// The parts of a manifest, each as what it must be. Throws InputError naming the part.
class ManifestReader {
 public:
  explicit ManifestReader(const std::string& path) : path_(path) {}

  [[noreturn]] void Fail(const std::string& cause) const {
    throw InputError(path_, "is not a manifest of token shards: " + cause);
  }

  const Json& Part(const Json& json, const char* name) const {
    if (!json.is_object() || !json.contains(name)) Fail(std::string("misses ") + name);
    return json[name];
  }
  int64_t Number(const Json& json, const char* name, int64_t high) const {
    const Json& part = Part(json, name);
    if (!part.is_number_unsigned() || part.get<uint64_t>() > static_cast<uint64_t>(high))
      Fail(std::string(name) + " is no whole number up to " + std::to_string(high));
    return part.get<int64_t>();
  }
  std::string Text(const Json& json, const char* name) const {
    const Json& part = Part(json, name);
    if (!part.is_string()) Fail(std::string(name) + " is no text");
    return part.get<std::string>();
  }
  // Goes into the lineage of what is made from the shards.
  std::string Digest(const Json& json, const char* name) const {
    const std::string digest = Text(json, name);
    if (digest.find_first_not_of("0123456789abcdef") != std::string::npos) Fail(std::string(name) + " is no digest");
    return digest;
  }

  std::vector<ShardRecord> Files(const Json& files, const char* name) const {
    if (!files.is_array()) Fail(std::string(name) + " is no list");
    std::vector<ShardRecord> records;
    for (const Json& file : files)
      records.push_back({Text(file, "name"), Number(file, "tokens", kMaxShardTokens), Number(file, "bytes", INT64_MAX), Digest(file, "sha256")});
    return records;
  }

  SplitRecord Split(const Json& json) const {
    SplitRecord split;
    split.files = Files(Part(json, "files"), "files");
    const auto number = [&](const char* name, int64_t& value) {
      if (json.contains(name)) value = Number(json, name, INT64_MAX);
    };
    number("documents", split.documents);
    number("text_bytes", split.text_bytes);
    number("token_bytes", split.token_bytes);
    number("changed_documents", split.changed_documents);
    number("tokenizer_bytes", split.tokenizer_bytes);
    number("tokenizer_documents", split.tokenizer_documents);
    number("tokenizer_shared", split.tokenizer_shared);
    if (json.contains("corpus_sha256")) split.corpus_sha256 = Digest(json, "corpus_sha256");
    if (json.contains("text_sha256")) split.text_sha256 = Digest(json, "text_sha256");
    split.tokenizer_sha256 = Digest(json, "tokenizer_sha256");
    if (json.contains("case_ops")) {
      if (!json["case_ops"].is_boolean()) Fail("case_ops is neither true nor false");
      split.case_ops = json["case_ops"].get<bool>();
    }
    if (json.contains("byte_files")) split.byte_files = Files(json["byte_files"], "byte_files");
    if (split.token_bytes > split.text_bytes) Fail("token_bytes is more than text_bytes");
    if (split.tokenizer_shared > split.documents) Fail("tokenizer_shared is more than documents");
    if ((split.tokenizer_documents < 0) != (split.tokenizer_shared < 0)) Fail("has one of tokenizer_documents and tokenizer_shared");
    return split;
  }

 private:
  const std::string& path_;
};

Json WriteFiles(const std::vector<ShardRecord>& files) {
  Json json = Json::array();
  for (const ShardRecord& file : files)
    json.push_back({{"name", file.name}, {"tokens", file.tokens}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  return json;
}

Json WriteSplit(const SplitRecord& split) {
  Json json;
  json["tokens"] = split.tokens();
  const auto number = [&](const char* name, int64_t value) {
    if (value >= 0) json[name] = value;
  };
  const auto text = [&](const char* name, const std::string& value) {
    if (!value.empty()) json[name] = value;
  };
  number("documents", split.documents);
  number("text_bytes", split.text_bytes);
  number("token_bytes", split.token_bytes);
  number("changed_documents", split.changed_documents);
  text("corpus_sha256", split.corpus_sha256);
  text("text_sha256", split.text_sha256);
  json["tokenizer_sha256"] = split.tokenizer_sha256;
  number("tokenizer_bytes", split.tokenizer_bytes);
  number("tokenizer_documents", split.tokenizer_documents);
  number("tokenizer_shared", split.tokenizer_shared);
  if (split.case_ops) json["case_ops"] = true;
  json["identity"] = split.Identity();
  json["files"] = WriteFiles(split.files);
  if (!split.byte_files.empty()) json["byte_files"] = WriteFiles(split.byte_files);
  return json;
}

std::string IdentityOf(const std::vector<ShardRecord>& files) {
  std::vector<std::string> digests;
  for (const ShardRecord& file : files) digests.push_back(file.sha256);
  return SplitIdentity(digests);
}

}  // namespace

int64_t SplitRecord::tokens() const {
  int64_t tokens = 0;
  for (const ShardRecord& file : files) tokens += file.tokens;
  return tokens;
}

std::string SplitRecord::Identity() const {
  return IdentityOf(files);
}
std::string SplitRecord::BytesIdentity() const {
  return byte_files.empty() ? "" : IdentityOf(byte_files);
}

Manifest Manifest::Read(const std::string& folder) {
  const std::string path = Path(folder);
  Manifest manifest;
  if (!std::filesystem::exists(path)) return manifest;
  const InputFile file(path);
  const ManifestReader reader(path);
  const Json json = ParseJson<Json>(file.text(), path, "is not a manifest of token shards: it ");
  if (const int64_t format = reader.Number(json, "format", INT64_MAX); format < 1 || format > kFormat)
    throw InputError(path, "is a manifest of format " + std::to_string(format) + "; this program reads formats 1 and 2");
  const Json& splits = reader.Part(json, "splits");
  if (!splits.is_object()) reader.Fail("splits is no object");
  for (const auto& [name, split] : splits.items()) manifest.splits[name] = reader.Split(split);
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
  for (const auto* files : {&found->second.files, &found->second.byte_files})
    for (const ShardRecord& file : *files)
      if (file.name == name) return &file;
  return nullptr;
}

std::string SplitIdentity(const std::vector<std::string>& digests) {
  Sha256 sha256;
  for (const std::string& digest : digests) sha256.Update(digest + "\n");
  return ToHex(sha256.Finish());
}

}  // namespace fairway
