#include "common/tokenizer/tokenizer.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <unordered_map>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/tokens/case_ops.h"
#include "common/tokens/sentencepiece_model.h"
#include "common/tokens/shard_format.h"

namespace fairway {
namespace {

constexpr size_t kMaxTrainingDocument = 1 << 30;  // the trainer's own limit; it would leave a longer one out

// Hands the trainer one document after another. An exception may not pass through the library, so a document that is
// not text ends the iteration and waits to be thrown.
class DocumentIterator : public sentencepiece::SentenceIterator {
 public:
  DocumentIterator(DocumentSource& documents, bool case_ops) : documents_(documents), case_ops_(case_ops) { Next(); }

  bool done() const override { return done_; }
  void Next() override {
    RawDocument document;
    try {
      do {
        done_ = !documents_.Next(&document);
        if (done_) return;
        text_ = TextOf(document, documents_.format());
      } while (!Takes(documents_.format(), text_));
      training_text_.Add(text_);
      if (case_ops_) text_ = EncodeCase(text_);
      if (text_.size() > kMaxTrainingDocument)
        throw InputError(*document.path, StringPrintf("a document of %zu bytes is too long to train on (at most %zu)",
                                                      text_.size(), kMaxTrainingDocument));
    } catch (...) {
      error_ = std::current_exception();
      done_ = true;
    }
  }
  const std::string& value() const override { return text_; }
  sentencepiece::util::Status status() const override { return {}; }
  const TrainingText& training_text() const { return training_text_; }
  void Rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  DocumentSource& documents_;
  const bool case_ops_;
  std::string text_;
  TrainingText training_text_;
  std::exception_ptr error_;
  bool done_ = false;
};

// False where the bytes are no model: the library says so by a status, by an exception, or not at all.
bool Load(std::string_view bytes, sentencepiece::SentencePieceProcessor& processor) {
  try {
    return !bytes.empty() && processor.LoadFromSerializedProto(bytes).ok();
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace

struct Tokenizer::State {
  sentencepiece::SentencePieceProcessor processor;
  std::string digest;
  int64_t bytes = 0;
  std::optional<TrainingText> training_text;
};

Tokenizer::Tokenizer(const std::string& path) : state_(std::make_unique<State>()) {
  const InputFile file(path);
  CheckSentencePieceModel(file.text(), file.path());
  sentencepiece::SentencePieceProcessor& processor = state_->processor;
  if (!Load(file.text(), processor)) throw InputError(file.path(), "is not a SentencePiece model");
  if (size() > std::numeric_limits<uint16_t>::max() + 1)
    throw InputError(file.path(), StringPrintf("has %jd pieces; a shard's ids have 16 bits", size()));
  if (processor.bos_id() != kBos)
    throw InputError(file.path(),
                     StringPrintf("has BOS %d; documents in shards start with id %jd", processor.bos_id(), kBos));
  state_->digest = Sha256Hex(file.bytes());
  state_->bytes = static_cast<int64_t>(file.bytes().size());
  state_->training_text = TrainingText::Read(path, state_->digest);
}

Tokenizer::~Tokenizer() = default;

std::vector<uint16_t> Tokenizer::EncodeDocument(std::string_view text) const {
  std::vector<int> ids;
  const auto status = state_->processor.Encode(text, &ids);
  if (!status.ok()) throw std::runtime_error("SentencePiece: " + status.ToString());
  std::vector<uint16_t> tokens(ids.size() + 1, kBos);
  std::copy(ids.begin(), ids.end(), tokens.begin() + 1);
  return tokens;
}

std::vector<uint16_t> Tokenizer::EncodeDocument(std::string_view text, std::vector<size_t>& ends) const {
  const sentencepiece::ImmutableSentencePieceText encoded = state_->processor.EncodeAsImmutableProto(text);
  const size_t count = encoded.pieces_size();
  std::vector<uint16_t> tokens(count + 1, kBos);
  ends.assign(count + 1, count > 0 ? encoded.pieces(0).begin() : 0);
  for (size_t i = 0; i < count; ++i) {
    const auto piece = encoded.pieces(static_cast<int>(i));
    tokens[i + 1] = static_cast<uint16_t>(piece.id());
    ends[i + 1] = piece.end();
  }
  return tokens;
}

int64_t Tokenizer::size() const {
  return state_->processor.GetPieceSize();
}
const std::string& Tokenizer::digest() const {
  return state_->digest;
}
int64_t Tokenizer::bytes() const {
  return state_->bytes;
}
const TrainingText* Tokenizer::training_text() const {
  return state_->training_text ? &*state_->training_text : nullptr;
}

void TrainTokenizer(DocumentSource& documents, const TokenizerOptions& options, const std::string& path) {
  DocumentIterator iterator(documents, options.case_ops);
  std::vector<std::string> defined;
  if (options.case_ops) defined.assign(std::begin(kCaseMarks), std::end(kCaseMarks));
  if (!options.normalise) defined.emplace_back("\n");
  std::unordered_map<std::string, std::string> arguments = {
      {"vocab_size", std::to_string(options.vocab_size)},
      {"model_type", "bpe"},
      {"character_coverage", "0.999"},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      {"normalization_rule_name", options.normalise ? "nmt_nfkc" : "identity"},
      {"remove_extra_whitespaces", options.normalise ? "true" : "false"},
      {"add_dummy_prefix", "false"},
      {"pad_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"unk_id", "3"},
      {"hard_vocab_limit", "false"},
      // Documents longer than the default of 4,192 bytes would be left out, the number of threads is fixed so that nothing can
      // depend on the machine, and only errors are reported.
      {"max_sentence_length", std::to_string(kMaxTrainingDocument)},
      {"num_threads", "1"},
      {"minloglevel", "2"},
  };
  if (!defined.empty()) arguments["user_defined_symbols"] = Join(defined, ",");
  // A blank that has no piece would be spelt in three bytes. Runs of them are pieces too: indented text is full of them.
  if (!options.normalise) {
    arguments["required_chars"] = "\xe2\x96\x81";
    arguments["allow_whitespace_only_pieces"] = "true";
  }
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &iterator, &model);
  iterator.Rethrow();
  if (!status.ok()) throw InputError("the training text", "SentencePiece cannot train on it: " + status.ToString());
  sentencepiece::SentencePieceProcessor trained;
  if (!Load(model, trained)) throw InputError("the training text", "SentencePiece makes no model of it");
  if (const int64_t pieces = trained.GetPieceSize(); pieces != options.vocab_size)
    throw InputError("the training text", StringPrintf("gives only %jd pieces, not the %jd that were asked for; ask for fewer, or give more text",
                                                       pieces, options.vocab_size));
  WriteFile(path, model);
  iterator.training_text().Write(path, Sha256Hex(model));
}

}  // namespace fairway
