#include "common/tokenizer/write_shards.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <numeric>
#include <span>
#include <stdexcept>
#include <system_error>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "common/base/threads.h"
#include "common/tokens/case_ops.h"
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

// Cuts the tokens, or what belongs to them, into shards.
class ShardWriter {
 public:
  using Name = std::string (*)(const std::string& split, int64_t index);

  ShardWriter(std::string folder, std::string split, int64_t shard_tokens, Name name)
      : folder_(std::move(folder)), split_(std::move(split)), shard_tokens_(shard_tokens), name_(name) {}

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
    const std::string name = name_(split_, static_cast<int64_t>(records_.size()));
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
  const Name name_;
  std::vector<uint16_t> pending_;
  std::vector<ShardRecord> records_;
};

struct EncodedDocument {
  std::string text;
  std::vector<uint16_t> tokens, bytes;  // the bytes of text of each token
  int64_t table_bytes = 0;              // that the byte table counts
  bool taken = true, changed = false;   // changed: the tokens spell another text
  bool trained_on = false;              // the tokenizer was
};

// Bytes of text of each token. A token counts no more bytes than it spells, nor than it covers of the text: what normalisation
// drops or adds is no text that a model could have predicted. Tokens that together spell one character, the last of which alone
// covers it, count together.
std::vector<uint16_t> BytesOfTokens(const std::vector<uint16_t>& tokens, const std::vector<size_t>& ends, const ByteTable& table) {
  std::vector<uint16_t> bytes(tokens.size());
  int64_t spelt = 0;
  for (size_t i = 1; i < tokens.size(); ++i) {
    spelt += table.Bytes(tokens[i - 1], tokens[i]);
    const auto covered = static_cast<int64_t>(ends[i] - ends[i - 1]);
    if (covered == 0) continue;
    bytes[i] = static_cast<uint16_t>(std::min(spelt, covered));  // a token spells 255 bytes at most
    spelt = 0;
  }
  return bytes;
}

// The same of a CaseOps text, as the field counts it: all that a token covers but the marks. An unknown piece counts nothing.
std::vector<uint16_t> BytesOfCaseTokens(std::string_view coded, const std::vector<uint16_t>& tokens, const std::vector<size_t>& ends,
                                        const ByteTable& table) {
  std::vector<uint16_t> bytes(tokens.size());
  CaseByteCounter counter;
  for (size_t i = 1; i < tokens.size(); ++i) {
    const int64_t covered = counter.Count(coded.substr(ends[i - 1], ends[i] - ends[i - 1]));
    bytes[i] = table.pieces[tokens[i]].boundary ? 0 : static_cast<uint16_t>(std::min<int64_t>(covered, UINT16_MAX));
  }
  return bytes;
}

void Encode(const RawDocument& raw, const DocumentFormat& format, const Tokenizer& tokenizer, const ByteTable& table, EncodedDocument& document) {
  document.text = TextOf(raw, format);
  document.taken = Takes(format, document.text);
  if (!document.taken) return;
  if (const TrainingText* trained = tokenizer.training_text()) document.trained_on = trained->Has(TrainingText::HashOf(document.text));
  const bool case_ops = table.case_ops();
  const std::string coded = case_ops ? EncodeCase(document.text) : "";
  if (case_ops && DecodeCase(coded) != document.text)
    throw std::logic_error(*raw.path + ": CaseOps does not give back the document at offset " + std::to_string(raw.offset));
  const std::string& text = case_ops ? coded : document.text;
  std::vector<size_t> ends;
  document.tokens = tokenizer.EncodeDocument(text, ends);
  document.bytes = case_ops ? BytesOfCaseTokens(text, document.tokens, ends, table) : BytesOfTokens(document.tokens, ends, table);
  for (size_t i = 1; i < document.tokens.size(); ++i) document.table_bytes += table.Bytes(document.tokens[i - 1], document.tokens[i]);
  document.changed = table.Spell({document.tokens.begin(), document.tokens.end()}) != text;
}

std::vector<EncodedDocument> EncodeBatch(const std::vector<RawDocument>& batch, const DocumentFormat& format,
                                         const Tokenizer& tokenizer, const ByteTable& table, int threads) {
  std::vector<EncodedDocument> results(batch.size());
  ParallelFor(static_cast<int64_t>(batch.size()), 1, threads,
              [&](int64_t i, int64_t) { Encode(batch[i], format, tokenizer, table, results[i]); });
  return results;
}

// SplitRecord::text_sha256.
class TextDigest {
 public:
  void Add(std::string_view text) {
    const uint64_t size = text.size();
    sha256_.Update(std::as_bytes(std::span(&size, 1)));
    sha256_.Update(text);
  }
  std::string Finish() { return ToHex(sha256_.Finish()); }

 private:
  static_assert(std::endian::native == std::endian::little);
  Sha256 sha256_;
};

void CheckOtherSplits(const Manifest& manifest, const ShardOptions& options, const Tokenizer& tokenizer) {
  for (const auto& [name, split] : manifest.splits) {
    if (name != options.split && split.tokenizer_sha256 != tokenizer.digest())
      throw InputError(Manifest::Path(options.folder),
                       "the split " + name + " was made with another tokenizer (SHA-256 " + split.tokenizer_sha256 +
                           "); one folder holds one tokenizer's ids");
  }
}

std::string WhyNone(const DocumentFormat& format) {
  if (format.holdout <= 0) return ": the files hold none";
  return StringPrintf(": of the documents, %s %s drawn with --holdout %s; choose another share, or cut the text into more documents",
                      format.held_out ? "none" : "all", format.held_out ? "is" : "are", ShortestDouble(format.holdout).c_str());
}

// Puts the staged shards in place of those that the split has.
void Install(const SplitRecord& split, const std::string& staging, const ShardOptions& options) {
  std::vector<ShardRecord> files = split.files;
  files.insert(files.end(), split.byte_files.begin(), split.byte_files.end());
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
  // A sidecar is written where the byte table would count other bytes, and always of CaseOps, as the field does. It is for scores,
  // which are of validation text.
  ShardWriter writer(staging.path(), options.split, options.shard_tokens, ShardName);
  ShardWriter sidecar(staging.path(), options.split, options.shard_tokens, SidecarName);
  const bool validation = options.split == "val";
  bool has_sidecar = validation && byte_table.case_ops();
  SplitRecord split{.documents = 0, .text_bytes = 0, .corpus_sha256 = documents.Digest(), .tokenizer_sha256 = tokenizer.digest()};
  split.token_bytes = split.changed_documents = 0;
  split.case_ops = byte_table.case_ops();
  split.tokenizer_bytes = tokenizer.bytes();
  if (tokenizer.training_text() != nullptr) {
    split.tokenizer_documents = tokenizer.training_text()->documents();
    split.tokenizer_shared = 0;
  }
  TextDigest text_digest;
  int64_t done = 0;
  std::vector<RawDocument> batch;
  int64_t batch_bytes = 0;
  const auto encode_batch = [&] {
    for (const EncodedDocument& document : EncodeBatch(batch, documents.format(), tokenizer, byte_table, options.threads)) {
      if (!document.taken) continue;
      writer.Append(document.tokens);
      if (validation) sidecar.Append(document.bytes);
      const int64_t bytes = std::accumulate(document.bytes.begin(), document.bytes.end(), int64_t{0});
      has_sidecar = has_sidecar || (validation && bytes != document.table_bytes);
      ++split.documents;
      split.changed_documents += document.changed;
      split.tokenizer_shared += document.trained_on;
      split.text_bytes += static_cast<int64_t>(document.text.size());
      split.token_bytes += bytes;
      text_digest.Add(document.text);
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
  if (split.documents == 0) throw InputError("the text", "no document is left for the split " + options.split + WhyNone(documents.format()));
  split.text_sha256 = text_digest.Finish();
  split.files = writer.Finish();
  if (validation) {
    split.byte_files = sidecar.Finish();
    if (!has_sidecar) {
      for (const ShardRecord& file : split.byte_files) RemoveFile(staging.path() + "/" + file.name);
      split.byte_files.clear();
    }
  }

  // Everything that takes space on the disk comes first.
  byte_table.Write(staging.path() + "/" + kByteTable);
  manifest.splits[options.split] = split;
  manifest_file.Write(manifest.ToJson());
  manifest_file.Flush();

  // If the program ends between here and the end, the folder is not taken for a complete one.
  const std::string unfinished = options.folder + "/" + UnfinishedName(options.split);
  WriteFile(unfinished, "");
  try {
    Install(split, staging.path(), options);
  } catch (const fs::filesystem_error& error) {
    throw IoError(error.path1(), error.code().message());
  }
  manifest_file.Commit();
  RemoveFile(unfinished);
  return split;
}

}  // namespace fairway
