#include "common/evaluate/evaluate.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <optional>

#include "common/base/error.h"
#include "common/model/cpu_engine.h"
#include "tests/common/evaluate/tiny_model.h"
#include "tests/common/model/formula.h"

namespace fairway {
namespace {

using testing::HasSubstr;

// Losses are float32 with a unit in the last place of 4.8e-7 (they are below 8), and attention over another number of
// positions sums in another order: a few such units for one target, less in the mean.
constexpr double kRounding = 2e-6;

class EvaluateTest : public testing::Test {
 protected:
  EvaluateTest() : settings(TinySettings()), model(TinyModel(settings)), fused(settings, model.parameters()), table(TinyTable(settings.vocab_size)) {}

  void Split(int64_t tokens_in_all) {
    tokens = RandomTokens(tokens_in_all, settings.vocab_size);
    val.emplace(WriteVal(folder, tokens, settings.vocab_size));
  }

  // The loss of target i in nats when it is predicted from tokens [begin, i] alone: one forward pass for one number.
  double TargetLoss(int64_t begin, int64_t i) const {
    const std::vector<int64_t> context(tokens.begin() + begin, tokens.begin() + i + 1);
    const at::Tensor logits = model.Logits(at::tensor(context).unsqueeze(0))[0][-1].to(at::kDouble);
    return -at::log_softmax(logits, 0)[tokens[i + 1]].item<double>();
  }

  int64_t TargetBytes(int64_t i) const {
    const ByteTable::Piece& piece = table.pieces[tokens[i + 1]];
    return piece.bytes + (piece.leading_space && tokens[i] >= 4);
  }

  // What `plain` or `sliding` must be when target i of `scored` is predicted from tokens [begin, i].
  struct Scored {
    int64_t begin, i;
  };
  void ExpectScore(const Score& score, const std::vector<Scored>& scored) const {
    double nats = 0;
    int64_t bytes = 0;
    for (const auto& [begin, i] : scored) {
      nats += TargetLoss(begin, i);
      bytes += TargetBytes(i);
    }
    EXPECT_EQ(score.targets, static_cast<int64_t>(scored.size()));
    EXPECT_EQ(score.bytes, bytes);
    EXPECT_NEAR(score.val_loss, nats / scored.size(), kRounding);
    EXPECT_NEAR(score.val_bpb, nats / std::log(2.0) / bytes, kRounding);
  }

  ScratchFolder folder;
  Settings settings;
  Transformer model;
  CpuEngine fused;
  ByteTable table;
  std::vector<uint16_t> tokens;
  std::optional<ShardSet> val;
};

// The definition, target by target: the first window at a multiple of the stride that reaches the target, moved back
// where it would pass the end.
TEST_F(EvaluateTest, SlidingIsItsDefinition) {
  const int64_t seq_len = settings.train_seq_len;
  for (const auto& [size, stride] : {std::pair(62, 5), {65, 5}, {49, 1}, {50, 8}, {17, 15}, {12, 5}, {2, 5}}) {
    SCOPED_TRACE(testing::Message() << size << " tokens, stride " << stride);
    Split(size);
    settings.eval_stride = stride;
    const int64_t targets = size - 1;
    std::vector<Scored> scored;
    for (int64_t i = 0; i < targets; ++i) {
      int64_t begin = 0;
      while (begin + seq_len <= i) begin += stride;
      scored.push_back({std::max<int64_t>(0, std::min(begin, targets - seq_len)), i});
    }
    const Score score = EvaluateSliding(fused, *val, table, settings);
    ExpectScore(score, scored);
    EXPECT_EQ(score.rescored, 0);
    EXPECT_EQ(score.dropped, 0);
  }
}

// The definition of `cached`, in float64 over the whole text at once: a position sees keys and values from the begin of the window
// that scores it on, and these are those of positions that saw theirs in the same way.
TEST_F(EvaluateTest, CachedIsItsDefinition) {
  for (const auto& [size, stride, reset] :
       {std::tuple(62, 5, "0"), {65, 5, "1"}, {49, 1, "0"}, {50, 8, "0"}, {17, 15, "0"}, {12, 5, "0"}, {2, 5, "0"}}) {
    for (const int threads : {1, 3}) {
      SCOPED_TRACE(testing::Message() << size << " tokens, stride " << stride << ", threads " << threads);
      Split(size);
      settings.eval_stride = stride;
      settings.Set("reset_at_bos", reset, Origin::kCommandLine, "test");
      at::set_num_threads(threads);
      CpuEngine cached(settings, model.parameters());
      const WindowPlan plan = WindowPlan::Sliding(size - 1, settings.train_seq_len, stride);
      std::vector<int64_t> first_seen;
      for (int64_t w = 0; w < plan.size(); ++w) first_seen.resize(plan[w].end(), plan[w].begin);
      Formula formula(settings, model.parameters());
      formula.first_seen = [&](int64_t t) { return first_seen[t]; };
      const at::Tensor all = at::tensor(std::vector<int64_t>(tokens.begin(), tokens.end())).unsqueeze(0);
      const at::Tensor losses = formula.TokenLosses(all.narrow(1, 0, size - 1), all.narrow(1, 1, size - 1));
      int64_t bytes = 0;
      for (int64_t i = 0; i + 1 < size; ++i) bytes += TargetBytes(i);

      const Score score = EvaluateCached(cached, *val, table, settings);
      EXPECT_EQ(score.targets, size - 1);
      EXPECT_EQ(score.bytes, bytes);
      EXPECT_NEAR(score.val_loss, losses.mean().item<double>(), kRounding);
      // Again, over what the first text left behind; and target by target.
      std::vector<float> each(size - 1);
      for (int64_t w = 0; w < plan.size(); ++w) {
        const int64_t past = plan[w].score_from, at = plan[w].first_scored();
        cached.ContinueLosses(tokens.data() + at, plan[w].length - past, past, each.data() + at);
      }
      for (int64_t i = 0; i + 1 < size; ++i) EXPECT_NEAR(each[i], losses[0][i].item<double>(), 2e-5) << i;
    }
  }
  at::set_num_threads(1);
}

// Within bfloat16's roundings of its own float32.
TEST_F(EvaluateTest, CachedTakesBFloat16) {
  Split(100);
  const double exact = EvaluateCached(fused, *val, table, settings).val_loss;
  settings.Set("precision", "bfloat16", Origin::kCommandLine, "test");
  CpuEngine cached(settings, TinyModel(settings).parameters());
  const double rounded = EvaluateCached(cached, *val, table, settings).val_loss;
  EXPECT_NEAR(rounded, exact, 0.02);
  EXPECT_NE(rounded, exact);
}

class AdaptTest : public EvaluateTest {
 protected:
  AdaptTest() {
    settings.ttt_chunk_tokens = 20;  // four windows
    settings.ttt_steps = 2;
    settings.ttt_lr = 0.05;
    settings.eval_batch_seqs = 1;
  }
  // The score, and what it was after each window.
  std::pair<Score, std::vector<double>> Adapt() {
    NamedTensors parameters, gradients;
    for (const auto& [name, tensor] : model.parameters()) {
      parameters.emplace_back(name, tensor.clone());
      gradients.emplace_back(name, at::zeros_like(tensor));
    }
    CpuEngine learning(settings, parameters, gradients);
    std::vector<double> running;
    const Score score = EvaluateAdapting(learning, parameters, gradients, *val, table, settings,
                                         [&](const BatchDone& batch) { running.push_back(batch.bits_per_byte); });
    moved_ = (parameters[1].second - model.parameters()[1].second).abs().max().item<double>();
    return {score, running};
  }
  double moved_ = 0;  // the token table, by what was learnt
};

// A token that is changed changes no score before it; and the weights do learn from it afterwards, but from the chunk's end on.
TEST_F(AdaptTest, ScoresBeforeItLearns) {
  Split(150);
  const std::vector<uint16_t> original = tokens;
  const std::vector<double> before = Adapt().second;
  const WindowPlan plan = WindowPlan::Sliding(149, settings.train_seq_len, settings.eval_stride);
  ASSERT_EQ(static_cast<int64_t>(before.size()), plan.size());
  for (const int64_t changed : {20, 52, 77, 100, 149}) {
    tokens = original;
    tokens[changed] = static_cast<uint16_t>(4 + (tokens[changed] + 1) % (settings.vocab_size - 4));
    val.emplace(WriteVal(folder, tokens, settings.vocab_size));
    const std::vector<double> after = Adapt().second;
    for (int64_t w = 0; w < plan.size(); ++w) {
      const bool untouched = plan[w].end() < changed;  // its last target is token end()
      EXPECT_EQ(before[w] == after[w], untouched) << "token " << changed << ", window " << w;
    }
  }
}

// What a later chunk scores is what weights give that took the steps by hand, on the targets scored before and no others.
TEST_F(AdaptTest, LearnsFromWhatWasScored) {
  Split(16 + 1 + 7 * 5);  // windows end at 16, 21, … 51: chunks of four and four
  settings.ttt_steps = 1;
  settings.ttt_momentum = 0;
  const auto [score, running] = Adapt();
  // The first chunk ends at target 31: one sequence of 16.
  Transformer plain(settings, [&] {
    NamedTensors parameters;
    for (const auto& [name, tensor] : model.parameters()) parameters.emplace_back(name, tensor.clone().set_requires_grad(true));
    return parameters;
  }());
  const at::Tensor all = at::tensor(std::vector<int64_t>(tokens.begin(), tokens.begin() + 17)).unsqueeze(0);
  plain.Loss(all.narrow(1, 0, 16), all.narrow(1, 1, 16)).backward();
  double squares = 0;
  for (const auto& [name, tensor] : plain.parameters()) squares += tensor.grad().square().sum().item<double>();
  NamedTensors stepped;
  for (const auto& [name, tensor] : plain.parameters())
    stepped.emplace_back(name, tensor.detach() - settings.ttt_lr * std::min(1.0, 1 / (std::sqrt(squares) + 1e-6)) * tensor.grad());
  CpuEngine learnt(settings, stepped);
  settings.eval_batch_seqs = 4;
  const auto nats = [&](Engine& engine, int64_t window) {
    std::vector<float> losses(16);
    const Window w = WindowPlan::Sliding(51, 16, 5)[window];
    const uint16_t* sequence = tokens.data() + w.begin;
    engine.TokenLosses({&sequence, 1}, 16, w.score_from, losses.data());
    double sum = 0;
    for (int64_t i = 0; i < 16 - w.score_from; ++i) sum += losses[i];
    return sum;
  };
  double expected = 0;
  for (int64_t w = 0; w < 8; ++w) expected += nats(w < 4 ? static_cast<Engine&>(fused) : learnt, w);
  EXPECT_NEAR(score.val_loss, expected / 51, 1e-5);
  EXPECT_GT(std::abs(score.val_loss - EvaluateSliding(fused, *val, table, settings).val_loss), 1e-3);
}

TEST_F(AdaptTest, WithoutStepsItIsSliding) {
  Split(150);
  const double learning = Adapt().first.val_loss;
  EXPECT_GT(moved_, 0);
  settings.ttt_lr = 0;
  const double sliding = EvaluateSliding(fused, *val, table, settings).val_loss;
  EXPECT_EQ(Adapt().first.val_loss, sliding);
  EXPECT_NE(learning, sliding);
  settings.ttt_lr = 0.05;
  settings.ttt_steps = 0;
  EXPECT_EQ(Adapt().first.val_loss, sliding);
  EXPECT_EQ(moved_, 0);
  settings.ttt_steps = 2;
  settings.ttt_chunk_tokens = 1000;  // one chunk, the last
  EXPECT_EQ(Adapt().first.val_loss, sliding);
}

// How many windows are computed at a time is no part of the method.
TEST_F(AdaptTest, BatchSizeChangesRoundingOnly) {
  Split(150);
  const Score one_by_one = Adapt().first;
  for (const int64_t batch : {3, 4, 100}) {
    settings.eval_batch_seqs = batch;
    EXPECT_NEAR(Adapt().first.val_loss, one_by_one.val_loss, 1e-5) << batch;
  }
}

// The published loop, window by window: the tail counts as often as windows reach past the end.
TEST_F(EvaluateTest, WithPublishedQuirksIsThePublishedSum) {
  const int64_t seq_len = settings.train_seq_len;
  settings.published_quirks = true;
  for (const auto& [size, stride] : {std::pair(62, 5), {65, 5}, {49, 4}, {17, 15}}) {
    SCOPED_TRACE(testing::Message() << size << " tokens, stride " << stride);
    Split(size);
    settings.eval_stride = stride;
    const int64_t total = (size - 1) / seq_len * seq_len;
    std::vector<Scored> scored;
    for (int64_t start = 0; start < total; start += stride) {
      const int64_t length = std::min(seq_len, total - start);
      for (int64_t t = start == 0 ? 0 : std::max<int64_t>(length - stride, 0); t < length; ++t) {
        scored.push_back({start, start + t});
      }
    }
    const Score score = EvaluateSliding(fused, *val, table, settings);
    ExpectScore(score, scored);
    EXPECT_EQ(score.rescored, score.targets - total);
    EXPECT_EQ(score.dropped, size - 1 - total);
  }
}

TEST_F(EvaluateTest, PlainIsItsDefinition) {
  const int64_t seq_len = settings.train_seq_len;
  for (const int64_t size : {17, 62, 65, 100}) {
    SCOPED_TRACE(testing::Message() << size << " tokens");
    Split(size);
    const int64_t total = (size - 1) / seq_len * seq_len;
    std::vector<Scored> scored;
    for (int64_t i = 0; i < total; ++i) scored.push_back({i / seq_len * seq_len, i});
    const Score score = EvaluatePlain(fused, *val, table, settings);
    ExpectScore(score, scored);
    EXPECT_EQ(score.dropped, size - 1 - total);
  }
}

// Rows of packed documents: a batch is one row, of which attention sees one document, and train_seq_len positions, at a time; under
// published_quirks batches that are not full are dropped.
TEST_F(EvaluateTest, PlainOfPackedDocuments) {
  settings.packed_documents = true;
  settings.val_batch_size = 8 * 3 * settings.train_seq_len;  // three windows
  const int64_t T = settings.train_seq_len, row = 3 * T;
  for (const bool quirks : {false, true}) {
    settings.published_quirks = quirks;
    Split(150);
    fused.Prepare(/*fake_quantise=*/false);
    const int64_t total = quirks ? 149 / row * row : 149 / T * T;
    double nats = 0;
    for (int64_t first = 0; first < total; first += row) {
      const int64_t count = std::min(row, total - first);
      std::vector<float> losses(count);
      fused.TokenLosses(PackedSegments(tokens.data() + first, count, T), 0, losses.data());
      nats += std::accumulate(losses.begin(), losses.end(), 0.0);
    }
    const Score score = EvaluatePlain(fused, *val, table, settings);
    EXPECT_EQ(score.targets, total);
    EXPECT_EQ(score.dropped, 149 - total);
    EXPECT_NEAR(score.val_loss, nats / static_cast<double>(total), 1e-6);
  }
}

// Sliding windows of packed documents: each scored target is computed from its document alone, as far back as the window goes.
TEST_F(EvaluateTest, SlidingOfPackedDocuments) {
  settings.packed_documents = true;
  settings.eval_batch_seqs = 3;
  Split(150);
  ASSERT_GT(std::count(tokens.begin(), tokens.end(), 1), 2);
  fused.Prepare(/*fake_quantise=*/false);
  const int64_t T = settings.train_seq_len, targets = 149;
  double nats = 0;
  const WindowPlan plan = WindowPlan::Sliding(targets, T, settings.eval_stride);
  for (int64_t i = 0; i < plan.size(); ++i) {
    for (int64_t target = plan[i].first_scored(); target < plan[i].end(); ++target) {
      int64_t begin = target;
      while (begin > plan[i].begin && tokens[begin] != 1) --begin;
      const uint16_t* const context = tokens.data() + begin;
      float loss;
      fused.TokenLosses({&context, 1}, target + 1 - begin, target - begin, &loss);
      nats += loss;
    }
  }
  const Score score = EvaluateSliding(fused, *val, table, settings);
  EXPECT_EQ(score.targets, targets);
  EXPECT_NEAR(score.val_loss, nats / targets, 1e-5);
  settings.packed_documents = false;
  EXPECT_GT(std::fabs(EvaluateSliding(fused, *val, table, settings).val_loss - nats / targets), 1e-4);
}

// Losses are float32; nothing else is rounded but under published_quirks. A float32 sum would be off in the eighth digit.
TEST_F(EvaluateTest, PlainIsSummedInDoubles) {
  settings.Set("val_batch_size", "16384", Origin::kCommandLine, "test");
  Split(2001);
  const int64_t T = settings.train_seq_len;
  fused.Prepare(/*fake_quantise=*/false);
  double nats = 0;
  for (int64_t first = 0; first < 2000; first += T) {
    const uint16_t* const sequence = tokens.data() + first;
    std::vector<float> losses(T);
    fused.TokenLosses({&sequence, 1}, T, 0, losses.data());
    for (const float loss : losses) nats += loss;
  }
  const Score score = EvaluatePlain(fused, *val, table, settings);
  EXPECT_NEAR(score.val_loss, nats / 2000, 1e-9);
  settings.Set("published_quirks", "1", Origin::kCommandLine, "test");
  EXPECT_GT(std::abs(EvaluatePlain(fused, *val, table, settings).val_loss - nats / 2000), 1e-9);
}

TEST_F(EvaluateTest, BatchSizeChangesRoundingOnly) {
  Split(150);
  const Score one_by_one = [&] {
    settings.eval_batch_seqs = 1;
    return EvaluateSliding(fused, *val, table, settings);
  }();
  for (const int64_t batch : {2, 7, 28, 1000}) {
    settings.eval_batch_seqs = batch;
    const Score score = EvaluateSliding(fused, *val, table, settings);
    EXPECT_NEAR(score.val_loss, one_by_one.val_loss, kRounding) << batch;
    EXPECT_EQ(score.bytes, one_by_one.bytes);
  }
  settings.val_batch_size = 8 * 16;
  const Score plain = EvaluatePlain(fused, *val, table, settings);
  settings.val_batch_size = 8 * 16 * 4;
  EXPECT_NEAR(EvaluatePlain(fused, *val, table, settings).val_loss, plain.val_loss, kRounding);
}

TEST_F(EvaluateTest, ReportsEveryBatch) {
  Split(62);  // 61 targets: windows at 0, 5, … 45
  std::vector<BatchDone> batches;
  const Score score =
      EvaluateSliding(fused, *val, table, settings, [&](const BatchDone& batch) { batches.push_back(batch); });
  ASSERT_EQ(batches.size(), 4u);
  EXPECT_EQ(batches[1].batch, 1);
  EXPECT_EQ(batches[1].windows_done, 6);
  EXPECT_EQ(batches[3].windows_done, 10);
  EXPECT_EQ(batches[3].windows, 10);
  EXPECT_DOUBLE_EQ(batches[3].bits_per_byte, score.val_bpb);
}

TEST_F(EvaluateTest, RefusesWhatItCannotScore) {
  Split(1);
  EXPECT_THAT(MessageOf<InputError>([&] { EvaluateSliding(fused, *val, table, settings); }),
              HasSubstr("fineweb_val_000000.bin: the validation split holds 1 tokens where at least 2 are needed"));
  Split(16);
  EXPECT_THAT(MessageOf<InputError>([&] { EvaluatePlain(fused, *val, table, settings); }),
              HasSubstr("holds 16 tokens where at least 17 are needed"));
  settings.val_batch_size = 127;
  EXPECT_THAT(MessageOf<UsageError>([&] { EvaluatePlain(fused, *val, table, settings); }),
              HasSubstr("VAL_BATCH_SIZE=127"));
  for (ByteTable::Piece& piece : table.pieces) piece = {.text = piece.text, .boundary = true};
  EXPECT_THAT(MessageOf<InputError>([&] { EvaluateSliding(fused, *val, table, settings); }),
              HasSubstr("have no bytes of text"));
}

TEST_F(EvaluateTest, NamesATokenOutOfRange) {
  Split(40);
  tokens[30] = static_cast<uint16_t>(settings.vocab_size);
  val.emplace(WriteVal(folder, tokens, settings.vocab_size));
  EXPECT_THAT(MessageOf<InputError>([&] { EvaluateSliding(fused, *val, table, settings); }),
              HasSubstr("fineweb_val_000001.bin"));
}

}  // namespace
}  // namespace fairway
