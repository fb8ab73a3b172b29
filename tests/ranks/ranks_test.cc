// Ranks against a single process, inside the ranks themselves: mpirun -n N ranks_test. Every rank also trains alone, and what they
// train together is compared with that.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/base/digest.h"
#include "common/calibrate/calibrate.h"
#include "common/evaluate/evaluate.h"
#include "common/runtime/runtime.h"
#include "common/train/late_qat.h"
#include "tests/common/train/corpus.h"

namespace fairway {
namespace {

Communicator* ranks = nullptr;  // of this run of the tests

// The largest of one number per rank.
double LargestOfRanks(double mine) {
  const std::vector<double> all = ranks->Gather({&mine, 1});
  return *std::max_element(all.begin(), all.end());
}
double SumOfRanks(double mine) {
  double sum = 0;
  for (double of_rank : ranks->Gather({&mine, 1})) sum += of_rank;
  return sum;
}
bool AllEqual(const std::vector<std::string>& texts) {
  return std::all_of(texts.begin(), texts.end(), [&](const std::string& text) { return text == texts.front(); });
}

std::string DigestOf(const NamedTensors& tensors) {
  Sha256 sha256;
  for (const auto& [name, tensor] : tensors)
    sha256.Update(std::span(static_cast<const std::byte*>(tensor.contiguous().const_data_ptr()), tensor.nbytes()));
  return ToHex(sha256.Finish());
}

double Largest(const at::Tensor& tensor) { return tensor.numel() == 0 ? 0 : tensor.abs().max().item<double>(); }

class RanksTest : public CorpusTest {
 protected:
  // Eight micro-batches a step; clipped, with late QAT, both averages.
  Settings Eight(const Options& more = {}) const {
    Options all = {{"grad_micro_steps", "8"}, {"train_batch_tokens", "256"}, {"grad_clip_norm", "0.3"}, {"num_layers", "4"}, {"value_embed_every", "3"}};
    for (const auto& [name, value] : more) all[name] = value;
    return Make(all);
  }
  static Trainer Together(const Settings& settings) {
    return Trainer(settings, ShardSet(settings.data_path, "train", settings.vocab_size), nullptr, *ranks);
  }
  static std::vector<std::vector<float>> Losses(Trainer& trainer, const Settings& settings, int64_t until) {
    std::vector<std::vector<float>> losses;
    while (trainer.step() < until) {
      const double scale = LearningRateScale(settings, trainer.step(), 0);
      if (scale < settings.late_qat_threshold && !trainer.fake_quantises()) trainer.StartFakeQuantisation();
      losses.push_back(trainer.AccumulateGradients());
      trainer.Update(scale);
    }
    return losses;
  }
  static double Distance(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
    double largest = 0;
    for (size_t i = 0; i < a.size(); ++i)
      for (size_t j = 0; j < a[i].size(); ++j) largest = std::max(largest, std::abs(static_cast<double>(a[i][j]) - b[i][j]));
    return largest;
  }
};

// Of the same weights, the micro-batches' losses are the same bits, and each gradient's sum is off by what adding eight float32 in
// another order can do: seven roundings of the largest partial sum.
// The wider model's blocks fill buckets; the narrow one is a single bucket.
class GradientsTest : public RanksTest, public testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Widths, GradientsTest, testing::Values("16", "256"));

TEST_P(GradientsTest, AreThoseOfASingleProcess) {
  const Settings settings = Eight({{"model_dim", GetParam()}});
  Trainer alone = MakeTrainer(settings), together = Together(settings);
  EXPECT_EQ(alone.AccumulateGradients(), together.AccumulateGradients());
  const FlatLayout layout(settings);
  const Partition partition(layout, ranks->world_size());
  size_t matrix = 0;
  int64_t compared = 0;
  for (size_t i = 0; i < layout.entries().size(); ++i) {
    const bool dealt = layout.entries()[i].spec.group == Group::kMatrices;
    if (dealt && partition.matrices()[matrix++].rank != ranks->rank()) continue;
    const at::Tensor &expected = alone.gradients()[i].second, &sum = together.gradients()[i].second;
    EXPECT_LE(Largest(sum - expected), 64 * 0x1p-24 * Largest(expected)) << layout.entries()[i].spec.name;
    if (dealt) ++compared;
  }
  EXPECT_EQ(SumOfRanks(static_cast<double>(compared)), static_cast<double>(matrix));  // each matrix by somebody
}

// What a backward pass has left behind is on its way before the pass has come to the first block, and arrives whole.
TEST_F(RanksTest, BucketsLeaveWhileTheBackwardPassGoesOn) {
  if (ranks->world_size() == 1) GTEST_SKIP() << "one rank sends nothing";
  const Settings settings = Eight({{"model_dim", "256"}});
  const FlatLayout layout(settings);
  FlatTensors parameters(layout, layout.embeddings_dtype()), gradients(layout, at::kFloat);
  const NamedTensors weights = RandomParameters(settings);
  for (size_t i = 0; i < weights.size(); ++i) parameters.tensors()[i].second.copy_(weights[i].second);
  const auto engine = MakeEngine(settings, parameters.tensors(), gradients.tensors(), nullptr);
  const Partition partition(layout, ranks->world_size());
  ASSERT_GT(partition.buckets().size(), 1u);
  GradientExchange exchange(partition, gradients, *ranks);
  engine->Prepare(/*fake_quantise=*/false);
  const std::vector<uint16_t> tokens = RandomTokens(33, kVocab);
  const uint16_t* const sequence = tokens.data();
  const int64_t before = ranks->bulk_bytes();
  std::map<int64_t, int64_t> on_their_way;  // bytes, after the backward pass of each block
  engine->AccumulateLastGradients({&sequence, 1}, 32, /*share=*/1, [&](int64_t block) {
    exchange.BlocksFrom(block);
    on_their_way[block] = ranks->bulk_bytes() - before;
  });
  const at::Tensor own = gradients.buffers().front().clone();
  exchange.Finish();
  const double early = SumOfRanks(static_cast<double>(on_their_way.at(1))), all = SumOfRanks(static_cast<double>(ranks->bulk_bytes() - before));
  EXPECT_GT(early, 0);
  EXPECT_LT(early, all);
  // All ranks had the same tokens: a sum is the own gradient, added once per rank.
  at::Tensor sums = own.clone();
  for (int64_t rank = 1; rank < ranks->world_size(); ++rank) sums.add_(own);
  for (const Partition::Shard& piece : partition.matrices()) {
    if (piece.rank != ranks->rank()) continue;
    const auto part = [&](const at::Tensor& of) { return of.narrow(0, piece.range.first, piece.range.size()); };
    EXPECT_TRUE(part(gradients.buffers().front()).equal(part(sums)));
  }
}

// Over steps, small differences grow (Newton-Schulz rounds to bfloat16, late QAT to a grid). The measure is the single process
// itself, with its own sums in another order: a micro-batch's two sequences computed one at a time.
TEST_F(RanksTest, LossesOfAllStepsAreThoseOfASingleProcess) {
  const Settings settings = Eight({{"iterations", "20"}, {"warmdown_iters", "15"}});
  Settings other_order = settings;
  other_order.Set("micro_batch_seqs", "1", Origin::kCommandLine, "test");
  Trainer alone = MakeTrainer(settings), reordered = MakeTrainer(other_order), together = Together(settings);
  const auto expected = Losses(alone, settings, 20), again = Losses(reordered, other_order, 20), losses = Losses(together, settings, 20);
  const double noise = Distance(expected, again), distance = Distance(expected, losses);
  EXPECT_GT(noise, 0);
  EXPECT_LE(distance, 4 * noise);
  if (ranks->rank() == 0)
    std::printf("losses of 20 steps: %.2e from the single process, which is %.2e from itself in another order\n", distance, noise);
  EXPECT_TRUE(AllEqual(ranks->Gather(DigestOf(together.parameters()))));
  EXPECT_EQ(together.swa_snapshots(), alone.swa_snapshots());
  EXPECT_TRUE(together.fake_quantises());
}

TEST_F(RanksTest, OneNumberOfRanksGivesOneResult) {
  const Settings settings = Eight();
  Trainer first = Together(settings), second = Together(settings);
  EXPECT_EQ(Losses(first, settings, 8), Losses(second, settings, 8));
  EXPECT_EQ(DigestOf(first.parameters()), DigestOf(second.parameters()));
}

TEST_F(RanksTest, WhicheverRankWritesTheCheckpointIsTheSame) {
  const Settings settings = Eight();
  Trainer trainer = Together(settings);
  Losses(trainer, settings, 5);
  trainer.ShareState();
  const std::string identity = Save(trainer, settings, folder / "train.ckpt");
  EXPECT_TRUE(AllEqual(ranks->Gather(identity)));

  // Going on, as many ranks come bit for bit to where they would have come; one process comes near it.
  Trainer resumed = Together(settings), alone = MakeTrainer(settings);
  const CheckpointReader checkpoint(folder / "train.ckpt");
  resumed.Restore(checkpoint);
  alone.Restore(checkpoint);
  const auto losses = Losses(trainer, settings, 8);
  EXPECT_EQ(losses, Losses(resumed, settings, 8));
  EXPECT_EQ(DigestOf(trainer.parameters()), DigestOf(resumed.parameters()));
  EXPECT_LE(Distance(losses, Losses(alone, settings, 8)), 1e-2);
}

// (world size - 1) (8 A + 6 M) bytes per step over all ranks, and a few numbers of each (docs/scaling.md).
TEST_F(RanksTest, AStepMovesAsManyBytesAsTheFormulaSays) {
  for (const char* tied : {"0", "1"}) {
    const Settings settings = Eight({{"tie_embeddings", tied}});
    Trainer trainer = Together(settings);
    const double bulk = SumOfRanks(static_cast<double>(ranks->bulk_bytes()));
    const auto gathered = static_cast<double>(ranks->gathered_bytes());
    Losses(trainer, settings, 1);
    const auto numbers = static_cast<double>(ranks->gathered_bytes()) - gathered;
    const FlatLayout layout(settings);
    const auto others = static_cast<double>(layout.range(Group::kMatrices).first);
    double matrices = 0;
    for (const auto& entry : layout.entries())
      if (entry.spec.group == Group::kMatrices) matrices += static_cast<double>(entry.range.size());
    const auto more = static_cast<double>(ranks->world_size() - 1);
    EXPECT_EQ(SumOfRanks(static_cast<double>(ranks->bulk_bytes())) - bulk, more * (8 * others + 6 * matrices));
    EXPECT_EQ(numbers, more * 8 * (8 / static_cast<double>(ranks->world_size()) + 1));  // losses, the norm
  }
}

TEST_F(RanksTest, WarmUpLeavesNoTrace) {
  const Settings settings = Eight({{"warmup_steps", "2"}});
  Trainer warm = Together(settings), cold = Together(settings);
  warm.WarmUp([](int64_t) {});
  EXPECT_EQ(Losses(warm, settings, 4), Losses(cold, settings, 4));
}

TEST_F(RanksTest, AnUpdateThatIsLeftOutLeavesAllRanksWhereTheyWere) {
  const Settings settings = Eight();
  Trainer trainer = Together(settings);
  const std::string before = DigestOf(trainer.parameters());
  trainer.AccumulateGradients();
  trainer.gradients().front().second.fill_(NAN);  // as a sum over ranks would be on all of them
  EXPECT_FALSE(std::isfinite(trainer.Update(1)));
  EXPECT_EQ(trainer.step(), 0);
  trainer.SkipUpdate();
  EXPECT_EQ(DigestOf(trainer.parameters()), before);
  EXPECT_TRUE(std::isfinite(LargestOfRanks(trainer.AccumulateGradients().front())));
  EXPECT_TRUE(std::isfinite(trainer.Update(1)));
}

TEST_F(RanksTest, ScoresAreThoseOfASingleProcessBitForBit) {
  const Settings settings = TinySettings();
  const ShardSet val = WriteVal(folder, RandomTokens(401, 40), 40);
  const ByteTable table = TinyTable(40);
  Trainer trainer = MakeTrainer(Make({{"train_seq_len", "16"}}));
  const auto model = MakeEngine(settings, TinyModel(settings).parameters(), {}, nullptr);
  const auto all = [&](auto evaluate, Communicator& communicator) {
    std::vector<double> numbers;
    const Score score = evaluate(*model, val, table, settings,
                                 [&](const BatchDone& done) {
                                   for (double number : {static_cast<double>(done.batch), static_cast<double>(done.windows_done), done.bits_per_byte})
                                     numbers.push_back(number);
                                 },
                                 communicator);
    for (double number : {score.val_loss, score.val_bpb, static_cast<double>(score.targets), static_cast<double>(score.bytes)})
      numbers.push_back(number);
    return numbers;
  };
  const auto sliding = [](auto&&... of) { return EvaluateSliding(of...); };
  const auto plain = [](auto&&... of) { return EvaluatePlain(of...); };
  EXPECT_EQ(all(sliding, *ranks), all(sliding, Communicator::Single()));
  EXPECT_EQ(all(plain, *ranks), all(plain, Communicator::Single()));
}

// Fewer windows than eight ranks, and a number that no other divides.
TEST_F(RanksTest, CalibrationIsThatOfASingleProcessBitForBit) {
  for (const char* tied : {"0", "1"}) {
    const Settings settings = Make({{"quantiser", "gptq"}, {"calibration_windows", "7"}, {"calibration_tokens", "20"},
                                    {"keep_max_numel", "10"}, {"fp16_keep_name_patterns", ""}, {"tie_embeddings", tied}});
    const NamedTensors weights = RandomParameters(settings);
    const ShardSet train(settings.data_path, "train", settings.vocab_size);
    std::vector<int64_t> told;
    const auto progress = [&](int64_t done, int64_t of) { told = {done, of}; };
    const Calibration alone = Calibrate(weights, settings, train, progress), together = Calibrate(weights, settings, train, progress, *ranks);
    EXPECT_EQ(told[0], told[1]);
    ASSERT_FALSE(alone.costs.empty());
    ASSERT_EQ(together.costs.size(), alone.costs.size());
    for (const auto& [name, cost] : alone.costs) {
      EXPECT_EQ(together.costs.at(name).mean, cost.mean) << name;
      EXPECT_EQ(together.costs.at(name).rows, cost.rows) << name;
      EXPECT_EQ(together.costs.at(name).columns, cost.columns) << name;
    }
    ASSERT_FALSE(alone.feedback.empty());
    ASSERT_EQ(together.feedback.size(), alone.feedback.size());
    for (const auto& [name, feedback] : alone.feedback) {
      EXPECT_EQ(together.feedback.at(name).order, feedback.order) << name;
      EXPECT_EQ(together.feedback.at(name).upper, feedback.upper) << name;
    }
  }
}

// One rank searches; the others receive the result.
TEST_F(RanksTest, LateQatTrainsOnTheStepsOfASingleProcess) {
  const Settings settings = Make({{"quantiser", "gptq"}, {"calibration_windows", "5"}, {"calibration_tokens", "20"},
                                  {"bits_per_weight", "9"}});
  const NamedTensors weights = RandomParameters(settings);
  const ShardSet train(settings.data_path, "train", settings.vocab_size);
  const StepsToTrainOn alone = FindStepsToTrainOn(weights, settings, train, Communicator::Single()),
                       together = FindStepsToTrainOn(weights, settings, train, *ranks);
  EXPECT_GT(alone.step, 0);
  EXPECT_EQ(together.step, alone.step);
  ASSERT_FALSE(alone.matrices.empty());
  for (const auto& [name, steps] : alone.matrices) {
    EXPECT_EQ(together.matrices.at(name).rows, steps.rows) << name;
    EXPECT_EQ(together.matrices.at(name).columns, steps.columns) << name;
  }
}

class FailuresAlone : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::printf("rank %jd: %s:%d: %s\n", ranks->rank(), result.file_name(), result.line_number(), result.message());
    std::fflush(stdout);
  }
};

}  // namespace
}  // namespace fairway

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  fairway::Settings settings;
  settings.Set("threads", "1", fairway::Origin::kCommandLine, "test");
  // With --device cuda the ranks talk by NCCL; they compute on the CPU all the same, from where their memory passes through the GPUs.
  const bool by_nccl = argc == 3 && std::string(argv[1]) == "--device";
  settings.Set("device", by_nccl ? argv[2] : "cpu", fairway::Origin::kCommandLine, "test");
  settings.Set("comm_timeout_seconds", "60", fairway::Origin::kCommandLine, "test");
  const fairway::Runtime runtime(settings);
  fairway::ranks = runtime.communicator.get();
  // One rank reports what passes; the rank that finds a failure reports it.
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (fairway::ranks->rank() > 0) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new fairway::FailuresAlone);
  }
  return RUN_ALL_TESTS();
}
