// The part of the published script's numbers that lies in the repository (README.md): schedule, losses, averages, codes and scales,
// scores.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "common/base/digest.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "common/checkpoint/safetensors.h"
#include "common/evaluate/evaluate.h"
#include "common/model/initialise.h"
#include "common/settings/schedule.h"
#include "common/quantise/export.h"
#include "common/train/trainer.h"

namespace fairway {
namespace {

const std::string kFolder = SOURCE_DIR "/tests/golden/small/531/";
using nlohmann::json;

json Expected() { return json::parse(InputFile(kFolder + "expected.json").text()); }

Settings CaseSettings(const json& expected) {
  Settings settings;
  const auto set = [&](std::string name, const std::string& value) {
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
    settings.Set(name, value, Origin::kCommandLine, "expected.json");
  };
  for (const auto& [name, value] : expected["env"].items()) set(name, value);
  set("precision", "float32");
  set("data_path", kFolder + "data");
  set("tokenizer_path", "");
  settings.published_quirks = true;
  return settings;
}

// The number after `label` in the log's line that starts with `start`.
double Logged(const json& log, const std::string& start, const std::string& label) {
  for (const std::string line : log)
    if (line.starts_with(start)) return std::stod(line.substr(line.find(label) + label.size()));
  throw std::runtime_error("no line " + start);
}

// Values that are drawn are exact everywhere; LAPACK's QR, which makes orthogonal matrices, rounds differently from one processor to
// another, and keeps their sum and norm.
TEST(GoldenSmall, InitialWeights) {
  const json expected = Expected();
  for (const auto& [name, weights] : InitialParameters(CaseSettings(expected))) {
    const json& entry = expected["init"][name];
    const at::Tensor values = weights.contiguous();
    const double norm = values.norm().item<double>();
    EXPECT_EQ(values.sizes().vec(), entry["shape"].get<std::vector<int64_t>>()) << name;
    EXPECT_NEAR(norm, entry["l2"].get<double>(), 1e-5 * norm) << name;
    const bool orthogonal = values.dim() == 2 && values.size(0) >= 64 && values.size(1) >= 64 && name.starts_with("blocks.");
    if (orthogonal || entry["sha256"].is_null()) continue;
    EXPECT_EQ(Sha256Hex({reinterpret_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()}), entry["sha256"]) << name;
  }
}

// Losses of 60 steps, within three times the script's distance from itself; where SWA and late QAT begin; validation scores; the score
// of the weights that it ends with.
TEST(GoldenSmall, SixtyStepsAndTheirScores) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "skipped: under a sanitizer sums are taken in another order";
#endif
  const json expected = Expected();
  const Settings settings = CaseSettings(expected);
  Trainer trainer(settings, ShardSet(settings.data_path, "train", settings.vocab_size));
  const ShardSet val(settings.data_path, "val", settings.vocab_size);
  const ByteTable table = ByteTable::Load(settings);
  const auto loss = [&](const char* run, int64_t i) { return expected[run][i].get<double>(); };
  double noise = 0;
  const auto expect_score = [&](Engine& model, double noise_of_score) {
    const std::string start = StringPrintf("step:%jd/60 val_loss", trainer.step());
    // Four decimals are logged.
    EXPECT_NEAR(EvaluatePlain(model, val, table, settings).val_bpb, Logged(expected["log"], start, "val_bpb:"), 5e-5 + noise_of_score) << start;
  };
  while (trainer.step() < settings.iterations) {
    const int64_t step = trainer.step();
    const double scale = LearningRateScale(settings, step, 0);
    if (step % 20 == 0) expect_score(trainer.ModelForScoring(), 3 * noise);
    if (scale < settings.late_qat_threshold && !trainer.fake_quantises()) {
      EXPECT_EQ(StringPrintf("late_qat: enabled at step %jd (scale=%.6f)", step, scale), "late_qat: enabled at step 55 (scale=0.125000)");
      trainer.StartFakeQuantisation();
      noise = std::max(noise, 1e-2);  // it flips roundings: that far the script is from itself
    }
    const std::vector<float> losses = trainer.AccumulateGradients();
    for (size_t micro = 0; micro < losses.size(); ++micro) {
      const auto i = 8 * step + static_cast<int64_t>(micro);
      noise = std::max(noise, std::abs(loss("micro_losses", i) - loss("micro_losses_one_thread", i)));
      EXPECT_NEAR(losses[micro], loss("micro_losses", i), 3 * noise + 2e-6) << "step " << step << " micro-batch " << micro;
    }
    trainer.Update(scale);
    EXPECT_EQ(trainer.swa_snapshots() > 0, trainer.step() >= 50) << step;
  }
  EXPECT_EQ(trainer.swa_snapshots(), 3);
  expect_score(trainer.ModelForScoring(), 3 * noise);
  // Every tensor of this model is kept as float16: the published round trip is a rounding of the SWA weights.
  trainer.WithWeights(ParseSource("swa"), [&](Engine& model) {
    EXPECT_NEAR(EvaluateSliding(model, val, table, settings).val_bpb,
                Logged(expected["log"], "final_int8_zlib_roundtrip_exact", "val_bpb:"), 3e-3);
  });
}

TEST(GoldenSmall, CodesAndScalesOfThePublishedQuantiser) {
  const SafetensorsReader golden(kFolder + "quantiser.safetensors");
  std::map<std::string, int> grids;
  for (const TensorInfo& info : golden.tensors()) {
    if (info.name.ends_with(".q") || info.name.ends_with(".scale")) continue;
    Settings settings;
    settings.keep_max_numel = 0;  // these are a few rows of large matrices
    const auto grid = ExportGrid(info.name, info.shape[0], info.shape[1], settings);
    ASSERT_TRUE(grid) << info.name;
    ++grids[std::string(grid->name)];
    const QuantisedMatrix matrix = QuantiseMatrix(golden.Floats(info.name), info.shape[0], *grid, /*published_quirks=*/true, /*threads=*/1);
    EXPECT_TRUE(std::ranges::equal(std::as_bytes(std::span(matrix.codes)), golden.Data(info.name + ".q"))) << info.name;
    EXPECT_TRUE(std::ranges::equal(std::as_bytes(std::span(matrix.scales)), golden.Data(info.name + ".scale"))) << info.name;
  }
  EXPECT_EQ(grids, (std::map<std::string, int>{{"int5", 2}, {"int6", 4}, {"int8", 2}}));
}

}  // namespace
}  // namespace fairway
