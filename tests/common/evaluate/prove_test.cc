#include "common/evaluate/prove.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <optional>

#include "common/evaluate/document_ttt.h"
#include "common/evaluate/evaluate.h"
#include "common/model/cpu_engine.h"
#include "tests/common/evaluate/tiny_model.h"

namespace fairway {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

// What a made-up model says: the loss of the target after tokens[position], of which `length` tokens and one more can
// be read.
using Loss = std::function<double(const uint16_t* tokens, int64_t position, int64_t length)>;

class MadeUp : public Engine {
 public:
  explicit MadeUp(Loss loss) : loss_(std::move(loss)) {}
  int64_t Prepare(bool) override { return 0; }
  void FixSteps(const FixedSteps&) override {}
  void SetLooped(bool) override {}
  using Engine::AccumulateGradients;
  using Engine::TokenLosses;
  void AccumulateGradients(std::span<const Segment>, double) override { gradient.add_(1); }
  void FinishGradients() override {}
  std::vector<float> Losses() const override { return {}; }
  void TokenLosses(std::span<const Segment> segments, int64_t first, float* losses) override {
    for (const Segment& segment : segments)
      for (int64_t i = first; i < segment.length; ++i)
        *losses++ = static_cast<float>(loss_(segment.tokens, i, segment.length));
  }
  void ContinueLosses(const uint16_t* tokens, int64_t count, int64_t, float* losses) override {
    for (int64_t i = 0; i < count; ++i) losses[i] = static_cast<float>(loss_(tokens, i, count));
  }
  at::Tensor weight = at::full({1}, 0.5f), gradient = at::zeros_like(weight);

 private:
  Loss loss_;
};

constexpr int64_t kVocabulary = 40;

// A bigram model: more likely where the target is what the last token makes of it.
double Honest(const uint16_t* tokens, int64_t i, double strength = 1) {
  double sum = 0;
  for (int64_t v = 0; v < kVocabulary; ++v) sum += std::exp(strength * ((tokens[i] * 7 + v * 3) % 11) / 5.0);
  return std::log(sum) - strength * ((tokens[i] * 7 + tokens[i + 1] * 3) % 11) / 5.0;
}

class ProveTest : public testing::Test {
 protected:
  ProveTest() : settings_(TinySettings()), table_(TinyTable(kVocabulary)) {
    tokens_ = RandomTokens(161, kVocabulary);
    val_.emplace(WriteVal(folder_, tokens_, kVocabulary));
  }
  static uint64_t StateOf(const at::Tensor& weight) { return std::bit_cast<uint32_t>(weight.item<float>()); }

  std::vector<std::string> Failures(const Loss& loss, const std::string& method = "sliding") {
    MadeUp engine(loss);
    return Prove(
               engine, {{"w", engine.weight}}, {{"w", engine.gradient}}, [&] { return StateOf(engine.weight); }, method)
        .failures;
  }
  ProofReport Prove(Engine& engine, const NamedTensors& parameters, const NamedTensors& gradients,
                    std::function<uint64_t()> state, const std::string& method) {
    Proof proof(*val_, table_, std::move(state), 6, 1);
    Score score;
    if (method == "sliding")
      score = EvaluateSliding(engine, *val_, table_, settings_, {}, Communicator::Single(), &proof);
    if (method == "plain") score = EvaluatePlain(engine, *val_, table_, settings_, {}, Communicator::Single(), &proof);
    if (method == "cached") score = EvaluateCached(engine, *val_, table_, settings_, {}, &proof);
    if (method == "adapting")
      score = EvaluateAdapting(engine, parameters, gradients, *val_, table_, settings_, {}, &proof);
    events_ = proof.Events();
    return proof.Finish(score);
  }

  ScratchFolder folder_;
  Settings settings_;
  ByteTable table_;
  std::vector<uint16_t> tokens_;
  std::optional<ShardSet> val_;
  std::string events_;
};

TEST_F(ProveTest, AnHonestModelIsProvedByEveryMethod) {
  for (const char* method : {"sliding", "plain", "cached"}) {
    SCOPED_TRACE(method);
    MadeUp engine([](const uint16_t* tokens, int64_t i, int64_t) { return Honest(tokens, i); });
    const ProofReport report = Prove(
        engine, {}, {}, [&] { return StateOf(engine.weight); }, method);
    EXPECT_THAT(report.failures, IsEmpty());
    EXPECT_EQ(report.order.scored, 160);
    EXPECT_EQ(report.order.learnt, 0);
    EXPECT_EQ(report.bytes, report.spelt_bytes);
    EXPECT_GE(report.sums, 4);
    EXPECT_GT(report.kept, 0);
    EXPECT_LT(report.worst_sum, 1e-5);
  }
}

TEST_F(ProveTest, OursIsProvedByEveryMethod) {
  for (const char* method : {"sliding", "plain", "cached", "adapting"}) {
    SCOPED_TRACE(method);
    settings_.ttt_chunk_tokens = 40;
    settings_.ttt_lr = 0.01;
    const Transformer model = TinyModel(settings_);
    NamedTensors gradients;
    for (const auto& [name, tensor] : model.parameters())
      gradients.emplace_back(name, at::zeros_like(tensor, at::kFloat));
    CpuEngine engine(settings_, model.parameters(), gradients);
    const auto state = [&] {
      double sum = 0;
      for (const auto& [name, tensor] : model.parameters()) sum += tensor.to(at::kDouble).abs().sum().item<double>();
      return std::bit_cast<uint64_t>(sum);
    };
    const ProofReport report = Prove(engine, model.parameters(), gradients, state, method);
    EXPECT_THAT(report.failures, IsEmpty());
    EXPECT_EQ(report.order.learnt > 0, std::string(method) == "adapting");
  }
}

// Adapters that learn from each document, and weights that learn from documents in phases.
class ProveDocumentsTest : public ProveTest {
 protected:
  ProveDocumentsTest() {
    for (const auto& [name, value] : std::vector<std::pair<const char*, const char*>>{
             {"ttt_lora_rank", "2"}, {"ttt_lora_alpha", "8"}, {"ttt_lora_lr", "0.05"}, {"ttt_batch_size", "3"}, {"ttt_chunk_size", "5"},
             {"ttt_eval_seq_len", "12"}, {"phased_ttt_num_phases", "2"}, {"phased_ttt_prefix_docs", "6"}, {"global_ttt_chunk_tokens", "16"},
             {"global_ttt_batch_seqs", "1"}, {"global_ttt_lr", "0.05"}})
      settings_.Set(name, value, Origin::kCommandLine, "test");
    // Documents of 3 to 40 tokens.
    for (uint16_t& token : tokens_) token = token == kBos ? 5 : token;
    for (const int64_t begin : {0, 30, 33, 73, 90, 101, 120}) tokens_[begin] = kBos;
    val_.reset();
    val_.emplace(WriteVal(folder_, tokens_, kVocabulary));
  }

  // Scored by `score`, which is given the weights and the observer.
  ProofReport ProveDocuments(const std::function<Score(const NamedTensors&, BatchObserver*)>& score) {
    const Transformer model = TinyModel(settings_);
    weights_ = model.parameters();
    Proof proof(*val_, table_, [&] { return Sum(); }, 6, 1);
    score_ = score(weights_, &proof);
    events_ = proof.Events();
    return proof.Finish(score_);
  }
  uint64_t Sum() const {
    double sum = 0;
    for (const auto& [name, tensor] : weights_) sum += tensor.to(at::kDouble).abs().sum().item<double>();
    return std::bit_cast<uint64_t>(sum);
  }
  Score Documents(const NamedTensors& weights, BatchObserver* observer) const {
    return EvaluateDocuments(weights, *val_, table_, settings_, {}, observer);
  }

  NamedTensors weights_;
  Score score_;
};

TEST_F(ProveDocumentsTest, AdaptersAreProvedAndScoreAsUnseen) {
  for (const bool warm : {false, true}) {
    settings_.ttt_warm_start_a = warm;
    const ProofReport report = ProveDocuments([&](const NamedTensors& weights, BatchObserver* proof) { return Documents(weights, proof); });
    EXPECT_THAT(report.failures, IsEmpty());
    EXPECT_EQ(report.order.scored, 160);
    EXPECT_EQ(report.order.doubled + report.order.dropped, 0);
    EXPECT_EQ(report.bytes, report.spelt_bytes);
    EXPECT_EQ(report.sums, 6);
    EXPECT_EQ(report.flips, 6 + kProofGroups);
    EXPECT_GT(report.kept, 2 * 30);  // of other documents too
    // A reset per group, chunks of all documents in alternation, one state while nothing is learnt.
    EXPECT_THAT(events_, testing::ContainsRegex("^reset 0..73 state [0-9a-f]+\nscore 0..5 state ([0-9a-f]+)\nscore 30..33 state [0-9a-f]+\n"
                                                "score 33..38 state [0-9a-f]+\nlearn 0..5 state [0-9a-f]+\nlearn 33..38 "));
    // A phase: 64 of the 73 tokens of the first group.
    EXPECT_THAT(events_, testing::ContainsRegex("learn 0..29 state [0-9a-f]+\nlearn 30..32 state [0-9a-f]+\nlearn 33..64 state "));
    const Score unseen = Documents(TinyModel(settings_).parameters(), nullptr);
    EXPECT_EQ(score_.val_loss, unseen.val_loss);
    EXPECT_EQ(score_.bytes, unseen.bytes);
  }
}

TEST_F(ProveDocumentsTest, ThePublishedOrderIsByLengthWhichNobodyKnowsBefore) {
  settings_.published_quirks = true;
  const ProofReport report = ProveDocuments([&](const NamedTensors& weights, BatchObserver* proof) { return Documents(weights, proof); });
  EXPECT_EQ(report.order.scored, 160);
  EXPECT_THAT(report.failures, Contains(HasSubstr("out of the order of the text")));
  EXPECT_THAT(report.failures, Contains(HasSubstr("no target was looked into")));
}

// Stands between an evaluation and its proof, and changes what is seen.
class Tampering : public BatchObserver {
 public:
  explicit Tampering(BatchObserver* to) : to_(to) {}
  void OnBatch(const Batch& batch, const Compute& again) override { to_->OnBatch(batch, again); }
  void OnAdded(int64_t begin, int64_t end, int64_t bytes) override { to_->OnAdded(begin, end, bytes); }
  void OnLearnt(std::span<const TargetRange> targets) override { to_->OnLearnt(targets); }
  void OnTables(std::span<const TargetRange> targets) override { to_->OnTables(targets); }
  void OnReset(TargetRange targets, std::function<uint64_t()> digest) override { to_->OnReset(targets, digest); }
  void OnDocuments(const Batch& documents, const Compute& again) override { to_->OnDocuments(documents, again); }
  void OnEnd(const Compute& afresh) override { to_->OnEnd(afresh); }

 protected:
  BatchObserver* to_;
};

TEST_F(ProveDocumentsTest, AChunkLearntBeforeItIsScored) {
  struct Early : Tampering {
    using Tampering::Tampering;
    void OnBatch(const Batch& batch, const Compute& again) override {
      const TargetRange first{batch.windows[0].first_scored(), batch.windows[0].end()};
      to_->OnLearnt({&first, 1});
      to_->OnBatch(batch, again);
    }
  };
  const ProofReport report = ProveDocuments([&](const NamedTensors& weights, BatchObserver* proof) {
    Early early(proof);
    return Documents(weights, &early);
  });
  EXPECT_THAT(report.failures, Contains(HasSubstr("target 0 was learnt from before it was scored")));
}

TEST_F(ProveDocumentsTest, AdaptersThatLearnWithoutAnEvent) {
  struct Silent : Tampering {
    using Tampering::Tampering;
    void OnLearnt(std::span<const TargetRange>) override {}
  };
  const ProofReport report = ProveDocuments([&](const NamedTensors& weights, BatchObserver* proof) {
    Silent silent(proof);
    return Documents(weights, &silent);
  });
  EXPECT_THAT(report.failures, Contains(HasSubstr("without an event")));
}

// A document whose adapters were optimised on its end before its beginning was scored: what comes later moves what came before.
TEST_F(ProveDocumentsTest, AdaptersThatHaveSeenWhatTheyScore) {
  struct Peeking : Tampering {
    using Tampering::Tampering;
    void OnDocuments(const Batch& documents, const Compute& again) override {
      const auto peeked = [&](Batch& batch) {
        again(batch);
        for (size_t w = 0; w < batch.windows.size(); ++w) {
          const int64_t last = batch.offset_of(batch.windows[w]) + batch.windows[w].length - 1;
          for (int64_t i = 0; i < batch.windows[w].length; ++i)
            batch.losses[w * batch.width + i] += 0.01f * static_cast<float>(batch.tokens[last] + batch.tokens[last - 1]);
        }
      };
      Batch scored = documents;
      peeked(scored);
      to_->OnDocuments(scored, [&](Batch& batch) {
        peeked(batch);
        // Any later token: the flip may be elsewhere than at the end.
        for (size_t i = 0; i < batch.tokens.size(); ++i)
          if (batch.tokens[i] != documents.tokens[i]) for (float& loss : batch.losses) loss += 0.01f;
      });
    }
  };
  const ProofReport report = ProveDocuments([&](const NamedTensors& weights, BatchObserver* proof) {
    Peeking peeking(proof);
    return Documents(weights, &peeking);
  });
  EXPECT_THAT(report.failures, Contains(testing::AnyOf(HasSubstr("which comes after it"), HasSubstr("of another document of its group"))));
}

// Adapters that a document shares with those before it in its group: their tokens move its scores, which come later.
TEST_F(ProveDocumentsTest, AdaptersOfSeveralDocuments) {
  struct Shared : Tampering {
    using Tampering::Tampering;
    void OnDocuments(const Batch& documents, const Compute& again) override {
      to_->OnDocuments(documents, [&](Batch& batch) {
        again(batch);
        bool changed = false;  // in a window before
        for (size_t w = 0; w < batch.windows.size(); ++w) {
          if (changed)
            for (int64_t i = 0; i < batch.windows[w].length; ++i) batch.losses[w * batch.width + i] += 0.01f;
          const int64_t first = batch.offset_of(batch.windows[w]);
          for (int64_t i = first; i <= first + batch.windows[w].length; ++i) changed |= batch.tokens[i] != documents.tokens[i];
        }
      });
    }
  };
  const ProofReport report = ProveDocuments([&](const NamedTensors& weights, BatchObserver* proof) {
    Shared shared(proof);
    return Documents(weights, &shared);
  });
  EXPECT_THAT(report.failures, Contains(HasSubstr("which is of another document of its group")));
}

TEST_F(ProveDocumentsTest, ADocumentScoredTwice) {
  struct Twice : Tampering {
    using Tampering::Tampering;
    void OnAdded(int64_t begin, int64_t end, int64_t bytes) override {
      to_->OnAdded(begin, end, bytes);
      if (begin >= 33 && end <= 73) to_->OnAdded(begin, end, bytes);
    }
  };
  const ProofReport report = ProveDocuments([&](const NamedTensors& weights, BatchObserver* proof) {
    Twice twice(proof);
    return Documents(weights, &twice);
  });
  EXPECT_THAT(report.failures, Contains("40 targets were scored more than once"));
}

TEST_F(ProveTest, WeightsThatLearnAreInOneOrderWithTheScores) {
  settings_.ttt_chunk_tokens = 40;
  settings_.ttt_lr = 0.01;
  MadeUp* made_up = nullptr;
  MadeUp engine(
      [&](const uint16_t* tokens, int64_t i, int64_t) { return Honest(tokens, i, made_up->weight.item<float>()); });
  made_up = &engine;
  const ProofReport report = Prove(
      engine, {{"w", engine.weight}}, {{"w", engine.gradient}}, [&] { return StateOf(engine.weight); }, "adapting");
  EXPECT_THAT(report.failures, IsEmpty());
  EXPECT_GT(report.order.learnt, 0);
  EXPECT_THAT(events_, HasSubstr("learn 0..48 state"));
}

// A mixture with n-grams over what was scored.
class ProveNgramsTest : public ProveDocumentsTest {
 protected:
  // Of the settings' method, with the mixture; `between` may stand between it and its proof.
  ProofReport ProveMixed(const std::string& method, const std::function<BatchObserver*(BatchObserver*)>& between = [](BatchObserver* proof) { return proof; }) {
    const Transformer model = TinyModel(settings_);
    weights_ = model.parameters();
    NgramMixture mixture(3, kVocabulary);
    NamedTensors gradients;
    for (const auto& [name, tensor] : weights_) gradients.emplace_back(name, at::zeros_like(tensor, at::kFloat));
    CpuEngine engine(settings_, weights_, gradients);
    Proof proof(*val_, table_, [&] { return Sum() ^ mixture.Digest(); }, 6, 1);
    BatchObserver* const observer = between(&proof);
    if (method == "sliding") score_ = EvaluateSliding(engine, *val_, table_, settings_, {}, Communicator::Single(), observer, &mixture);
    if (method == "cached") score_ = EvaluateCached(engine, *val_, table_, settings_, {}, observer, &mixture);
    if (method == "adapting") score_ = EvaluateAdapting(engine, weights_, gradients, *val_, table_, settings_, {}, observer, &mixture);
    if (method == "documents") score_ = EvaluateDocuments(weights_, *val_, table_, settings_, {}, observer, &mixture);
    events_ = proof.Events();
    return proof.Finish(score_);
  }
};

TEST_F(ProveNgramsTest, EveryMethodsMixtureIsProved) {
  settings_.ttt_chunk_tokens = 40;
  settings_.ttt_lr = 0.01;
  for (const char* method : {"sliding", "cached", "adapting", "documents"}) {
    SCOPED_TRACE(method);
    const ProofReport report = ProveMixed(method);
    EXPECT_THAT(report.failures, IsEmpty());
    EXPECT_EQ(report.order.scored, 160);
    EXPECT_EQ(report.order.doubled + report.order.dropped, 0);
    EXPECT_GE(report.sums, 4);
    EXPECT_GT(report.kept, 0);
    const auto count = [&](const std::string& word) {
      int64_t found = 0;
      for (size_t at = 0; (at = events_.find(word, at)) != std::string::npos; ++at) ++found;
      return found;
    };
    EXPECT_EQ(count("update "), count("score "));  // each window, once it is scored
    EXPECT_EQ(count("learn ") > 0, std::string(method) == "adapting" || std::string(method) == "documents");
  }
}

// Every target in its window's or chunk's turn: scored, then taken in, then learnt from.
TEST_F(ProveNgramsTest, AllMechanismsShareOneOrder) {
  ProveMixed("documents");
  EXPECT_THAT(events_, testing::ContainsRegex("^reset 0..73 state [0-9a-f]+\nscore 0..5 state ([0-9a-f]+)\nscore 30..33 state [0-9a-f]+\n"
                                              "score 33..38 state [0-9a-f]+\nupdate 0..5 state [0-9a-f]+\nupdate 30..33 state [0-9a-f]+\n"
                                              "update 33..38 state [0-9a-f]+\nlearn 0..5 state [0-9a-f]+\nlearn 33..38 "));
}

TEST_F(ProveNgramsTest, TheMixtureScoresBetterWhatRepeats) {
  for (size_t i = 0; i < tokens_.size(); ++i) tokens_[i] = i == 0 ? kBos : static_cast<uint16_t>(4 + i % 5);
  val_.reset();
  val_.emplace(WriteVal(folder_, tokens_, kVocabulary));
  const Transformer model = TinyModel(settings_);
  CpuEngine engine(settings_, model.parameters(), {});
  ProveMixed("sliding");
  EXPECT_LT(score_.val_loss, 0.6 * EvaluateSliding(engine, *val_, table_, settings_).val_loss);
}

TEST_F(ProveNgramsTest, TablesThatChangeWithoutAnEvent) {
  struct Silent : Tampering {
    using Tampering::Tampering;
    void OnTables(std::span<const TargetRange>) override {}
  };
  for (const char* method : {"sliding", "documents"}) {
    std::optional<Silent> silent;
    const ProofReport report = ProveMixed(method, [&](BatchObserver* proof) { return &silent.emplace(proof); });
    EXPECT_THAT(report.failures, Contains(HasSubstr("without an event"))) << method;
  }
}

// What went into the tables before it was scored is known to them: each token in the target's place would be the one that was counted.
TEST_F(ProveNgramsTest, TablesThatHaveSeenTheTarget) {
  struct Peeking : Tampering {
    using Tampering::Tampering;
    void OnBatch(const Batch& batch, const Compute& again) override {
      const auto peeked = [&](Batch& other) {
        again(other);
        NgramMixture cache(3, kVocabulary);
        for (size_t w = 0; w < other.windows.size(); ++w) {
          float* const losses = other.losses.data() + static_cast<int64_t>(w) * other.width;
          cache.Update(other.tokens_of(other.windows[w]), other.windows[w], losses);
          cache.Mix(other.tokens_of(other.windows[w]), other.windows[w], losses);
        }
      };
      Batch scored = batch;
      peeked(scored);
      to_->OnBatch(scored, peeked);
    }
  };
  std::optional<Peeking> peeking;
  EXPECT_THAT(ProveMixed("sliding", [&](BatchObserver* proof) { return &peeking.emplace(proof); }).failures, Contains(HasSubstr("not to 1")));
}

TEST_F(ProveTest, AMixtureThatIsNoDistribution) {
  EXPECT_THAT(Failures([](const uint16_t* tokens, int64_t i, int64_t) { return Honest(tokens, i) - std::log(1.5); }),
              Contains(HasSubstr("probabilities at target")));
}

// Half of the probability from a cache of which every bucket that has been seen is certain.
TEST_F(ProveTest, AHashedCacheWhoseBucketsDoNotSumToOne) {
  EXPECT_THAT(Failures([](const uint16_t* tokens, int64_t i, int64_t) {
                const double cached = (tokens[i] * 31 + tokens[i + 1]) % 4 == 0 ? 0 : 1;
                return -std::log(0.5 * std::exp(-Honest(tokens, i)) + 0.5 * cached);
              }),
              Contains(HasSubstr("not to 1")));
}

TEST_F(ProveTest, LabelSmoothingThatWasLeftOn) {
  EXPECT_THAT(Failures([](const uint16_t* tokens, int64_t i, int64_t) {
                double mean = 0;
                for (int64_t v = 0; v < kVocabulary; ++v) {
                  const std::array<uint16_t, 2> pair = {tokens[i], static_cast<uint16_t>(v)};
                  mean += Honest(pair.data(), 0) / kVocabulary;
                }
                return 0.9 * Honest(tokens, i) + 0.1 * mean;
              }),
              Contains(HasSubstr("not to 1")));
}

TEST_F(ProveTest, AGateThatKnowsTheTarget) {
  // Sure of itself where the target is even, as it can only know once it has seen it.
  EXPECT_THAT(Failures([](const uint16_t* tokens, int64_t i, int64_t) {
                return Honest(tokens, i) * (tokens[i + 1] % 2 == 0 ? 0.7 : 1);
              }),
              Contains(HasSubstr("not to 1")));
}

TEST_F(ProveTest, AModelThatLooksAhead) {
  EXPECT_THAT(Failures([](const uint16_t* tokens, int64_t i, int64_t length) {
                return Honest(tokens, i, i + 2 <= length && tokens[i + 2] % 2 == 0 ? 1 : 0.5);
              }),
              Contains(HasSubstr("which comes after it")));
}

TEST_F(ProveTest, WeightsThatLearnWhileTheyScore) {
  MadeUp* made_up = nullptr;
  MadeUp engine([&](const uint16_t* tokens, int64_t i, int64_t) {
    made_up->weight.add_(1e-4);
    return Honest(tokens, i, made_up->weight.item<float>());
  });
  made_up = &engine;
  const std::vector<std::string> failures = Prove(
                                                engine, {}, {}, [&] { return StateOf(engine.weight); }, "sliding")
                                                .failures;
  EXPECT_THAT(failures, Contains(HasSubstr("without an event")));
  EXPECT_THAT(failures, Contains(HasSubstr("differ when they are computed again")));
}

TEST_F(ProveTest, LearningFromTargetsThatWereNotScored) {
  Proof proof(
      *val_, table_, [] { return 1; }, 1, 1);
  proof.OnAdded(0, 80, 0);
  proof.OnLearnt(std::array{TargetRange{0, 96}});
  proof.OnAdded(80, 160, 0);
  EXPECT_THAT(proof.Finish({}).failures, Contains(HasSubstr("target 80 was learnt from before it was scored")));
}

TEST_F(ProveTest, ThePublishedSumScoresTheTailAgain) {
  settings_.published_quirks = true;
  EXPECT_THAT(Failures([](const uint16_t* tokens, int64_t i, int64_t) { return Honest(tokens, i); }),
              Contains(HasSubstr("were scored more than once")));
}

TEST_F(ProveTest, PlainEvaluationDropsTheTail) {
  val_.reset();
  tokens_ = RandomTokens(170, kVocabulary);
  val_.emplace(WriteVal(folder_, tokens_, kVocabulary));
  EXPECT_THAT(Failures([](const uint16_t* tokens, int64_t i, int64_t) { return Honest(tokens, i); }, "plain"),
              Contains("9 of 169 targets were not scored"));
}

// Rows of documents, of which attention sees one at a time.
TEST_F(ProveTest, PackedRowsAreProved) {
  for (const int64_t begin : {0, 21, 40, 77, 130}) tokens_[begin] = kBos;
  val_.reset();
  val_.emplace(WriteVal(folder_, tokens_, kVocabulary));
  for (const char* name : {"packed_documents", "smear_gate_enabled"}) settings_.Set(name, "1", Origin::kCommandLine, "test");
  for (const char* name : {"smear", "bigram_vocab_size"}) settings_.Set(name, "0", Origin::kCommandLine, "test");
  const Transformer model = TinyModel(settings_);
  CpuEngine engine(settings_, model.parameters(), {});
  const ProofReport report = Prove(
      engine, {}, {}, [] { return 1; }, "plain");
  EXPECT_THAT(report.failures, IsEmpty());
  EXPECT_EQ(report.order.scored, 160);
  EXPECT_EQ(report.sums, 6);
  EXPECT_GT(report.kept, 0);
}

// The bytes of a split that has them in a sidecar.
class ProveSidecarTest : public ProveTest {
 protected:
  // `extra` bytes more for tokens that spell a leading blank.
  std::vector<std::string> FailuresWith(int extra) {
    std::vector<uint16_t> bytes;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const ByteTable::Piece& piece = table_.pieces[tokens_[i]];
      bytes.push_back(static_cast<uint16_t>(i == 0 ? 0 : table_.Bytes(tokens_[i - 1], tokens_[i]) + (piece.leading_space ? extra : 0)));
    }
    const size_t middle = (bytes.size() + 1) / 2;
    WriteBytes(folder_ / "fineweb_val_bytes_000000.bin", ShardBytes({bytes.begin(), bytes.begin() + middle}));
    WriteBytes(folder_ / "fineweb_val_bytes_000001.bin", ShardBytes({bytes.begin() + middle, bytes.end()}));
    val_.reset();
    val_.emplace(folder_.path(), "val", kVocabulary);
    EXPECT_TRUE(val_->has_bytes());
    return Failures([](const uint16_t* tokens, int64_t i, int64_t) { return Honest(tokens, i); });
  }
};

TEST_F(ProveSidecarTest, AnHonestSidecar) { EXPECT_THAT(FailuresWith(0), IsEmpty()); }

TEST_F(ProveSidecarTest, ASidecarThatCountsBlanksTwice) {
  EXPECT_THAT(FailuresWith(1), testing::ElementsAre(testing::ContainsRegex("the byte sidecar counts [0-9]+ bytes, [0-9.]+% more than the ")));
}

TEST_F(ProveTest, SpacesCountedTwice) {
  for (ByteTable::Piece& piece : table_.pieces) piece.bytes += piece.leading_space ? 1 : 0;
  EXPECT_THAT(Failures([](const uint16_t* tokens, int64_t i, int64_t) { return Honest(tokens, i); }),
              Contains(HasSubstr("its tokens spell")));
}

}  // namespace
}  // namespace fairway
