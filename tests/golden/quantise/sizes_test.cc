// What artifacts of the same weights take, against tests/golden/sizes.csv: a change of a size shows up in review. Where it is meant,
// what this test prints is the new table.
#include <gtest/gtest.h>
#include <zstd.h>

#include <cmath>
#include <map>
#include <random>

#include "common/base/file.h"
#include "common/base/text.h"
#include "common/checkpoint/packed.h"
#include "common/quantise/artifact.h"
#include "common/quantise/export.h"

namespace fairway {
namespace {

// Six matrices of unlike deviation and cost, each with rows and columns of unlike deviation and cost, and vectors. No function
// of the C library that rounds its own way takes part.
struct Model {
  Model() {
    std::mt19937_64 random(1);
    const auto normal = [&] {  // nearly: a sum of twelve
      int64_t sum = 0;
      for (int i = 0; i < 12; ++i) sum += static_cast<int64_t>(random() % 65536);
      return static_cast<float>(sum - 6 * 65535) / 65536;
    };
    CheckpointWriter writer(&bytes, Kind::kWeights, {});
    for (int matrix = 0; matrix < 6; ++matrix) {
      const std::string name = StringPrintf("blocks.%d.mlp.fc.weight", matrix);
      constexpr int64_t kRows = 240, kColumns = 120;
      std::vector<double> rows(kRows), columns(kColumns);
      for (double& cost : rows) cost = std::ldexp(1.0, static_cast<int>(random() % 12));
      for (double& cost : columns) cost = std::ldexp(1.0, static_cast<int>(random() % 8));
      std::vector<float> weights;
      for (int64_t i = 0; i < kRows; ++i)
        for (int64_t j = 0; j < kColumns; ++j)
          weights.push_back(normal() * std::ldexp(1.0f, matrix / 2 - 8) * static_cast<float>(1 + i % 3) * static_cast<float>(1 + j % 2));
      writer.Add({name, DType::kFloat32, {kRows, kColumns}, {}}, weights);
      calibration.costs[name] = {std::ldexp(1.0, 2 * (matrix % 3)), rows, columns};
      std::vector<float> vector(kColumns);
      for (float& value : vector) value = 1 + normal() / 16;
      writer.Add({StringPrintf("blocks.%d.attn_scale", matrix), DType::kFloat32, {kColumns}, {}}, vector);
    }
    writer.Finish({}, {});
  }

  std::string bytes;
  Calibration calibration;
};

// The smallest of the shipped levels as zstd has them.
size_t Compressed(const std::string& content) {
  std::string bytes(ZSTD_compressBound(content.size()), '\0');
  size_t least = SIZE_MAX;
  for (const int level : kShippedLevels)
    least = std::min(least, ZSTD_compress(bytes.data(), bytes.size(), content.data(), content.size(), level));
  return least;
}

TEST(GoldenSizes, AreThoseOfTheTable) {
  const Model model;
  const CheckpointReader weights(model.bytes, "weights");
  std::string table = StringPrintf(
      "# Bytes by zstd %s of 172,800 weights; build/tests/golden_sizes_test prints this table. written: the checkpoint as gptq-lite\n"
      "# writes it; packed: laid out as in an artifact, in the same order; zstd: in the best order, no short matches, with its digest; shipped: the\n"
      "# same with codes by the arithmetic coder\n"
      "quantiser,step,written,packed,zstd,shipped\n", ZSTD_versionString());
  for (const auto& [quantiser, step] :
       std::vector<std::pair<std::string, double>>{{"published", 0}, {"rtn", 0.002}, {"rtn", 0.008}, {"rtn", 0.032}, {"rtn", 0.128}}) {
    Settings settings;
    settings.quantiser = quantiser;
    settings.keep_max_numel = 1000;
    std::string written;
    CheckpointWriter writer(&written, Kind::kQuantised, {});
    if (step == 0)
      ExportWeights(weights, settings, writer);
    else
      ExportWeights(weights, settings, model.calibration, step, writer);
    writer.Finish({}, {});
    const CheckpointReader quantised(written, "quantised");
    std::vector<PackedTensor> as_written;
    for (const TensorInfo& info : quantised.tensors()) as_written.push_back({info.name});
    table += StringPrintf("%s,%s,%zu,%zu,%zu,%zu\n", quantiser.c_str(), ShortestDouble(step).c_str(), Compressed(written),
                          Compressed(PackCheckpoint(quantised, as_written)), PackArtifact(quantised, kShippedLevels, 1, Coder::kZstd).bytes.size(),
                          PackArtifact(quantised, kShippedLevels).bytes.size());
  }
  std::printf("%s", table.c_str());
  const std::string golden(InputFile(SIZES_CSV).text());
  if (golden.find(StringPrintf("by zstd %s ", ZSTD_versionString())) == std::string::npos)
    GTEST_SKIP() << "skipped: the table was made by another zstd than " << ZSTD_versionString();
  EXPECT_EQ(table, golden);
}

}  // namespace
}  // namespace fairway
