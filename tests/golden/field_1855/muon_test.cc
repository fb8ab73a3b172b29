// Muon with row normalisation and Polar Express on the published script's own numbers, three steps of each bank.
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include "common/optim/muon.h"
#include "tests/golden/field_1855/golden_1855.h"

namespace fairway {
namespace {

float AsBFloat16(double x) { return BFloat16ToFloat(FloatToBFloat16(static_cast<float>(x))); }

// One step of a matrix as Optimizer takes it.
void Step(at::Tensor weight, at::Tensor gradient, at::Tensor momentum, const nlohmann::json& settings, double mu) {
  const int64_t rows = weight.size(0), columns = weight.size(1);
  const double rate = settings["lr"], decay = settings["weight_decay"];
  const at::Tensor update = at::zeros(weight.sizes(), at::kBFloat16);
  std::vector<char> scratch(MuonScratchBytes(rows, columns) + 64);
  char* aligned = scratch.data() + 64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64;
  const double factor = std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(columns)));
  const MuonStep step{.rows = rows, .columns = columns, .momentum = static_cast<float>(mu), .gradient_factor = 1, .learning_rate = 0,
                      .weight_decay = 0, .iterations = settings["rounds"], .polar_express = true, .normalize_rows = true,
                      .bfloat16_momentum = true, .nesterov_momentum = AsBFloat16(mu),
                      .keep = static_cast<float>(1 - rate * decay), .rate = static_cast<float>(rate * factor)};
  MuonUpdate(step, gradient.data_ptr<float>(), momentum.data_ptr<float>(), static_cast<BFloat16*>(update.data_ptr()), aligned);
  MuonApply(step, static_cast<const BFloat16*>(update.data_ptr()), weight.data_ptr<float>(), {0, weight.numel()});
}

TEST(Golden1855, MuonsPieces) {
  SKIP_WITHOUT_GOLDEN_1855();
  const SafetensorsReader pieces = golden_1855::File("pieces/pieces");
  const nlohmann::json settings = golden_1855::Json("pieces/settings.json")["muon"];
  const auto tensor = [&](const std::string& name) { return golden::TensorOf(pieces, name); };
  for (const char* bank : {"a", "b", "c", "d"}) {
    const std::string prefix = std::string("muon.") + bank + ".";
    at::Tensor weight = tensor(prefix + "weight0"), momentum = at::zeros(weight.sizes());
    for (int step = 1; step <= 3; ++step) {
      const at::Tensor gradient = tensor(prefix + "gradient" + std::to_string(step));
      for (int64_t i = 0; i < weight.size(0); ++i)
        Step(weight[i], gradient[i], momentum[i], settings, settings["momentum"][step - 1]);
      const at::Tensor buffer = tensor(prefix + "buffer" + std::to_string(step)).to(at::kFloat);
      EXPECT_TRUE(momentum.equal(buffer)) << prefix << step;
      const at::Tensor expected = tensor(prefix + "weight" + std::to_string(step)), difference = (weight - expected).abs();
      printf("muon.%s step %d: %jd of %jd weights differ, by %.3g at most\n", bank, step, difference.gt(0).sum().item<int64_t>(), weight.numel(),
             difference.max().item<float>());
      // Products that sum in another order flip single roundings of the update.
      EXPECT_LE(difference.max().item<float>(), 4e-4) << prefix << step;
      EXPECT_LE(difference.norm().item<double>(), 2e-3 * step * (expected - tensor(prefix + "weight0")).norm().item<double>()) << prefix << step;
    }
  }
}

TEST(Golden1855, PolarExpress) {
  SKIP_WITHOUT_GOLDEN_1855();
  const SafetensorsReader pieces = golden_1855::File("pieces/pieces");
  for (const char* shape : {"square", "tall", "wide"}) {
    for (const int rounds : {5, 3}) {
      const at::Tensor in = golden::TensorOf(pieces, std::string("polar.") + shape + ".in"), momentum = at::zeros(in.sizes());
      const at::Tensor expected = golden::TensorOf(pieces, std::string("polar.") + shape + (rounds == 5 ? ".out" : ".out3"));
      const at::Tensor update = at::zeros(in.sizes(), at::kBFloat16);
      std::vector<char> scratch(MuonScratchBytes(in.size(0), in.size(1)) + 64);
      char* aligned = scratch.data() + 64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64;
      const MuonStep step{.rows = in.size(0), .columns = in.size(1), .momentum = 0, .gradient_factor = 1, .learning_rate = 0,
                          .weight_decay = 0, .iterations = rounds, .polar_express = true, .bfloat16_momentum = true};
      MuonUpdate(step, in.data_ptr<float>(), momentum.data_ptr<float>(), static_cast<BFloat16*>(update.data_ptr()), aligned);
      const at::Tensor difference = (update.to(at::kFloat) - expected.to(at::kFloat)).abs();
      printf("polar.%s, %d rounds: %jd of %jd differ, by %.3g at most\n", shape, rounds, difference.gt(0).sum().item<int64_t>(), in.numel(),
             difference.max().item<float>());
      EXPECT_LE(difference.norm().item<double>(), 2e-3 * expected.to(at::kFloat).norm().item<double>());
    }
  }
}

}  // namespace
}  // namespace fairway
