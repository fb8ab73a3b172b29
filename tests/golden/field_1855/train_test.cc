// Training against the published script's own numbers: initial weights, gradients, weights after one step, every micro-batch's loss,
// the average, and the warm-up that leaves a trace.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include "common/model/initialise.h"
#include "common/settings/schedule.h"
#include "common/train/trainer.h"
#include "tests/common/checkpoint/temporary_folder.h"
#include "tests/golden/field_1855/golden_1855.h"

namespace fairway {
namespace {

// How far the published script is from itself: with one thread, or in bfloat16.
class Noise {
 public:
  explicit Noise(const std::string& other)
      : tiny_(golden_1855::Json("tiny/result.json")), other_(golden_1855::Json(other + "/result.json")) {}
  // The largest difference of a micro-batch's loss up to this step: one run is one sample of the noise.
  double Loss(int64_t step) const {
    double largest = 0;
    for (int64_t i = 0; i < 8 * (step + 1); ++i)
      largest = std::max(largest, std::abs(tiny_["micro_losses"][i].get<double>() - other_["micro_losses"][i].get<double>()));
    return largest;
  }

 private:
  nlohmann::json tiny_, other_;
};

Trainer MakeTrainer(const Settings& settings) { return Trainer(settings, ShardSet(settings.data_path, "train", settings.vocab_size)); }

double LargestDifference(const std::string& what, const NamedTensors& ours, const NamedTensors& golden) {
  double largest = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    EXPECT_EQ(ours[i].first, golden[i].first);
    const double difference = (ours[i].second.to(at::kFloat) - golden[i].second.to(at::kFloat)).abs().max().item<float>();
    if (difference > 0) printf("%-10s %-28s largest difference %.3g\n", what.c_str(), ours[i].first.c_str(), difference);
    largest = std::max(largest, difference);
  }
  return largest;
}

// 2-norm of the difference over the 2-norm, of all tensors together.
double Distance(const NamedTensors& ours, const NamedTensors& golden) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    difference += (ours[i].second - golden[i].second).to(at::kDouble).square().sum().item<double>();
    norm += golden[i].second.to(at::kDouble).square().sum().item<double>();
  }
  return std::sqrt(difference / norm);
}

NamedTensors Detached(const NamedTensors& tensors) {
  NamedTensors copies;
  for (const auto& [name, tensor] : tensors) copies.emplace_back(name, tensor.detach().clone());
  return copies;
}

void TrainSteps(Trainer& trainer, const Settings& settings, int64_t steps,
                const std::function<void(int64_t, const std::vector<float>&, double)>& on_step) {
  while (trainer.step() < steps) {
    const int64_t step = trainer.step();
    trainer.LoopFrom(TrainingFraction(settings, step, 0));
    const std::vector<float> losses = trainer.AccumulateGradients();
    on_step(step, losses, trainer.Update(LearningRateScale(settings, step, 0)));
  }
}

TEST(Golden1855Train, InitialWeights) {
  SKIP_WITHOUT_GOLDEN_1855();
  const Settings settings = golden_1855::CaseSettings(golden_1855::Json("tiny/result.json"), "float32");
  // LAPACK's QR rounds differently from one processor type, and from one number of threads, to another.
  EXPECT_LE(LargestDifference("init", InitialParameters(settings), golden_1855::Parameters("tiny/init", settings)), 4e-6);
}

TEST(Golden1855Train, LossesGradientsAndWeightsOfTheFirstSteps) {
  SKIP_WITHOUT_GOLDEN_1855();
  const nlohmann::json result = golden_1855::Json("tiny/result.json");
  const Settings settings = golden_1855::CaseSettings(result, "float32");
  Trainer trainer = MakeTrainer(settings);
  const std::vector<float> losses = trainer.AccumulateGradients();
  ASSERT_EQ(losses.size(), 8u);
  for (size_t micro = 0; micro < losses.size(); ++micro) EXPECT_NEAR(losses[micro], result["micro_losses"][micro].get<double>(), 2e-6);
  EXPECT_LE(LargestDifference("gradients", trainer.gradients(), golden_1855::Parameters("tiny/grads_step1", settings)), 5e-7);  // of up to 0.1
  EXPECT_NEAR(trainer.Update(LearningRateScale(settings, 0, 0)), result["grad_norms"][0].get<double>(), 1e-5);
  // One flipped bfloat16 rounding in Muon moves a weight by 3e-4.
  EXPECT_LE(LargestDifference("step 1", Detached(trainer.parameters()), golden_1855::Parameters("tiny/params_after_step1", settings)), 1e-3);
}

TEST(Golden1855Train, EveryStepAndTheAverage) {
  SKIP_WITHOUT_GOLDEN_1855();
  const nlohmann::json result = golden_1855::Json("tiny/result.json");
  const Noise noise("tiny_one_thread");
  const Settings settings = golden_1855::CaseSettings(result, "float32");
  Trainer trainer = MakeTrainer(settings);
  double worst = 0;
  TrainSteps(trainer, settings, settings.iterations, [&](int64_t step, const std::vector<float>& losses, double) {
    for (size_t micro = 0; micro < losses.size(); ++micro) {
      const double golden = result["micro_losses"][8 * step + micro];
      EXPECT_NEAR(losses[micro], golden, 3 * noise.Loss(step) + 2e-6) << "step " << step << " micro-batch " << micro;
      worst = std::max(worst, std::abs(losses[micro] - golden));
    }
  });
  printf("largest difference of a micro-batch loss over %jd steps: %.3g\n", settings.iterations, worst);
  const TemporaryFolder folder;
  const std::string path = folder / "train.ckpt";
  Counters counters;
  CheckpointWriter writer(path, Kind::kTraining, settings.Select(scope::kModel | scope::kTrain));
  trainer.Save(writer, counters);
  writer.Finish(counters, {});
  const CheckpointReader checkpoint(path);
  NamedTensors ema;
  for (const auto& [name, tensor] : trainer.parameters()) {
    std::vector<float> average = checkpoint.Floats("ema/" + name);
    ema.emplace_back(name, at::from_blob(average.data(), tensor.sizes()).clone());
  }
  const double last = Distance(Detached(trainer.parameters()), golden_1855::Parameters("tiny/last", settings)),
               average = Distance(ema, golden_1855::Parameters("tiny/ema", settings));
  printf("distance: last %.3g, average %.3g\n", last, average);
  EXPECT_LE(last, 0.045);  // three times the published script's distance from itself
  EXPECT_LE(average, 0.045);
}

TEST(Golden1855Train, BFloat16StaysInsideItsNoise) {
  SKIP_WITHOUT_GOLDEN_1855();
  const nlohmann::json result = golden_1855::Json("tiny_bf16/result.json");
  const Noise noise("tiny_bf16");
  const Settings settings = golden_1855::CaseSettings(result, "bfloat16");
  Trainer trainer = MakeTrainer(settings);
  for (const auto& [name, tensor] : trainer.parameters()) {
    // Every value has passed through bfloat16.
    EXPECT_TRUE(tensor.detach().to(at::kBFloat16).to(tensor.scalar_type()).equal(tensor)) << name;
    EXPECT_EQ(tensor.scalar_type(), name == "tok_emb.weight" ? at::kBFloat16 : at::kFloat) << name;
  }
  double worst = 0;
  TrainSteps(trainer, settings, settings.iterations, [&](int64_t step, const std::vector<float>& losses, double) {
    for (size_t micro = 0; micro < losses.size(); ++micro) {
      const double golden = result["micro_losses"][8 * step + micro];
      // Another bfloat16 run is another draw of the noise between the types, of which the first step has hardly any.
      EXPECT_NEAR(losses[micro], golden, 4 * noise.Loss(std::max<int64_t>(step, 1))) << "step " << step << " micro-batch " << micro;
      worst = std::max(worst, std::abs(losses[micro] - golden));
    }
  });
  printf("bfloat16: largest difference of a micro-batch loss over %jd steps: %.3g\n", settings.iterations, worst);
}

// The code path of several ranks, with one of them.
TEST(Golden1855Train, WarmUpOfSeveralRanksLeavesATrace) {
  SKIP_WITHOUT_GOLDEN_1855();
  for (const std::string name : {"tiny_warm", "tiny_warm_sharded"}) {
    const nlohmann::json result = golden_1855::Json(name + "/result.json");
    const Noise noise("tiny_one_thread");
    const Settings settings = golden_1855::CaseSettings(result, "float32");
    Trainer trainer = MakeTrainer(settings);
    trainer.WarmUp([](int64_t) {}, name == "tiny_warm_sharded");
    const size_t first = result["micro_losses"].size() - 48;
    TrainSteps(trainer, settings, 6, [&](int64_t step, const std::vector<float>& losses, double) {
      for (size_t micro = 0; micro < losses.size(); ++micro)
        EXPECT_NEAR(losses[micro], result["micro_losses"][first + 8 * step + micro].get<double>(), 3 * noise.Loss(step) + 3e-4) << name << " step " << step;
    });
  }
}

}  // namespace
}  // namespace fairway
