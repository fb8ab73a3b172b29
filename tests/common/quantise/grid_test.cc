#include "common/quantise/grid.h"

#include <gtest/gtest.h>

namespace fairway {
namespace {

TEST(ExportGrid, GoesByName) {
  Settings settings;
  settings.keep_max_numel = 100;
  settings.fp16_keep_name_patterns = "";
  const auto grid = [&](const char* name) { return ExportGrid(name, 20, 20, settings); };
  EXPECT_EQ(grid("blocks.0.mlp.fc.weight"), kInt5);
  EXPECT_EQ(grid("blocks.10.mlp.proj.weight"), kInt5);
  EXPECT_EQ(grid("blocks.0.attn.c_q.weight"), kInt6);
  EXPECT_EQ(grid("blocks.0.attn.proj.weight"), kInt6);
  EXPECT_EQ(grid("bigram.proj.weight"), kInt6);
  EXPECT_EQ(grid("bigram.embed.weight"), kInt8);
  EXPECT_EQ(grid("tok_emb.weight"), kInt8);
  EXPECT_EQ(grid("lm_head.weight"), kInt8);
}

TEST(ExportGrid, SmallFirstThenControlThenKeepList) {
  Settings settings;
  settings.keep_max_numel = 100;
  settings.fp16_keep_name_patterns = "tok_emb, blocks.8.attn.c_k";
  // At most keep_max_numel elements: float16, a control tensor too.
  EXPECT_EQ(ExportGrid("blocks.0.mlp.fc.weight", 10, 10, settings), std::nullopt);
  EXPECT_EQ(KeptDType("blocks.0.resid_mix", 100, settings), DType::kFloat16);
  EXPECT_EQ(ExportGrid("blocks.0.mlp.fc.weight", 1, 101, settings), kInt5);
  // Larger control tensors: float32, on the keep list or not.
  EXPECT_EQ(ExportGrid("blocks.0.resid_mix", 2, 51, settings), std::nullopt);
  EXPECT_EQ(KeptDType("blocks.0.resid_mix", 102, settings), DType::kFloat32);
  settings.fp16_keep_name_patterns += ",resid_mix";
  EXPECT_EQ(KeptDType("blocks.0.resid_mix", 102, settings), DType::kFloat32);
  // The keep list: float16.
  EXPECT_EQ(ExportGrid("blocks.8.attn.c_k.weight", 20, 20, settings), std::nullopt);
  EXPECT_EQ(KeptDType("blocks.8.attn.c_k.weight", 400, settings), DType::kFloat16);
  EXPECT_EQ(ExportGrid("blocks.9.attn.c_k.weight", 20, 20, settings), kInt6);
}

// By default the published quantiser keeps the token embedding, as published; of a budget it would take its share.
TEST(ExportGrid, QuantisersOfASizeRoundTheTokenEmbedding) {
  Settings settings;
  settings.keep_max_numel = 100;
  for (const char* name : {"published", "rtn", "gptq", "gptq_sdclip"}) {
    settings.quantiser = name;
    EXPECT_EQ(ExportGrid("tok_emb.weight", 20, 20, settings).has_value(), settings.quantiser != "published") << name;
  }
  settings.fp16_keep_name_patterns = "tok_emb";
  EXPECT_FALSE(ExportGrid("tok_emb.weight", 20, 20, settings));
}

}  // namespace
}  // namespace fairway
