// The published quantiser on its own numbers: codes, scales, kept tensors and what comes back, to the last bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "common/checkpoint/safetensors.h"
#include "common/quantise/artifact.h"
#include "common/quantise/export.h"
#include "tests/common/checkpoint/temporary_folder.h"

namespace fairway {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(SHARED_DIR) / "golden";

// `values` as a parameter of this dtype would hold them.
std::vector<float> Cast(std::vector<float> values, DType dtype) {
  if (dtype == DType::kBFloat16) {
    for (float& value : values) value = BFloat16ToFloat(FloatToBFloat16(value));
  }
  return values;
}

// Bit for bit, so that -0 counts; says where.
void ExpectSameBits(std::span<const std::byte> actual, std::span<const std::byte> expected) {
  const auto [place, other] = std::ranges::mismatch(actual, expected);
  EXPECT_TRUE(place == actual.end() && other == expected.end())
      << "differ from byte " << place - actual.begin() << " of " << actual.size();
}

class GoldenQuantise : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kGolden)) GTEST_SKIP() << "skipped: no " << kGolden;
  }

  // Quantises `weights` as published and compares with `quantised` and `roundtrip`, tensor by tensor. `classes` says
  // what the published script called the way each tensor went.
  void Check(const std::filesystem::path& weights_path, const std::filesystem::path& quantised_path,
             const std::filesystem::path& roundtrip_path, const std::map<std::string, std::string>& classes) {
    const SafetensorsReader weights(weights_path), quantised(quantised_path), roundtrip(roundtrip_path);
    Settings settings;
    settings.published_quirks = true;
    settings.fp16_keep_name_patterns = "tok_emb,blocks.8.attn.c_k";
    {
      CheckpointWriter writer(folder_ / "weights.ckpt", Kind::kWeights, {});
      for (const TensorInfo& info : weights.tensors()) writer.Add(info, weights.Data(info.name));
      writer.Finish({}, {});
      CheckpointWriter out(folder_ / "quantised.ckpt", Kind::kQuantised, {});
      tensors_ = ExportWeights(CheckpointReader(folder_ / "weights.ckpt"), settings, out);
      out.Finish({}, {});
    }
    const CheckpointReader product(folder_ / "quantised.ckpt");

    ASSERT_EQ(product.tensors().size(), quantised.tensors().size());
    for (const TensorInfo& info : product.tensors()) {
      SCOPED_TRACE(info.name);
      const TensorInfo& expected = quantised.Find(info.name);
      ASSERT_EQ(DTypeName(info.dtype), DTypeName(expected.dtype));
      ASSERT_EQ(info.shape, expected.shape);
      ExpectSameBits(product.Data(info.name), quantised.Data(info.name));
    }

    ASSERT_EQ(tensors_.size(), classes.size());
    for (const ExportedTensor& tensor : tensors_) {
      SCOPED_TRACE(tensor.name);
      const std::string expected = classes.at(tensor.name);
      const std::map<std::string, std::string> kept = {
          {"passthrough", "float16"}, {"passthrough_fp16", "float16"}, {"passthrough_ctrl", "float32"}};
      EXPECT_EQ(tensor.form, kept.contains(expected) ? kept.at(expected) : expected);

      const DType dtype = weights.Find(tensor.name).dtype;
      const std::vector<float> back =
          tensor.coded ? Dequantise(product, product.Find(tensor.name + ".q")) : product.Floats(tensor.name);
      const std::vector<float> actual = Cast(back, dtype), published = roundtrip.Floats(tensor.name);
      ExpectSameBits(std::as_bytes(std::span(actual)), std::as_bytes(std::span(published)));
    }
  }

  TemporaryFolder folder_;
  std::vector<ExportedTensor> tensors_;
};

TEST_F(GoldenQuantise, EveryClassOfTensor) {
  const std::filesystem::path folder = kGolden / "quantise";
  const auto classes = nlohmann::json::parse(InputFile((folder / "classes.json").string()).text());
  Check(folder / "weights.safetensors", folder / "quantised.safetensors", folder / "roundtrip.safetensors", classes);
  for (const char* form : {"int5", "int6", "int8", "float16", "float32"}) {
    EXPECT_TRUE(std::ranges::any_of(tensors_, [&](const ExportedTensor& tensor) { return tensor.form == form; }))
        << form;
  }
}

// Every tensor of this case is small enough to be kept. Its averages by SWA are what was quantised.
TEST_F(GoldenQuantise, TinyIsKept) {
  const std::filesystem::path folder = kGolden / "tiny";
  const auto result = nlohmann::json::parse(InputFile((folder / "result.json").string()).text());
  Check(folder / "swa.safetensors", folder / "quantised.safetensors", folder / "roundtrip.safetensors",
        result["quantised_meta"]);
}

}  // namespace
}  // namespace fairway
