#include "common/tokenizer/write_shards.h"

#include <algorithm>
#include <filesystem>
#include <span>
#include <system_error>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "common/base/threads.h"
#include "common/tokens/shard_format.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;

// A batch of documents is encoded in parallel and written in order; the text of a batch bounds the memory it takes.
constexpr int64_t kBatchBytes = 16 << 20;
constexpr char kByteTable[] = "byte_table.pb";

// A folder inside the destination for shards under construction, so that renaming them stays within one file system.
class StagingFolder {
 public:
  explicit StagingFolder(std::string path) : path_(std::move(path)) {
    std::error_code error;
    fs::remove_all(path_, error);  // what a killed process left behind
    if (error) throw IoError(path_, error.message());
    MakeDirectories(path_);
  }
  ~StagingFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Cuts the tokens into shards.
class ShardWriter {
 public:
  ShardWriter(std::string folder, std::string split, int64_t shard_tokens)
      : folder_(std::move(folder)), split_(std::move(split)), shard_tokens_(shard_tokens) {}

  void Append(std::span<const uint16_t> tokens) {
    while (!tokens.empty()) {
      const size_t room = shard_tokens_ - pending_.size();
      const auto part = tokens.first(std::min(room, tokens.size()));
      pending_.insert(pending_.end(), part.begin(), part.end());
      tokens = tokens.subspan(part.size());
      if (static_cast<int64_t>(pending_.size()) == shard_tokens_) Flush();
    }
  }

  std::vector<ShardRecord> Finish() {
    if (!pending_.empty()) Flush();
    return std::move(records_);
  }

 private:
  void Flush() {
    const std::string header = ShardHeader(static_cast<int64_t>(pending_.size()));
    const auto payload = std::as_bytes(std::span<const uint16_t>(pending_));
    Sha256 sha256;
    sha256.Update(header);
    sha256.Update(payload);
    const std::string name = ShardName(split_, static_cast<int64_t>(records_.size()));
    OutputFile file(folder_ + "/" + name);
    file.Write(header);
    file.Write(payload);
    records_.push_back(
        {name, static_cast<int64_t>(pending_.size()), static_cast<int64_t>(file.offset()), ToHex(sha256.Finish())});
    file.Commit();
    pending_.clear();
  }

  const std::string folder_, split_;
  const int64_t shard_tokens_;
  std::vector<uint16_t> pending_;
  std::vector<ShardRecord> records_;
};

struct EncodedDocument {
  std::vector<uint16_t> tokens;
  int64_t text_bytes = 0;
};

std::vector<EncodedDocument> EncodeBatch(const std::vector<RawDocument>& batch, const DocumentFormat& format,
                                         const Tokenizer& tokenizer, int threads) {
  std::vector<EncodedDocument> results(batch.size());
  ParallelFor(static_cast<int64_t>(batch.size()), 1, threads, [&](int64_t i, int64_t) {
    const std::string text = TextOf(batch[i], format);
    results[i].text_bytes = static_cast<int64_t>(text.size());
    results[i].tokens = tokenizer.EncodeDocument(text);
  });
  return results;
}

void CheckOtherSplits(const Manifest& manifest, const ShardOptions& options, const Tokenizer& tokenizer) {
  for (const auto& [name, split] : manifest.splits) {
    if (name != options.split && split.tokenizer_sha256 != tokenizer.digest())
      throw InputError(Manifest::Path(options.folder),
                       "the split " + name + " was made with another tokenizer (SHA-256 " + split.tokenizer_sha256 +
                           "); one folder holds one tokenizer's ids");
  }
}

// Puts the staged shards in place of those that the split has.
void Install(const std::vector<ShardRecord>& files, const std::string& staging, const ShardOptions& options) {
  std::vector<fs::path> stale;
  for (const auto& entry : fs::directory_iterator(options.folder)) {
    const std::string name = entry.path().filename();
    const auto same = [&](const ShardRecord& file) { return file.name == name; };
    const ShardFile kind = ShardFileOf(name, options.split);
    if ((kind == ShardFile::kTokens || kind == ShardFile::kBytes) && std::none_of(files.begin(), files.end(), same))
      stale.push_back(entry.path());
  }
  for (const fs::path& path : stale) fs::remove(path);
  const auto install = [&](const std::string& name) { fs::rename(fs::path(staging) / name, fs::path(options.folder) / name); };
  for (const ShardRecord& file : files) install(file.name);
  install(kByteTable);
}

}  // namespace

SplitRecord WriteShards(DocumentSource& documents, const Tokenizer& tokenizer, const ByteTable& byte_table,
                        const ShardOptions& options, const std::function<void(int64_t)>& progress) {
  MakeDirectories(options.folder);
  const std::string manifest_path = Manifest::Path(options.folder);
  OutputFile manifest_file(manifest_path);  // its lock keeps others out of the folder
  Manifest manifest = Manifest::Read(options.folder);
  CheckOtherSplits(manifest, options, tokenizer);

  const StagingFolder staging(options.folder + "/.fineweb_" + options.split + ".tmp");
  ShardWriter writer(staging.path(), options.split, options.shard_tokens);
  SplitRecord split{
      .documents = 0, .text_bytes = 0, .corpus_sha256 = documents.Digest(), .tokenizer_sha256 = tokenizer.digest()};
  int64_t done = 0;
  std::vector<RawDocument> batch;
  int64_t batch_bytes = 0;
  const auto encode_batch = [&] {
    for (const EncodedDocument& document : EncodeBatch(batch, documents.format(), tokenizer, options.threads)) {
      writer.Append(document.tokens);
      ++split.documents;
      split.text_bytes += document.text_bytes;
    }
    done += batch_bytes;
    progress(done);
    batch.clear();
    batch_bytes = 0;
  };
  for (RawDocument document; documents.Next(&document);) {
    batch.push_back(document);
    batch_bytes += static_cast<int64_t>(document.bytes.size());
    if (batch_bytes >= kBatchBytes) encode_batch();
  }
  encode_batch();
  split.files = writer.Finish();

  // All that takes room on the disk comes first.
  byte_table.Write(staging.path() + "/" + kByteTable);
  manifest.splits[options.split] = split;
  manifest_file.Write(manifest.ToJson());
  manifest_file.Flush();

  // Whatever ends the program between here and the end, nobody takes the folder for whole.
  const std::string unfinished = options.folder + "/" + UnfinishedName(options.split);
  WriteFile(unfinished, "");
  try {
    Install(split.files, staging.path(), options);
  } catch (const fs::filesystem_error& error) {
    throw IoError(error.path1(), error.code().message());
  }
  manifest_file.Commit();
  RemoveFile(unfinished);
  return split;
}

}  // namespace fairway
