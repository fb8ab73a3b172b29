#include "common/evaluate/prove.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <optional>

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

TEST_F(ProveTest, AMixtureThatIsNoDistribution) {
  EXPECT_THAT(Failures([](const uint16_t* tokens, int64_t i, int64_t) { return Honest(tokens, i) - std::log(1.5); }),
              Contains(HasSubstr("probabilities at target")));
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
  proof.OnLearnt(0, 96);
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

TEST_F(ProveTest, SpacesCountedTwice) {
  for (ByteTable::Piece& piece : table_.pieces) piece.bytes += piece.leading_space ? 1 : 0;
  EXPECT_THAT(Failures([](const uint16_t* tokens, int64_t i, int64_t) { return Honest(tokens, i); }),
              Contains(HasSubstr("its tokens spell")));
}

}  // namespace
}  // namespace fairway
