// Training against the published script's own numbers: initial weights, logits, gradients, weights after one and two steps,
// every micro-batch's loss over 60 steps, the averages, warm-up, bfloat16.
#include <gtest/gtest.h>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>

#include "common/model/initialise.h"
#include "common/settings/schedule.h"
#include "common/train/trainer.h"
#include "tests/common/checkpoint/temporary_folder.h"
#include "tests/golden/golden.h"
#include "tests/golden/train/noise.h"

namespace fairway {
namespace {

using golden::Float32Tolerance;

// LAPACK's QR rounds differently from one processor type to another; a random square matrix amplifies that (its condition is
// about its width).
constexpr double kOtherLapack = 4e-6;

Trainer MakeTrainer(const Settings& settings) {
  return Trainer(settings, ShardSet(settings.data_path, "train", settings.vocab_size));
}

// Prints each tensor's largest difference, as far as there is one, and returns the largest of all.
double LargestDifference(const std::string& what, const NamedTensors& ours, const NamedTensors& golden) {
  double largest = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    EXPECT_EQ(ours[i].first, golden[i].first);
    EXPECT_TRUE(ours[i].second.defined()) << what << " has no " << ours[i].first;
    if (!ours[i].second.defined() || ours[i].second.numel() == 0) continue;
    const double difference = (ours[i].second - golden[i].second).abs().max().item<float>();
    if (difference > 0) printf("%-10s %-28s largest difference %.3g\n", what.c_str(), ours[i].first.c_str(), difference);
    largest = std::max(largest, difference);
  }
  return largest;
}

// How far apart the two are, over how far the golden one has come from its start; the largest of all tensors. Newton-Schulz
// in bfloat16 and Adam's first steps (which take the sign of gradients however small) move single entries by up to a learning
// rate where a rounding flips, so that the distance of whole tensors is what can be held to a bound.
double LargestDistance(const std::string& what, const NamedTensors& ours, const NamedTensors& golden, const NamedTensors& start) {
  double largest = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    EXPECT_EQ(ours[i].first, golden[i].first);
    const double way = (golden[i].second - start[i].second).norm().item<float>();
    const double apart = (ours[i].second - golden[i].second).norm().item<float>();
    EXPECT_TRUE(way > 0 || apart == 0) << what << " " << ours[i].first;
    if (way == 0) continue;
    printf("%-10s %-28s distance / way %.3g\n", what.c_str(), ours[i].first.c_str(), apart / way);
    largest = std::max(largest, apart / way);
  }
  return largest;
}

NamedTensors Detached(const NamedTensors& tensors) {
  NamedTensors copies;
  for (const auto& [name, tensor] : tensors) copies.emplace_back(name, tensor.detach().clone());
  return copies;
}

// The loop of a run that is bounded by iterations. Calls on_step(step, losses, norm) after each.
void TrainSteps(Trainer& trainer, const Settings& settings, int64_t steps,
                const std::function<void(int64_t, const std::vector<float>&, double)>& on_step) {
  while (trainer.step() < steps) {
    const int64_t step = trainer.step();
    const double scale = LearningRateScale(settings, step, 0);
    if (scale < settings.late_qat_threshold && !trainer.fake_quantises()) trainer.StartFakeQuantisation();
    const std::vector<float> losses = trainer.AccumulateGradients();
    on_step(step, losses, trainer.Update(scale));
  }
}

TEST(GoldenInit, TinyBitForBit) {
  SKIP_WITHOUT_GOLDEN();
  const Settings settings = golden::CaseSettings(golden::Result("tiny"), "float32");
  at::set_num_threads(1);  // must not matter
  const double difference = LargestDifference("init", InitialParameters(settings), golden::Parameters("tiny", "init", settings));
  at::set_num_threads(2);
  if (difference != 0) printf("initial weights differ by %.3g from the golden machine's: another processor type\n", difference);
  EXPECT_LE(difference, kOtherLapack);
}

TEST(GoldenInit, DrawnNotDecomposedValuesAreExactEverywhere) {
  SKIP_WITHOUT_GOLDEN();
  const Settings settings = golden::CaseSettings(golden::Result("tiny"), "float32");
  const NamedTensors ours = InitialParameters(settings), theirs = golden::Parameters("tiny", "init", settings);
  for (size_t i = 0; i < ours.size(); ++i) {
    const bool orthogonal = ours[i].second.dim() == 2 && ours[i].second.size(0) >= 64 && ours[i].second.size(1) >= 64 &&
                            ours[i].first.starts_with("blocks.");
    EXPECT_TRUE(orthogonal || ours[i].second.equal(theirs[i].second)) << ours[i].first;
  }
}

TEST(GoldenStep, LogitsLossGradientsAndWeights) {
  SKIP_WITHOUT_GOLDEN();
  const nlohmann::json result = golden::Result("tiny");
  const Settings settings = golden::CaseSettings(result, "float32");
  Trainer trainer = MakeTrainer(settings);
  const SafetensorsReader batch = golden::File("tiny", "first_microbatch");
  const at::Tensor logits = Transformer(settings, trainer.parameters()).Logits(golden::TensorOf(batch, "input_ids").to(at::kLong)).detach();
  const double logit_difference = (logits - golden::TensorOf(batch, "logits")).abs().max().item<float>();
  printf("logits: largest difference %.3g\n", logit_difference);
  EXPECT_LE(logit_difference, 2e-6);  // of logits up to 0.6: the README's floor, sums in another order

  const NamedTensors init = golden::Parameters("tiny", "init", settings);
  const std::vector<float> losses = trainer.AccumulateGradients();
  for (size_t micro = 0; micro < losses.size(); ++micro)
    EXPECT_NEAR(losses[micro], result["micro_losses"][micro].get<double>(), Float32Tolerance(0));
  EXPECT_LE(LargestDifference("gradients", trainer.gradients(), golden::Parameters("tiny", "grads_step1", settings)), 1e-7);
  for (int64_t step : {0, 1}) {
    if (step > 0) trainer.AccumulateGradients();
    trainer.Update(LearningRateScale(settings, step, 0));
    const std::string file = step == 0 ? "params_after_step1" : "params_after_step2";
    // The first step is Newton-Schulz's roundings alone; in the second, gradients and Adam's signs have felt them.
    EXPECT_LE(LargestDistance(file, Detached(trainer.parameters()), golden::Parameters("tiny", file, settings), init),
              step == 0 ? 0.03 : 0.2);
  }
}

// A block's few query gains, moved by their own noise, are the farthest apart: 0.08 was seen.
constexpr double kAfterSixtySteps = 0.1;

// A sanitizer's build takes sums one by one: another noise than the golden runs have between themselves.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SKIP_UNDER_SANITIZERS() GTEST_SKIP() << "skipped: under a sanitizer sums are taken in another order"
#else
#define SKIP_UNDER_SANITIZERS()
#endif

TEST(GoldenRun, SixtyStepsAndTheirAverages) {
  SKIP_WITHOUT_GOLDEN();
  SKIP_UNDER_SANITIZERS();
  const nlohmann::json result = golden::Result("tiny");
  const golden::Noise noise("tiny_one_thread");
  const Settings settings = golden::CaseSettings(result, "float32");
  Trainer trainer = MakeTrainer(settings);
  double worst = 0;
  TrainSteps(trainer, settings, settings.iterations, [&](int64_t step, const std::vector<float>& losses, double norm) {
    for (size_t micro = 0; micro < losses.size(); ++micro) {
      const double golden = result["micro_losses"][8 * step + micro];
      EXPECT_NEAR(losses[micro], golden, Float32Tolerance(noise.Loss(step))) << "step " << step << " micro-batch " << micro;
      worst = std::max(worst, std::abs(losses[micro] - golden));
    }
    // Norms are no part of the golden README's rule: at step 2 ours is 1.14e-4 away, 3.2 times the original's distance from itself.
    EXPECT_NEAR(norm / result["grad_norms"][step].get<double>(), 1, Float32Tolerance(1.3 * noise.GradientNorm(step))) << "step " << step;
  });
  printf("largest difference of a micro-batch loss over 60 steps: %.3g\n", worst);
  Counters counters;
  const TemporaryFolder folder;
  const std::string path = folder / "train.ckpt";
  CheckpointWriter writer(path, Kind::kTraining, settings.Select(scope::kModel | scope::kTrain));
  trainer.Save(writer, counters);
  writer.Finish(counters, {});
  EXPECT_EQ(counters.Get("ema.updates"), 60);
  EXPECT_EQ(counters.Get("swa.snapshots"), 3);           // steps 50, 55, 60: `swa:applying averaged 3 checkpoints`
  EXPECT_EQ(counters.Get("qat.first_step"), 55);         // `late_qat: enabled at step 55`
  EXPECT_EQ(counters.Get("qat.replacements"), 5 * 31);  // 5 steps, 5 x 6 + 1 matrices

  const CheckpointReader checkpoint(path);
  NamedTensors ema, swa;
  for (const auto& [name, tensor] : trainer.parameters()) {
    std::vector<float> average = checkpoint.Floats("ema/" + name), sum = checkpoint.Floats("swa_sum/" + name);
    ema.emplace_back(name, at::from_blob(average.data(), tensor.sizes()).clone());
    swa.emplace_back(name, at::from_blob(sum.data(), tensor.sizes()) / 3.0);
  }
  const NamedTensors init = golden::Parameters("tiny", "init", settings);
  EXPECT_LE(LargestDistance("ema", ema, golden::Parameters("tiny", "ema", settings), init), kAfterSixtySteps);
  EXPECT_LE(LargestDistance("swa", swa, golden::Parameters("tiny", "swa", settings), init), kAfterSixtySteps);
  EXPECT_LE(LargestDistance("last", Detached(trainer.parameters()), golden::Parameters("tiny", "last", settings), init), kAfterSixtySteps);
}

TEST(GoldenRun, WarmUpLeavesNoTrace) {
  SKIP_WITHOUT_GOLDEN();
  SKIP_UNDER_SANITIZERS();
  const nlohmann::json result = golden::Result("tiny_warm");
  const Settings settings = golden::CaseSettings(result, "float32");
  Trainer trainer = MakeTrainer(settings);
  const NamedTensors before = Detached(trainer.parameters());
  int64_t heard = 0;
  trainer.WarmUp([&](int64_t step) { EXPECT_EQ(step, ++heard); });
  EXPECT_EQ(heard, 3);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(before[i].second.equal(trainer.parameters()[i].second));
  const golden::Noise noise("tiny_one_thread");
  // The warm-up's own losses come first in the golden file: 3 steps of 8.
  TrainSteps(trainer, settings, settings.iterations, [&](int64_t step, const std::vector<float>& losses, double) {
    const double allowed = Float32Tolerance(trainer.fake_quantises() ? golden::kQatNoise : noise.Loss(step));
    for (size_t micro = 0; micro < losses.size(); ++micro)
      EXPECT_NEAR(losses[micro], result["micro_losses"][24 + 8 * step + micro].get<double>(), allowed) << "step " << step;
  });
}

TEST(GoldenRun, BFloat16StaysInsideItsNoise) {
  SKIP_WITHOUT_GOLDEN();
  const nlohmann::json result = golden::Result("tiny_bf16");
  const golden::Noise noise("tiny_bf16");
  const Settings settings = golden::CaseSettings(result, "bfloat16");
  Trainer trainer = MakeTrainer(settings);
  for (const auto& [name, tensor] : trainer.parameters()) {
    const nlohmann::json& digest = result["digests"]["init"][name];
    EXPECT_EQ(digest["dtype"], tensor.scalar_type() == at::kFloat ? "float32" : "bfloat16") << name;
    if (tensor.numel() == 0) continue;
    // Every value is a bfloat16 number: another LAPACK flips a few of a matrix's roundings, each by 2^-9 of the value.
    const double norm = digest["l2"];
    EXPECT_NEAR(tensor.detach().to(at::kDouble).norm().item<double>(), norm, 1e-5 * norm) << name;
    EXPECT_TRUE(tensor.detach().to(at::kBFloat16).to(tensor.scalar_type()).equal(tensor)) << name;
  }
  double worst = 0;
  TrainSteps(trainer, settings, settings.iterations, [&](int64_t step, const std::vector<float>& losses, double) {
    for (size_t micro = 0; micro < losses.size(); ++micro) {
      const double golden = result["micro_losses"][8 * step + micro];
      EXPECT_NEAR(losses[micro], golden, golden::BFloat16Tolerance(noise.Loss(step))) << "step " << step << " micro-batch " << micro;
      worst = std::max(worst, std::abs(losses[micro] - golden));
    }
  });
  printf("bfloat16: largest difference of a micro-batch loss over 60 steps: %.3g\n", worst);
}

}  // namespace
}  // namespace fairway
