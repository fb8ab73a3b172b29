// The step and what it carries along: going on bit for bit, micro-batches, warm-up, averages, switches.
#include "common/train/trainer.h"

#include <ATen/ops/from_blob.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/error.h"
#include "common/settings/schedule.h"
#include "common/tokens/segments.h"
#include "tests/common/cuda/host_device.h"
#include "tests/common/train/corpus.h"

namespace fairway {
namespace {

class TrainerTest : public CorpusTest {};

const Options kRtn = {{"quantiser", "rtn"}, {"bits_per_weight", "9"}, {"calibration_windows", "2"}, {"calibration_tokens", "12"}};
const Options kGptq = {{"quantiser", "gptq"}, {"bits_per_weight", "9"}, {"calibration_windows", "2"}, {"calibration_tokens", "12"}};

std::map<std::string, double> CountersOf(const std::string& path) {
  std::map<std::string, double> counters;
  const CheckpointReader checkpoint(path);
  for (const auto& [name, value] : checkpoint.counters().all())
    if (name != counter::kDataWaitSeconds) counters[name] = value;
  return counters;
}

// Cut after every step: before and after the first snapshot, the start of late QAT and the stream's new beginning.
TEST_F(TrainerTest, GoesOnBitForBitFromEveryStep) {
  cuda::HostDevice host;
  const auto with = [](Options options, Options more) {
    options.merge(more);
    return options;
  };
  for (const auto& [options, device] : std::vector<std::pair<Options, cuda::Device*>>{
           {{{"precision", "float32"}}, nullptr},
           {{{"precision", "float32"}, {"data_order", "shuffled"}}, nullptr},
           {{{"precision", "bfloat16"}, {"published_quirks", "1"}}, nullptr},
           {{{"precision", "bfloat16"}}, &host},
           {{{"precision", "bfloat16"}, {"residual_precision", "bfloat16"}}, &host},
           {with(kRtn, {{"precision", "float32"}}), nullptr},
           {with(kGptq, {{"precision", "bfloat16"}}), &host}}) {
    const Settings settings = Make(options);
    SCOPED_TRACE(settings.precision + " " + settings.quantiser + (settings.published_quirks ? " published_quirks" : "") + (device != nullptr ? " on a device" : ""));
    Trainer whole = MakeTrainer(settings, device);
    TakeSteps(whole, settings, 8);
    const std::string identity = Save(whole, settings, folder / "whole.ckpt");
    const auto counters = CountersOf(folder / "whole.ckpt");
    EXPECT_EQ(counters.at(counter::kEmaUpdates), 8);
    EXPECT_EQ(counters.at(counter::kSwaSnapshots), 2);                       // after steps 6 (scale 3/8) and 8 (1/8)
    EXPECT_EQ(counters.at(counter::kQatFirstStep), 5);                       // 3/8 is the first scale below 0.4
    EXPECT_EQ(counters.at(counter::kQatReplacements), 3 * (3 * 6 + 1));  // steps, matrices
    EXPECT_EQ(counters.at(counter::kTokens), 8 * 64);
    ASSERT_EQ(counters.contains(counter::kQatStep), settings.quantiser != "published");
    if (settings.quantiser != "published") {
      EXPECT_GT(counters.at(counter::kQatStep), 0);
    }
    for (int64_t cut = 0; cut <= 8; ++cut) {
      Trainer first = MakeTrainer(settings, device);
      TakeSteps(first, settings, cut);
      Save(first, settings, folder / "cut.ckpt");
      Trainer second = MakeTrainer(settings, device);
      second.Restore(CheckpointReader(folder / "cut.ckpt"));
      EXPECT_EQ(second.step(), cut);
      EXPECT_EQ(second.fake_quantises(), cut > 5);
      TakeSteps(second, settings, 8);
      EXPECT_EQ(Save(second, settings, folder / "resumed.ckpt"), identity) << "cut after step " << cut;
      EXPECT_EQ(CountersOf(folder / "resumed.ckpt"), counters) << "cut after step " << cut;
    }
  }
}

// At every fifth of the places where the trainer asks (each micro-batch has three), it stops, and then does the same again.
TEST_F(TrainerTest, WhatIsGivenUpLeavesNoTrace) {
  Options options = kRtn;
  options.merge(Options{{"precision", "float32"}, {"micro_batch_seqs", "1"}});
  const Settings settings = Make(options);
  Trainer whole = MakeTrainer(settings);
  TakeSteps(whole, settings, 8);
  const std::string identity = Save(whole, settings, folder / "whole.ckpt");
  const auto counters = CountersOf(folder / "whole.ckpt");
  int64_t places = 0;
  for (bool given_up = true; given_up; places += given_up ? 5 : 0) {
    Trainer trainer = MakeTrainer(settings);
    int64_t asked = 0;
    given_up = false;
    trainer.SetStop([&] {
      const bool stop = !given_up && asked++ == places;
      given_up |= stop;
      return stop;
    });
    while (trainer.step() < 8) {
      const int64_t step = trainer.step();
      const double scale = LearningRateScale(settings, step, 0);
      if (scale < settings.late_qat_threshold && !trainer.fake_quantises()) {
        try {
          trainer.StartFakeQuantisation();
        } catch (const Trainer::Cancelled&) {
          EXPECT_FALSE(trainer.fake_quantises());
          trainer.StartFakeQuantisation();
        }
      }
      if (trainer.AccumulateGradients().empty()) {
        EXPECT_TRUE(given_up);
        EXPECT_EQ(trainer.step(), step);
        for (const auto& [name, gradient] : trainer.gradients()) EXPECT_EQ(gradient.abs().max().item<float>(), 0) << name;
        EXPECT_FALSE(trainer.AccumulateGradients().empty());
      }
      trainer.Update(scale);
    }
    ASSERT_EQ(Save(trainer, settings, folder / "again.ckpt"), identity) << "stopped at place " << places;
    ASSERT_EQ(CountersOf(folder / "again.ckpt"), counters) << "stopped at place " << places;
  }
  EXPECT_GE(places, 8 * 2 * 3 + 2);  // before each micro-batch and each of its two chunks, and after each window of calibration
}

TEST_F(TrainerTest, AWarmUpThatIsGivenUpLeavesNoTrace) {
  const Settings settings = Make({{"warmup_steps", "3"}});
  Trainer fresh = MakeTrainer(settings);
  const std::string identity = Save(fresh, settings, folder / "fresh.ckpt");
  for (int64_t place = 0; place < 6; ++place) {
    Trainer trainer = MakeTrainer(settings);
    int64_t asked = 0, steps = 0;
    trainer.SetStop([&] { return asked++ == place; });
    trainer.WarmUp([&](int64_t step) { steps = step; });
    EXPECT_LT(steps, 3);
    EXPECT_EQ(Save(trainer, settings, folder / "again.ckpt"), identity) << place;
  }
}

// A whole schedule: warm-up, late QAT, averages. In bfloat16 both optimisers round Newton-Schulz their own way.
TEST_F(TrainerTest, TrainsOnADeviceAsOnTheCpu) {
  const Settings settings = Make({{"warmup_steps", "2"}});
  cuda::HostDevice host;
  Trainer ours = MakeTrainer(settings, &host), theirs = MakeTrainer(settings);
  for (Trainer* trainer : {&ours, &theirs}) trainer->WarmUp([](int64_t) {});
  for (int64_t step = 0; step < 8; ++step) {
    const double scale = LearningRateScale(settings, step, 0), loss_tolerance = step == 0 ? 1e-5 : 2e-2;
    if (scale < settings.late_qat_threshold && !ours.fake_quantises()) {
      EXPECT_EQ(ours.StartFakeQuantisation(), theirs.StartFakeQuantisation());
    }
    const std::vector<float> losses = ours.AccumulateGradients();
    EXPECT_THAT(losses, testing::Pointwise(testing::FloatNear(loss_tolerance), theirs.AccumulateGradients())) << "step " << step;
    const double norm = ours.Update(scale), expected = theirs.Update(scale);
    EXPECT_NEAR(norm, expected, (step == 0 ? 1e-5 : 0.05) * expected) << "step " << step;
  }
  EXPECT_TRUE(ours.fake_quantises());
  EXPECT_GT(host.captures(), 0);
}

// Relative distance of the gradients of the first step, over all parameters.
double GradientDistance(Trainer& ours, Trainer& theirs) {
  ours.AccumulateGradients();
  theirs.AccumulateGradients();
  double apart = 0, all = 0;
  for (size_t i = 0; i < ours.gradients().size(); ++i) {
    const at::Tensor a = ours.gradients()[i].second, b = theirs.gradients()[i].second;
    apart += (a - b).square().sum().item<double>();
    all += b.square().sum().item<double>();
  }
  EXPECT_GT(all, 0);
  return std::sqrt(apart / all);
}

// Sums in another order: some dozens of float32 roundings of 2^-24 each.
constexpr double kRounding = 2e-6;

TEST_F(TrainerTest, MicroBatchSeqsChangesRoundingsOnly) {
  for (const char* sequences : {"1", "2", "3", "4", "100"}) {
    Trainer all = MakeTrainer(Make({{"train_batch_tokens", "128"}}));
    Trainer some = MakeTrainer(Make({{"train_batch_tokens", "128"}, {"micro_batch_seqs", sequences}}));
    EXPECT_LE(GradientDistance(some, all), kRounding) << sequences;
  }
}

// Micro-batches each lose a token to the next span; with that token doubled in the shards they are the same targets.
TEST_F(TrainerTest, MicroStepsAreAMeanOverTheSameTargets) {
  const std::vector<uint16_t> tokens = RandomTokens(65, kVocab);
  WriteTrain(folder.path(), tokens);
  Trainer one = MakeTrainer(Make({{"grad_micro_steps", "1"}}));
  const ScratchFolder other;
  std::vector<uint16_t> doubled;
  for (size_t i = 0; i < tokens.size(); ++i) {
    doubled.push_back(tokens[i]);
    if (i % 16 == 0 && i > 0 && i < 64) doubled.push_back(tokens[i]);
  }
  WriteTrain(other.path(), doubled);
  Trainer four = MakeTrainer(Make({{"grad_micro_steps", "4"}, {"data_path", other.path()}}));
  EXPECT_LE(GradientDistance(four, one), kRounding);
  EXPECT_EQ(four.AccumulateGradients().size(), 4);
  EXPECT_EQ(one.AccumulateGradients().size(), 1);
}

// One gradient that is no number spoils one update, and nothing else.
TEST_F(TrainerTest, LeavesOutAnUpdate) {
  const Settings settings = Make();
  Trainer trainer = MakeTrainer(settings);
  TakeSteps(trainer, settings, 1);
  const std::string before = Save(trainer, settings, folder / "before.ckpt");
  EXPECT_EQ(trainer.FindNonFinite(), "");
  for (const float poison : {NAN, INFINITY}) {
    trainer.AccumulateGradients();
    for (const auto& [name, gradient] : trainer.gradients())
      if (name == "blocks.0.attn.c_q.weight") gradient.view({-1})[3].fill_(poison);
    EXPECT_EQ(trainer.FindNonFinite(), "gradient of blocks.0.attn.c_q.weight");
    const int64_t step = trainer.step();
    EXPECT_FALSE(std::isfinite(trainer.Update(1)));
    EXPECT_EQ(trainer.step(), step);
    trainer.SkipUpdate();
    EXPECT_EQ(trainer.step(), step + 1);
    EXPECT_EQ(trainer.FindNonFinite(), "");
    EXPECT_EQ(Save(trainer, settings, folder / "after.ckpt"), before) << "tensors changed";
  }
  const CheckpointReader after(folder / "after.ckpt");
  EXPECT_EQ(after.Count(counter::kSkippedUpdates), 2);
  EXPECT_EQ(after.Count(counter::kSteps), 3);
  EXPECT_EQ(after.Count(counter::kEmaUpdates), 1);
  Trainer resumed = MakeTrainer(settings);
  resumed.Restore(after);
  EXPECT_EQ(resumed.skipped_updates(), 2);
  TakeSteps(trainer, settings, 8);
  TakeSteps(resumed, settings, 8);
  EXPECT_EQ(Save(resumed, settings, folder / "a.ckpt"), Save(trainer, settings, folder / "b.ckpt"));

  for (const auto& [name, tensor] : trainer.parameters())
    if (name == "tok_emb.weight") tensor.detach().fill_(NAN);
  EXPECT_EQ(trainer.FindNonFinite(), "tok_emb.weight");
}

// What a checkpoint counts with must count something.
TEST_F(TrainerTest, RefusesCountersThatCountNothing) {
  const Settings settings = Make();
  const Trainer trainer = MakeTrainer(settings);
  for (const char* name : {"data.position", "adam.steps", counter::kSteps, counter::kQatReplacements}) {
    Counters counters;
    std::string bytes;
    CheckpointWriter writer(&bytes, Kind::kTraining, {});
    trainer.Save(writer, counters);
    counters.Set(name, -5);
    writer.Finish(counters, {});
    Trainer other = MakeTrainer(settings);
    EXPECT_EQ(MessageOf<InputError>([&] { other.Restore(CheckpointReader(bytes, "F")); }),
              std::string("F: its counter ") + name + " is -5, which counts nothing");
  }
}

TEST_F(TrainerTest, LossesAreThoseOfTheModelOnTheSpans) {
  const Settings settings = Make();
  Trainer trainer = MakeTrainer(settings);
  const std::vector<uint16_t> tokens = RandomTokens(400, kVocab);
  for (int64_t step = 0; step < 8; ++step) {
    const Transformer plain(settings, trainer.parameters());
    std::vector<float> expected;
    for (int64_t micro = 0; micro < 2; ++micro) {
      at::Tensor span = at::zeros({33}, at::kLong);
      for (int64_t i = 0; i < 33; ++i) span[i] = tokens[(33 * (2 * step + micro) + i) % 400];
      expected.push_back(
          plain.Loss(span.narrow(0, 0, 32).view({2, 16}), span.narrow(0, 1, 32).view({2, 16})).item<float>());
    }
    EXPECT_THAT(trainer.AccumulateGradients(), testing::Pointwise(testing::FloatNear(kRounding), expected)) << "step " << step;
    trainer.Update(1);
  }
}

// Rows of packed documents, and the looped segment from its fraction on: losses are those of the plain model on the spans and with the
// segments that tokens/segments.h names.
TEST_F(TrainerTest, PackedRowsAndLoops) {
  const Settings settings = Make({{"packed_documents", "1"}, {"num_loops", "1"}, {"loop_start", "1"}, {"loop_end", "1"},
                                  {"enable_looping_at", "0.5"}, {"late_qat_threshold", "0"}, {"train_batch_tokens", "70"},
                                  {"bigram_vocab_size", "0"}, {"smear", "0"}, {"smear_gate_enabled", "1"}, {"gate_window", "6"}});
  Trainer trainer = MakeTrainer(settings);
  const std::vector<uint16_t> tokens = RandomTokens(400, kVocab);
  const PackedSpans spans(trainer.shards(), 36);
  int64_t position = 0;
  for (int64_t step = 0; step < 8; ++step) {
    EXPECT_EQ(trainer.LoopFrom(TrainingFraction(settings, step, 0)), step == 4);
    Transformer plain(settings, trainer.parameters());
    plain.SetLooped(step >= 4);
    std::vector<float> expected;
    for (int64_t micro = 0; micro < 2; ++micro) {
      position = spans.Next(position);
      const std::vector<uint16_t> row(tokens.begin() + position % 400, tokens.begin() + position % 400 + 36);
      position += 36;
      const std::vector<int32_t> starts = SegmentStarts({row.data(), 35}, settings.train_seq_len);
      EXPECT_GE(starts.size(), 3u);
      const std::vector<int64_t> ids(row.begin(), row.end());
      const at::Tensor span = at::from_blob(const_cast<int64_t*>(ids.data()), {36}, at::kLong);
      expected.push_back(plain.Loss(span.narrow(0, 0, 35).view({1, 35}), span.narrow(0, 1, 35).view({1, 35}), {starts.begin(), starts.end()}).item<float>());
    }
    EXPECT_THAT(trainer.AccumulateGradients(), testing::Pointwise(testing::FloatNear(kRounding), expected)) << "step " << step;
    trainer.Update(1);
  }
}

// The same rows and loop again from a checkpoint.
TEST_F(TrainerTest, PackedRowsAndLoopsContinueBitForBit) {
  const Settings settings = Make({{"packed_documents", "1"}, {"num_loops", "1"}, {"loop_start", "0"}, {"loop_end", "1"},
                                  {"enable_looping_at", "0.4"}, {"late_qat_threshold", "0"}, {"train_batch_tokens", "70"},
                                  {"bigram_vocab_size", "0"}, {"smear", "0"}});
  const auto take = [&](Trainer& trainer, int64_t until) {
    while (trainer.step() < until) {
      trainer.LoopFrom(TrainingFraction(settings, trainer.step(), 0));
      trainer.AccumulateGradients();
      trainer.Update(1);
    }
  };
  Trainer whole = MakeTrainer(settings);
  take(whole, 8);
  const std::string identity = Save(whole, settings, folder / "whole.ckpt");
  for (const int64_t cut : {2, 6}) {
    Trainer first = MakeTrainer(settings);
    take(first, cut);
    Save(first, settings, folder / "cut.ckpt");
    Trainer second = MakeTrainer(settings);
    second.Restore(CheckpointReader(folder / "cut.ckpt"));
    // Scored before the next step, it is visited as often as it was.
    const std::vector<uint16_t> tokens = {1, 5, 3, 9, 4, 7, 2, 8, 6};
    const auto losses = [&](Trainer& trainer) {
      const std::vector<const uint16_t*> starts = {tokens.data()};
      std::vector<float> found(8);
      trainer.ModelForScoring().TokenLosses(starts, 8, 0, found.data());
      return found;
    };
    EXPECT_EQ(losses(second), losses(first)) << "cut after step " << cut;
    take(second, 8);
    EXPECT_EQ(Save(second, settings, folder / "resumed.ckpt"), identity) << "cut after step " << cut;
  }
}

TEST_F(TrainerTest, WarmUpLeavesNoTrace) {
  const Settings settings = Make({{"warmup_steps", "3"}, {"precision", "bfloat16"}});
  Trainer cold = MakeTrainer(settings), warm = MakeTrainer(settings);
  std::vector<int64_t> heard;
  warm.WarmUp([&](int64_t step) { heard.push_back(step); });
  EXPECT_EQ(heard, (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(warm.step(), 0);
  EXPECT_EQ(Save(warm, settings, folder / "warm.ckpt"), Save(cold, settings, folder / "cold.ckpt"));
  EXPECT_EQ(CountersOf(folder / "warm.ckpt"), CountersOf(folder / "cold.ckpt"));
  TakeSteps(cold, settings, 8);
  TakeSteps(warm, settings, 8);
  EXPECT_EQ(Save(warm, settings, folder / "warm.ckpt"), Save(cold, settings, folder / "cold.ckpt"));
  EXPECT_EQ(CountersOf(folder / "warm.ckpt"), CountersOf(folder / "cold.ckpt"));
}

// The published momentum of a warm-up that several ranks of pull request 1855 forget to put back.
TEST_F(TrainerTest, WarmUpMayKeepMuonsMomentum) {
  const Settings settings = Make({{"warmup_steps", "3"}});
  Trainer cold = MakeTrainer(settings), warm = MakeTrainer(settings);
  warm.WarmUp([](int64_t) {}, /*keeps_momentum=*/true);
  Save(warm, settings, folder / "warm.ckpt");
  Save(cold, settings, folder / "cold.ckpt");
  const CheckpointReader of_warm(folder / "warm.ckpt"), of_cold(folder / "cold.ckpt");
  int64_t kept = 0;
  for (const TensorInfo& info : of_warm.tensors()) {
    const bool same = of_warm.Floats(info.name) == of_cold.Floats(info.name);
    kept += !same;
    EXPECT_TRUE(same || info.name.starts_with("muon/")) << info.name;
  }
  EXPECT_GT(kept, 10);  // all but those that have no gradient yet
}

// EMA and SWA against sums in float64 over the weights after every step.
TEST_F(TrainerTest, AveragesAreTheirFormulas) {
  for (const char* from_init : {"0", "1"}) {
    SCOPED_TRACE(from_init);
    const Settings settings = Make({{"precision", "bfloat16"}, {"ema_from_init", from_init}});
    Trainer trainer = MakeTrainer(settings);
    std::map<std::string, at::Tensor> ema, swa;
    if (settings.ema_from_init)
      for (const auto& [name, tensor] : trainer.parameters()) ema[name] = tensor.to(at::kDouble).clone();
    for (int64_t step = 1; step <= 8; ++step) {
      TakeSteps(trainer, settings, step);
      for (const auto& [name, tensor] : trainer.parameters()) {
        const at::Tensor w = tensor.to(at::kDouble);
        ema[name] = ema.contains(name) ? 0.7 * ema[name] + 0.3 * w : w.clone();
        if (step == 6) swa[name] = w.clone();
        if (step == 8) swa[name] = swa[name] + w;
      }
    }
    Save(trainer, settings, folder / "train.ckpt");
    const CheckpointReader checkpoint(folder / "train.ckpt");
    for (const auto& [set, expected] : {std::pair("ema/", &ema), {"swa_sum/", &swa}}) {
      for (const auto& [name, tensor] : *expected) {
        EXPECT_EQ(checkpoint.Find(set + name).dtype, DType::kFloat32);
        const std::vector<float> ours = checkpoint.Floats(set + name);
        const at::Tensor flat = tensor.flatten().contiguous();
        for (size_t i = 0; i < ours.size(); ++i)
          ASSERT_NEAR(ours[i], flat.const_data_ptr<double>()[i], 1e-6 * std::max(1.0f, std::abs(ours[i]))) << set << name;
      }
    }
  }
}

TEST_F(TrainerTest, WhatIsOffLeavesNothing) {
  const auto after = [&](const Options& options) {
    const Settings settings = Make(options);
    Trainer trainer = MakeTrainer(settings);
    TakeSteps(trainer, settings, 8);
    Save(trainer, settings, folder / "train.ckpt");
    return CheckpointReader(folder / "train.ckpt");
  };
  const auto has = [](const CheckpointReader& checkpoint, const std::string& prefix) {
    for (const TensorInfo& tensor : checkpoint.tensors())
      if (tensor.name.starts_with(prefix)) return true;
    return false;
  };
  const CheckpointReader on = after({});
  EXPECT_TRUE(has(on, "ema/") && has(on, "swa_sum/"));
  const CheckpointReader no_ema = after({{"ema_enabled", "0"}});
  EXPECT_FALSE(no_ema.counters().Has(counter::kEmaUpdates));
  EXPECT_FALSE(has(no_ema, "ema/"));
  EXPECT_TRUE(has(no_ema, "swa_sum/"));
  const CheckpointReader no_swa = after({{"swa_enabled", "0"}});
  EXPECT_FALSE(no_swa.counters().Has(counter::kSwaSnapshots));
  EXPECT_FALSE(has(no_swa, "swa_sum/"));
  EXPECT_EQ(after({{"swa_every", "100"}}).counters().Get(counter::kSwaSnapshots), 0);
  EXPECT_EQ(after({{"swa_start_frac", "0"}}).counters().Get(counter::kSwaSnapshots), 0);
  const CheckpointReader no_qat = after({{"late_qat_threshold", "0"}});
  EXPECT_EQ(no_qat.counters().Get(counter::kQatReplacements), 0);
  EXPECT_FALSE(no_qat.counters().Has(counter::kQatFirstStep));
  // From the first step on: the scale 1 is below the threshold.
  const CheckpointReader all_qat = after({{"late_qat_threshold", "1.0001"}});
  EXPECT_EQ(all_qat.counters().Get(counter::kQatFirstStep), 0);
  EXPECT_EQ(all_qat.counters().Get(counter::kQatReplacements), 8 * (3 * 6 + 1));
}

TEST_F(TrainerTest, RefusesACheckpointOfAnotherShape) {
  const Settings wide = Make({{"model_dim", "32"}}), narrow = Make();
  Save(MakeTrainer(wide), wide, folder / "wide.ckpt");
  Trainer trainer = MakeTrainer(narrow);
  EXPECT_EQ(MessageOf<InputError>([&] { trainer.Restore(CheckpointReader(folder / "wide.ckpt")); }),
            folder / "wide.ckpt" + ": tensor skip_weights has another shape or dtype than the settings give");
}

}  // namespace
}  // namespace fairway
