#include "common/evaluate/evaluate.h"

#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "common/base/error.h"
#include "common/model/fused.h"
#include "tests/common/evaluate/tiny_model.h"

namespace fairway {
namespace {

using testing::HasSubstr;

// Losses are float32 with a unit in the last place of 2.4e-7 (they are below 4), and attention over another number of
// positions sums in another order: a few such units for one target, less in the mean.
constexpr double kRounding = 1e-6;

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
  FusedTransformer fused;
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

// The published loop, window by window: the tail counts as often as windows reach past the end.
TEST_F(EvaluateTest, CompatIsThePublishedSum) {
  const int64_t seq_len = settings.train_seq_len;
  settings.compat = true;
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

TEST_F(EvaluateTest, KnowsWhenItSlides) {
  for (const auto& [stride, slides] :
       {std::pair(-1, false), {0, false}, {1, true}, {15, true}, {16, false}, {17, false}}) {
    settings.eval_stride = stride;
    EXPECT_EQ(IsSliding(settings), slides) << stride;
  }
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
              HasSubstr("stand for no text"));
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
