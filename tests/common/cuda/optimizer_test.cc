// DeviceOptimizer with the CPU as its machine, against the CPU's Optimizer: several steps, clipped and not, every group.
#include "common/cuda/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "common/optim/optimizer.h"
#include "tests/common/cuda/host_machine.h"
#include "tests/common/model/shapes.h"

namespace fairway::cuda {
namespace {

FlatTensors Random(const FlatLayout& layout, uint64_t seed, double scale) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const FlatTensors flat(layout, layout.embeddings_dtype());
  for (const auto& [name, tensor] : flat.tensors()) tensor.copy_(at::randn(tensor.sizes(), generator, at::kFloat).mul(scale));
  return flat;
}

// Newton-Schulz rounds to bfloat16 elsewhere here than there; over a few of its steps that is 5% of an update for each (optim/
// optimizer_test.cc), and an update moves no weight by more than the learning rate.
double Tolerance(const Settings& settings, const std::string& name, int64_t steps, double largest) {
  const bool moment = name.starts_with("adam_") || name.starts_with("muon/");
  return moment ? 1e-4 * largest : 1e-5 + 0.1 * static_cast<double>(steps) * settings.matrix_lr;
}

void ExpectSteps(const Options& options, double gradient_scale) {
  const Settings settings = Shape(options);
  const FlatLayout layout(settings);
  const FlatTensors ours = Random(layout, 1, 1), theirs = Random(layout, 1, 1);
  const FlatTensors our_gradients(layout, layout.embeddings_dtype()), their_gradients(layout, layout.embeddings_dtype());
  HostMachine machine;
  DeviceOptimizer device(settings, layout, ours, our_gradients, machine);
  Optimizer cpu(settings, layout, theirs, their_gradients);
  constexpr int64_t kSteps = 3;
  for (int64_t step = 0; step < kSteps; ++step) {
    const FlatTensors gradients = Random(layout, 10 + step, gradient_scale);
    for (size_t i = 0; i < gradients.tensors().size(); ++i) {
      our_gradients.tensors()[i].second.copy_(gradients.tensors()[i].second);
      their_gradients.tensors()[i].second.copy_(gradients.tensors()[i].second);
    }
    const bool clip = step != 1;
    const double norm = cpu.GradientNorm();
    cpu.Step(0.7, 0.9, clip ? cpu.ClipFactor(norm) : 1);
    device.Step(0.7, 0.9, clip);
    EXPECT_NEAR(device.GradientNorm(), norm, 1e-3 * norm);
    for (const at::Tensor& gradients : our_gradients.buffers()) EXPECT_EQ(gradients.abs().max().item<float>(), 0);
  }
  NamedTensors all = ours.tensors(), expected = theirs.tensors();
  for (const auto& [name, tensor] : device.State()) all.emplace_back(name, tensor);
  for (const auto& [name, tensor] : cpu.State()) expected.emplace_back(name, tensor);
  ASSERT_EQ(all.size(), expected.size());
  for (size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(all[i].first, expected[i].first);
    if (all[i].second.numel() == 0) continue;
    const double largest = expected[i].second.abs().max().item<double>();
    EXPECT_LE((all[i].second.to(at::kFloat) - expected[i].second.to(at::kFloat)).abs().max().item<double>(),
              Tolerance(settings, all[i].first, kSteps, largest))
        << all[i].first;
  }
  EXPECT_EQ(device.adam_steps(), cpu.adam_steps());
}

TEST(DeviceOptimizer, StepsAsTheCpuDoes) {
  ExpectSteps({{"grad_clip_norm", "0.3"}}, 1);
  ExpectSteps({{"grad_clip_norm", "0.3"}}, 1e-4);  // nothing to clip
  ExpectSteps({{"grad_clip_norm", "0"}}, 1);
  ExpectSteps({{"tie_embeddings", "0"}, {"bigram_vocab_size", "0"}}, 1);
}

TEST(DeviceOptimizer, StepsBFloat16EmbeddingsAsTheCpuDoes) {
  for (const char* compat : {"0", "1"}) {
    const Settings settings = Shape({{"precision", "bfloat16"}, {"compat", compat}});
    const FlatLayout layout(settings);
    const FlatTensors ours = Random(layout, 1, 1), theirs = Random(layout, 1, 1);
    const FlatTensors our_gradients = Random(layout, 2, 1), their_gradients = Random(layout, 2, 1);
    HostMachine machine;
    DeviceOptimizer device(settings, layout, ours, our_gradients, machine);
    Optimizer cpu(settings, layout, theirs, their_gradients);
    device.Step(1, 0.9, /*clip=*/false);
    cpu.Step(1, 0.9);
    const at::Tensor difference = ours.group(Group::kEmbeddings).to(at::kFloat) - theirs.group(Group::kEmbeddings).to(at::kFloat);
    EXPECT_EQ(difference.abs().max().item<float>(), 0) << compat;
  }
}

TEST(NewtonSchulzOf, DoesMatricesOfOneShapeAtOnce) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{3});
  for (const auto& [rows, columns] : {std::pair(16, 16), {8, 24}, {24, 8}}) {
    const at::Tensor all = at::randn({3, rows, columns}, generator, at::kFloat);
    const at::Tensor together = NewtonSchulzOf(all.to(at::kBFloat16), 5);
    const double scale = std::sqrt(std::max(1.0, static_cast<double>(rows) / columns));
    for (int i = 0; i < 3; ++i) {
      const at::Tensor alone = NewtonSchulz(all[i], 5).to(at::kFloat) / scale;
      // Each of them is within 5% of the formula (optim/optimizer_test.cc).
      EXPECT_LE((together[i].to(at::kFloat) - alone).norm().item<double>(), 0.1 * alone.norm().item<double>());
    }
  }
}

}  // namespace
}  // namespace fairway::cuda
