// The pieces of pull request 1855 on figures that lie in the tree (figures.json; make_figures.py made them with PyTorch and numpy).
// Another processor's library may flip single roundings; the machine that made the figures gives them exactly.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "common/base/file.h"
#include "common/base/pcg64.h"
#include "common/calibrate/sdclip.h"
#include "common/optim/muon.h"
#include "common/tokens/shuffled_windows.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

nlohmann::json Figures() { return nlohmann::json::parse(InputFile(std::string(FIGURES_JSON)).text()); }

// Uniform in [-1, 1), as make_figures.py draws it.
at::Tensor Drawn(uint64_t seed, int64_t rows, int64_t columns) {
  Pcg64 random(seed);
  std::vector<float> values(rows * columns);
  for (float& value : values) value = static_cast<float>(2 * random.Uniform() - 1);
  return at::from_blob(values.data(), {rows, columns}, at::kFloat).clone();
}

double ShareOfDifferent(const std::vector<int8_t>& ours, const nlohmann::json& figures) {
  EXPECT_EQ(ours.size(), figures.size());
  int64_t different = 0;
  for (size_t i = 0; i < ours.size(); ++i) different += ours[i] != figures[i].get<int>();
  return static_cast<double>(different) / static_cast<double>(ours.size());
}

void ExpectScales(const std::vector<uint16_t>& ours, const nlohmann::json& figures) {
  ASSERT_EQ(ours.size(), figures.size());
  for (size_t i = 0; i < ours.size(); ++i) EXPECT_NEAR(HalfToFloat(ours[i]), figures[i].get<double>(), 1e-3 * figures[i].get<double>());
}

TEST(Figures1855, Muon) {
  for (const nlohmann::json& figure : Figures()["muon"]) {
    const int64_t rows = figure["rows"], columns = figure["columns"];
    const uint64_t seed = figure["seed"];
    const double rate = figure["rate"], decay = figure["decay"];
    at::Tensor weight = Drawn(seed, rows, columns), momentum = at::zeros({rows, columns});
    const at::Tensor update = at::zeros({rows, columns}, at::kBFloat16), start = weight.clone();
    std::vector<char> scratch(MuonScratchBytes(rows, columns) + 64);
    char* aligned = scratch.data() + 64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64;
    for (int step = 0; step < 2; ++step) {
      const auto mu = figure["momentum"][step].get<float>();
      const MuonStep of{.rows = rows, .columns = columns, .momentum = mu, .gradient_factor = 1, .learning_rate = 0, .weight_decay = 0,
                        .iterations = 5, .polar_express = true, .normalize_rows = true, .bfloat16_momentum = true,
                        .nesterov_momentum = BFloat16ToFloat(FloatToBFloat16(mu)), .keep = static_cast<float>(1 - rate * decay),
                        .rate = static_cast<float>(rate * std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(columns))))};
      at::Tensor gradient = Drawn(seed + 1 + step, rows, columns);
      MuonUpdate(of, gradient.data_ptr<float>(), momentum.data_ptr<float>(), static_cast<BFloat16*>(update.data_ptr()), aligned);
      MuonApply(of, static_cast<const BFloat16*>(update.data_ptr()), weight.data_ptr<float>(), {0, weight.numel()});
      std::vector<float> expected = figure["weights"][step].get<std::vector<float>>();
      const at::Tensor golden = at::from_blob(expected.data(), {rows, columns}, at::kFloat);
      const double distance = (weight - golden).norm().item<double>() / (golden - start).norm().item<double>();
      printf("muon %jd x %jd, step %d: distance / way %.3g\n", rows, columns, step + 1, distance);
      EXPECT_LE(distance, 0.04);
    }
  }
}

TEST(Figures1855, SdClipAndLowRank) {
  at::set_num_threads(1);
  for (const nlohmann::json& figure : Figures()["gptq"]) {
    const int64_t rows = figure["rows"], columns = figure["columns"];
    const uint64_t seed = figure["seed"];
    const at::Tensor weight = Drawn(seed, rows, columns), inputs = Drawn(seed + 1, 3 * columns, columns);
    inputs.select(1, 5).zero_();
    const at::Tensor hessian = inputs.t().mm(inputs);
    EXPECT_NEAR(hessian.trace().item<double>(), figure["trace"].get<double>(), 1e-5 * figure["trace"].get<double>());
    const ScaledCodes codes = QuantiseSdClip(weight, hessian, figure["bits"], figure["sigmas"]);
    const double different = ShareOfDifferent(codes.codes, figure["codes"]);
    printf("gptq %jd x %jd: %.3g of the codes differ\n", rows, columns, different);
    EXPECT_LE(different, 0.01);
    ExpectScales(codes.scales, figure["scales"]);
    // From the figures' own codes, so that a flipped one does not turn the factors.
    std::vector<float> back = codes.Values();
    for (size_t i = 0; i < back.size(); ++i) back[i] = figure["codes"][i].get<float>() * figure["scales"][i / columns].get<float>();
    const at::Tensor error = weight - at::from_blob(back.data(), {rows, columns}, at::kFloat);
    const LowRankCorrection correction = CorrectLowRank(error, Settings());
    EXPECT_EQ(correction.rank, 4);
    EXPECT_LE(ShareOfDifferent(correction.left.codes, figure["a"]), 0.01);
    EXPECT_LE(ShareOfDifferent(correction.right.codes, figure["b"]), 0.01);
    ExpectScales(correction.left.scales, {figure["a_scale"]});
    ExpectScales(correction.right.scales, figure["b_scales"]);
  }
}

TEST(Figures1855, CalibrationWindows) {
  const nlohmann::json figure = Figures()["windows"];
  const ScratchFolder folder;
  int shard = 0;
  for (const int64_t size : figure["sizes"])
    WriteBytes(folder / ("fineweb_train_00000" + std::to_string(shard++) + ".bin"), ShardBytes(std::vector<uint16_t>(size, 3)));
  const ShardSet shards(folder.path(), "train", 1024);
  ShuffledWindows windows(shards, figure["length"], figure["seed"]);
  for (const nlohmann::json& window : figure["windows"]) {
    const ShuffledWindows::Window ours = windows.Next();
    EXPECT_EQ(ours.shard, window[0].get<int64_t>());
    EXPECT_EQ(ours.start, window[1].get<int64_t>());
  }
}

}  // namespace
}  // namespace fairway
