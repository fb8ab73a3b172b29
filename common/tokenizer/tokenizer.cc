#include "common/tokenizer/tokenizer.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <limits>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/tokens/sentencepiece_model.h"
#include "common/tokens/shard_format.h"

namespace fairway {
namespace {

constexpr size_t kMaxTrainingDocument = 1 << 30;  // the trainer's own limit; it would leave a longer one out

// Hands the trainer one document after another. An exception may not pass through the library, so a document that is
// not text ends the iteration and waits to be thrown.
class DocumentIterator : public sentencepiece::SentenceIterator {
 public:
  explicit DocumentIterator(DocumentSource& documents) : documents_(documents) { Next(); }

  bool done() const override { return done_; }
  void Next() override {
    RawDocument document;
    try {
      done_ = !documents_.Next(&document);
      if (done_) return;
      text_ = TextOf(document, documents_.format());
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
  void Rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  DocumentSource& documents_;
  std::string text_;
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
};

Tokenizer::Tokenizer(const std::string& path) : state_(std::make_unique<State>()) {
  const InputFile file(path);
  CheckSentencePieceModel(file.text(), file.path());
  sentencepiece::SentencePieceProcessor& processor = state_->processor;
  if (!Load(file.text(), processor)) throw InputError(file.path(), "is not a SentencePiece model");
  if (size() > std::numeric_limits<uint16_t>::max() + 1)
    throw InputError(file.path(), StringPrintf("has %ld pieces; a shard's ids have 16 bits", size()));
  if (processor.bos_id() != kBos)
    throw InputError(file.path(),
                     StringPrintf("has BOS %d; documents in shards start with id %ld", processor.bos_id(), kBos));
  state_->digest = Sha256Hex(file.bytes());
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

int64_t Tokenizer::size() const {
  return state_->processor.GetPieceSize();
}
const std::string& Tokenizer::digest() const {
  return state_->digest;
}

void TrainTokenizer(DocumentSource& documents, int64_t vocab_size, const std::string& path) {
  DocumentIterator iterator(documents);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      {
          {"vocab_size", std::to_string(vocab_size)},
          {"model_type", "bpe"},
          {"character_coverage", "0.999"},
          {"byte_fallback", "true"},
          {"split_digits", "true"},
          {"normalization_rule_name", "nmt_nfkc"},
          {"add_dummy_prefix", "false"},
          {"pad_id", "0"},
          {"bos_id", "1"},
          {"eos_id", "2"},
          {"unk_id", "3"},
          {"hard_vocab_limit", "false"},
          // Beyond the specification: documents longer than the default of 4,192 bytes would be left out, the number of
          // threads is fixed so that nothing can depend on the machine, and only warnings are heard.
          {"max_sentence_length", std::to_string(kMaxTrainingDocument)},
          {"num_threads", "1"},
          {"minloglevel", "1"},
      },
      &iterator, &model);
  iterator.Rethrow();
  if (!status.ok()) throw InputError("the training text", "SentencePiece cannot train on it: " + status.ToString());
  WriteFile(path, model);
}

}  // namespace fairway
