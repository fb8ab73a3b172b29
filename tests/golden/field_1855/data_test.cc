// Rows, segments, schedule and calibration windows of the published script, exactly.
#include <gtest/gtest.h>

#include "common/settings/schedule.h"
#include "common/tokens/segments.h"
#include "common/tokens/shuffled_windows.h"
#include "tests/golden/field_1855/golden_1855.h"

namespace fairway {
namespace {

ShardSet TrainShards() { return ShardSet((golden_1855::kFolder / "data").string(), "train", 1024); }

TEST(Golden1855, RowsAndTheirSegments) {
  SKIP_WITHOUT_GOLDEN_1855();
  const nlohmann::json golden = golden_1855::Json("tiny/segments.json");
  const ShardSet shards = TrainShards();
  const int64_t n = 512;
  const PackedSpans spans(shards, n + 1);
  std::vector<uint16_t> row(n + 1);
  int64_t position = 0;
  ASSERT_EQ(golden["micro_batches"].size(), 384u);
  for (const nlohmann::json& micro : golden["micro_batches"]) {
    position = spans.Next(position);
    shards.Read(position % shards.tokens(), n + 1, row.data());
    position += n + 1;
    EXPECT_EQ(std::vector<uint16_t>(row.begin(), row.begin() + 4), micro["first_ids"].get<std::vector<uint16_t>>());
    EXPECT_EQ(row.back(), micro["last_target"].get<uint16_t>());
    EXPECT_EQ(SegmentStarts({row.data(), static_cast<size_t>(n)}, 128), micro["starts"].get<std::vector<int32_t>>());
  }
}

TEST(Golden1855, SegmentsOfSmallCases) {
  SKIP_WITHOUT_GOLDEN_1855();
  const nlohmann::json golden = golden_1855::Json("tiny/segments.json");
  std::string key;
  for (const auto& [name, value] : golden.items())
    if (name != "micro_batches") key = name;
  ASSERT_EQ(golden[key].size(), 9u);
  for (const nlohmann::json& one : golden[key]) {
    const int64_t total = one["total"];
    std::vector<uint16_t> tokens(total, 5);
    for (const int64_t bos : one["bos"]) tokens[bos] = 1;
    std::vector<int32_t> starts = SegmentStarts(tokens, one["longest"]);
    starts.resize(one["starts_and_padding"].size(), static_cast<int32_t>(total));
    EXPECT_EQ(starts, one["starts_and_padding"].get<std::vector<int32_t>>()) << one.dump();
  }
}

TEST(Golden1855, CalibrationWindows) {
  SKIP_WITHOUT_GOLDEN_1855();
  const nlohmann::json result = golden_1855::Json("tiny/result.json");
  const ShardSet shards = TrainShards();
  ShuffledWindows windows(shards, 128, 0), first(shards, 128, 0);
  std::vector<std::vector<int64_t>> starts(2);
  const nlohmann::json& golden = result["calibration_starts"];
  const size_t all = golden[0].size() + golden[1].size();
  for (size_t i = 0; i < all; ++i) {
    const ShuffledWindows::Window window = windows.Next();
    starts[window.shard].push_back(window.start);
  }
  EXPECT_EQ(starts[0], golden[0].get<std::vector<int64_t>>());
  EXPECT_EQ(starts[1], golden[1].get<std::vector<int64_t>>());
  for (const nlohmann::json& window : result["calibration_first_batch"])
    EXPECT_EQ(first.Take(), window.get<std::vector<uint16_t>>());
}

TEST(Golden1855, Schedule) {
  SKIP_WITHOUT_GOLDEN_1855();
  const nlohmann::json result = golden_1855::Json("tiny/result.json");
  Settings settings;
  for (const char* name : {"ITERATIONS", "MAX_WALLCLOCK_SECONDS", "WARMDOWN_FRAC", "MIN_LR", "MUON_MOMENTUM_WARMUP_STEPS"}) {
    std::string lower = name;
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
    settings.Set(lower, result["env"][name].dump(), Origin::kCommandLine, name);
  }
  settings.muon_momentum = 0.97;
  for (const nlohmann::json& step : result["schedule"]) {
    EXPECT_EQ(TrainingFraction(settings, step["step"], 0), step["frac"].get<double>());
    // Recorded are the rates; the scale is a quotient of them.
    EXPECT_DOUBLE_EQ(LearningRateScale(settings, step["step"], 0), step["lr_scale"].get<double>());
    EXPECT_EQ(0.026 * LearningRateScale(settings, step["step"], 0), step["muon_lr"].get<double>());
    EXPECT_EQ(0.03 * LearningRateScale(settings, step["step"], 0), step["tok_lr"].get<double>());
    EXPECT_EQ(MuonMomentum(settings, step["step"]), step["momentum"].get<double>());
  }
}

}  // namespace
}  // namespace fairway
