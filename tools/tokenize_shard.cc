// tokenize-shard: text to token shards, and the tokenizer and byte table that belong to them.
#include <nlohmann/json.hpp>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/tokenizer/documents.h"
#include "common/tokenizer/tokenizer.h"
#include "common/tokenizer/write_shards.h"
#include "common/tokens/byte_table.h"
#include "common/tokens/shard_format.h"
#include "common/tokens/shards.h"
#include "common/tool/tool.h"

using namespace fairway;

namespace {

// The splits that a folder has. Large shards are read once: DigestCache.
Json Identify(const std::string& folder) {
  Json splits = Json::object();
  for (const char* split : {"train", "val"}) {
    if (!HasShards(folder, split)) continue;
    const ShardSet shards(folder, split, 1 << 16);
    splits[split] = {{"shards", shards.files().size()}, {"tokens", shards.tokens()}, {"identity", shards.Identity()}};
    if (shards.has_bytes()) splits[split]["byte_sidecar"] = shards.BytesIdentity();
  }
  if (splits.empty()) throw IoError(folder, "holds no shards fineweb_train_NNNNNN.bin or fineweb_val_NNNNNN.bin");
  return {{"tool", "tokenize-shard"}, {"folder", folder}, {"splits", splits}};
}

}  // namespace

int main(int argc, char** argv) {
  CommandLine line(
      "tokenize-shard",
      "Turns text into token shards: each document becomes BOS and its pieces. Writes the shards, byte_table.pb and\n"
      "manifest.json (counts and digests) into a folder, in place of what the split had there. The bytes that the tokens\n"
      "stand for are counted against each document's text.\n"
      "With --train-tokenizer the tokenizer is first trained on the same text, VOCAB_SIZE pieces large; it keeps text exactly.\n"
      "Which documents these were is written beside it (FILE.documents).\n"
      "With --byte-table FILE the tokenizer's byte table is written to FILE, which needs no text.\n"
      "With --identify DIR the identities of the splits in DIR are printed; manifest.json is checked against the "
      "shards.",
      "tokenize-shard --out data/mine --split train --separator '\\f' --train-tokenizer data/mine/tokenizer.model "
      "book.txt");
  Settings settings;
  std::vector<std::string> inputs;
  std::string separator, model, trained_model, identified, holdout, normalisation;
  bool case_ops = false;
  DocumentFormat format;
  ShardOptions options;
  line.Inputs("INPUT", inputs, "text files, one document each; '-' is standard input");
  line.Optional();
  line.Option("--out", options.folder, "folder for the shards");
  line.Option("--split", options.split, "train or val");
  line.Option("--key", format.key, "the inputs are JSON, one object per line, whose text is the value of this key");
  line.Option("--separator", separator,
              "the inputs hold documents separated by blank-line, or by this byte: \\0, \\f, \\n, \\r, \\t, \\v or a number");
  line.Option("--holdout", holdout,
              "hold this share of the documents out, such as 5%: --split val takes them, --split train and the tokenizer the others; "
              "drawn by each text's hash");
  line.Option("--tokenizer", model, "SentencePiece model [TOKENIZER_PATH]");
  line.Option("--train-tokenizer", trained_model, "train a tokenizer on the inputs, write it here and use it");
  line.Flag("--case-ops", case_ops, "letter case becomes marks in front of lower-case words (CaseOps); val gets a byte sidecar");
  line.Option("--normalisation", normalisation,
              "of a tokenizer that is trained: exact keeps the text; field folds characters (NFKC), blanks and line breaks [exact]");
  line.Option("--identify", identified, "folder of shards: print the identity of each split");
  line.Option("--shard-tokens", options.shard_tokens, 1, kMaxShardTokens, "tokens a shard [100,000,000]");
  line.Use(settings, scope::kData);

  return RunTool(line, argc, argv, [&] {
    const bool writes_shards = !options.folder.empty() || !options.split.empty();
    const bool trains = !trained_model.empty();
    const bool exports = settings.origin("byte_table") == Origin::kCommandLine;
    if (!identified.empty()) {
      if (writes_shards || trains || exports || !inputs.empty())
        throw UsageError("--identify cannot be combined with other work: it reads shards and writes nothing");
      return Identify(identified);
    }
    if (!writes_shards && !trains && !exports)
      throw UsageError(
          "nothing to do: give --out and --split, --train-tokenizer, --byte-table or --identify (see --help)");
    if (writes_shards && (options.folder.empty() || (options.split != "train" && options.split != "val")))
      throw UsageError("shards need --out DIR and --split train or --split val");
    if ((writes_shards || trains) == inputs.empty())
      throw UsageError(inputs.empty() ? "INPUT is required: the text"
                                      : "INPUT is given, but --out and --split are not");
    if (trains && !model.empty()) throw UsageError("--tokenizer and --train-tokenizer exclude each other");
    if (trained_model == "-") throw UsageError("--train-tokenizer needs a file's name: the file is read again");
    if (!separator.empty()) {
      if (!format.key.empty()) throw UsageError("--key and --separator exclude each other");
      format.SetSeparator(separator);
    }
    if (!holdout.empty()) {
      format.holdout = DocumentFormat::ParseShare(holdout);
      format.held_out = options.split == "val";
      if (trains && format.held_out) throw UsageError("--train-tokenizer with --split val and --holdout: a tokenizer is trained with --split train");
    }
    if (!normalisation.empty() && !trains) throw UsageError("--normalisation is for --train-tokenizer: a tokenizer that is read has its own");
    if (!normalisation.empty() && normalisation != "exact" && normalisation != "field")
      throw UsageError("--normalisation '" + normalisation + "' is neither exact nor field");
    options.threads = settings.ThreadCount();

    Json result{{"tool", "tokenize-shard"}};
    DocumentSource documents(inputs, format);
    if (trains) {
      if (writes_shards) MakeDirectories(options.folder);  // the tokenizer's usual place
      const Progress bar("training the tokenizer");
      TrainTokenizer(documents, {settings.vocab_size, case_ops, normalisation == "field"}, trained_model);
      model = trained_model;
    }
    if (model.empty()) model = settings.tokenizer_path;
    const Tokenizer tokenizer(model);
    const ByteTable byte_table = ByteTable::Read(model);
    result["tokenizer"] = {{"path", model}, {"pieces", tokenizer.size()}, {"sha256", tokenizer.digest()}};
    if (exports) {
      byte_table.Write(settings.byte_table);
      result["byte_table"] = settings.byte_table;
    }
    if (writes_shards) {
      if (byte_table.case_ops() && !case_ops) throw UsageError(model + ": is a CaseOps tokenizer; give --case-ops");
      if (case_ops && !byte_table.case_ops()) throw UsageError("--case-ops: " + model + " has no pieces for the four marks U+E001 to U+E004");
      documents.Rewind();
      Progress progress("tokenising", documents.total_bytes());
      const SplitRecord split =
          WriteShards(documents, tokenizer, byte_table, options, [&](int64_t done) { progress.Update(done); });
      result["out"] = options.folder;
      result["split"] = options.split;
      result["shards"] = split.files.size();
      result["documents"] = split.documents;
      result["text_bytes"] = split.text_bytes;
      result["token_bytes"] = split.token_bytes;
      result["changed_documents"] = split.changed_documents;
      result["byte_sidecar"] = !split.byte_files.empty();
      result["tokens"] = split.tokens();
      result["identity"] = split.Identity();
      if (split.tokenizer_documents >= 0) {
        result["tokenizer_documents"] = split.tokenizer_documents;
        result["tokenizer_shared"] = split.tokenizer_shared;
        if (options.split == "val" && split.tokenizer_shared > 0)
          Log("warning: the tokenizer was trained on %jd of these %jd documents of validation: no score of them can be proved", split.tokenizer_shared, split.documents);
      }
      if (split.changed_documents > 0)
        Log("%jd of %jd documents do not come back as they are: the tokenizer has changed them; scores count %jd of their %jd bytes",
            split.changed_documents, split.documents, split.token_bytes, split.text_bytes);
    }
    return result;
  });
}
