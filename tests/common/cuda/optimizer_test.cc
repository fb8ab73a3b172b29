// DeviceOptimizer with the CPU as its device, against the CPU's Optimizer: several steps, clipped and not, every group.
#include "common/cuda/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "common/optim/cpu_optimizer.h"
#include "tests/common/cuda/host_device.h"
#include "tests/common/model/shapes.h"

namespace fairway::cuda {
namespace {

FlatTensors Random(const FlatLayout& layout, uint64_t seed, double scale, at::ScalarType embeddings = at::kFloat) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const FlatTensors flat(layout, embeddings);
  for (const auto& [name, tensor] : flat.tensors()) tensor.copy_(at::randn(tensor.sizes(), generator, at::kFloat).mul(scale));
  return flat;
}

// How far two tensors may be apart, as a share of the way that the steps have moved them. Newton-Schulz rounds to bfloat16
// elsewhere here than there, about 5% of an update for each (optim/optimizer_test.cc); all else is float32.
double Tolerance(const FlatLayout& layout, size_t tensor) {
  const bool muons = tensor < layout.entries().size() && layout.entries()[tensor].spec.group == Group::kMatrices;
  return muons ? 0.1 : 1e-4;
}
double Norm(const at::Tensor& tensor) { return tensor.to(at::kDouble).norm().item<double>(); }

void ExpectSteps(const Options& options, double gradient_scale) {
  const Settings settings = Shape(options);
  const FlatLayout layout(settings);
  const FlatTensors ours = Random(layout, 1, 1), theirs = Random(layout, 1, 1);
  const FlatTensors our_gradients(layout, at::kFloat), their_gradients(layout, at::kFloat);
  HostDevice device;
  DeviceOptimizer ours_on_device(settings, layout, ours, our_gradients, device);
  CpuOptimizer cpu(settings, layout, theirs, their_gradients);
  constexpr int64_t kSteps = 3;
  for (int64_t step = 0; step < kSteps; ++step) {
    const FlatTensors gradients = Random(layout, 10 + step, gradient_scale);
    for (size_t i = 0; i < gradients.tensors().size(); ++i) {
      our_gradients.tensors()[i].second.copy_(gradients.tensors()[i].second);
      their_gradients.tensors()[i].second.copy_(gradients.tensors()[i].second);
    }
    const double norm = cpu.GradientNorm();
    EXPECT_NEAR(ours_on_device.GradientNorm(), norm, 1e-5 * norm);
    for (Optimizer* optimizer : std::initializer_list<Optimizer*>{&ours_on_device, &cpu})
      optimizer->Step(0.7, 0.9, step == 1 ? 1 : optimizer->ClipFactor(norm));
    for (const at::Tensor& gradients : our_gradients.buffers()) EXPECT_EQ(gradients.abs().max().item<float>(), 0);
  }
  NamedTensors all = ours.tensors(), expected = theirs.tensors(), start = Random(layout, 1, 1).tensors();
  for (const auto& [name, tensor] : ours_on_device.State()) all.emplace_back(name, tensor);
  for (const auto& [name, tensor] : cpu.State()) expected.emplace_back(name, tensor);
  ASSERT_EQ(all.size(), expected.size());
  for (size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(all[i].first, expected[i].first);
    if (all[i].second.numel() == 0) continue;
    // Moments begin at 0.
    const double way = i < start.size() ? Norm(expected[i].second - start[i].second) : Norm(expected[i].second);
    EXPECT_GT(way, 0) << all[i].first;
    EXPECT_LE(Norm(all[i].second - expected[i].second), Tolerance(layout, i) * way) << all[i].first;
  }
  EXPECT_EQ(ours_on_device.adam_steps(), cpu.adam_steps());
}

TEST(DeviceOptimizer, StepsAsTheCpuDoes) {
  ExpectSteps({{"grad_clip_norm", "0.3"}}, 1);
  ExpectSteps({{"grad_clip_norm", "0.3"}}, 1e-4);  // nothing to clip
  ExpectSteps({{"grad_clip_norm", "0"}}, 1);
  ExpectSteps({{"tie_embeddings", "0"}, {"bigram_vocab_size", "0"}}, 1);
  ExpectSteps({{"muon_row_normalize", "1"}, {"embed_wd", "0.3"}, {"adam_wd", "0.2"}}, 1);
  const Options polar = {{"muon_orthogonalize", "polar_express"}, {"muon_row_normalize", "1"}};
  ExpectSteps(polar, 1);
  Options published = polar;
  published["published_quirks"] = "1";
  published["published_entry"] = "1855";
  ExpectSteps(published, 1);
}

TEST(DeviceOptimizer, StepsBFloat16EmbeddingsAsTheCpuDoes) {
  for (const char* published_quirks : {"0", "1"}) {
    const Settings settings = Shape({{"precision", "bfloat16"}, {"published_quirks", published_quirks}});
    const FlatLayout layout(settings);
    const FlatTensors ours = Random(layout, 1, 1, at::kBFloat16), theirs = Random(layout, 1, 1, at::kBFloat16);
    const FlatTensors our_gradients = Random(layout, 2, 1), their_gradients = Random(layout, 2, 1);
    HostDevice device;
    DeviceOptimizer ours_on_device(settings, layout, ours, our_gradients, device);
    CpuOptimizer cpu(settings, layout, theirs, their_gradients);
    ours_on_device.Step(1, 0.9);
    cpu.Step(1, 0.9);
    // The step's last bits may flip a rounding of a bfloat16 weight, 2^-8 of it, and under published_quirks one of a moment.
    const at::Tensor a = ours.group(Group::kEmbeddings).to(at::kFloat), b = theirs.group(Group::kEmbeddings).to(at::kFloat);
    EXPECT_TRUE(((a - b).abs() <= b.abs() * 0x1p-7 + 1e-6).all().item<bool>()) << published_quirks;
    EXPECT_LE((a != b).sum().item<int64_t>(), a.numel() / 20) << published_quirks;
  }
}

// The iteration of pull request 531, on one matrix, without a rounding and without its last scaling.
at::Tensor Formula(const at::Tensor& g, int64_t steps) {
  const bool tall = g.size(0) > g.size(1);
  at::Tensor x = g.to(at::kDouble);
  x = x / (x.norm() + 1e-7);
  if (tall) x = x.t();
  for (int64_t i = 0; i < steps; ++i) {
    const at::Tensor a = at::matmul(x, x.t());
    x = 3.4445 * x + at::matmul(-4.7750 * a + 2.0315 * at::matmul(a, a), x);
  }
  return tall ? x.t() : x;
}

TEST(NewtonSchulzOf, DoesMatricesOfOneShapeAtOnce) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{3});
  for (const auto& [rows, columns] : {std::pair(16, 16), {8, 24}, {24, 8}}) {
    const at::Tensor all = at::randn({3, rows, columns}, generator, at::kFloat);
    for (const auto& [steps, rounding] : {std::pair(0, 0.006), {1, 0.02}, {5, 0.05}}) {  // as in optim/optimizer_test.cc, and the norm's
      const at::Tensor together = NewtonSchulzOf(all.to(at::kBFloat16), steps).to(at::kDouble);
      for (int i = 0; i < 3; ++i) {
        const at::Tensor alone = Formula(all[i], steps);
        EXPECT_LE((together[i] - alone).norm().item<double>(), rounding * alone.norm().item<double>()) << rows << " " << steps;
      }
    }
  }
}

}  // namespace
}  // namespace fairway::cuda
