// The flat layout: every element once, neighbours where products and exchanges want them, autograd's sums in place.
#include "common/model/flat.h"

#include <ATen/TensorOperators.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/common/model/shapes.h"

namespace fairway {
namespace {

using testing::ElementsAre;

int64_t Offset(const at::Tensor& view, const at::Tensor& buffer) {
  return static_cast<const float*>(view.const_data_ptr()) - static_cast<const float*>(buffer.const_data_ptr());
}

TEST(FlatTest, EveryElementHasItsPlace) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Settings settings = RandomShape(seed);
    const FlatLayout layout(settings);
    const FlatTensors flat(layout, at::kFloat);
    ASSERT_EQ(flat.buffers().size(), 1);
    const at::Tensor buffer = flat.buffers().front();
    EXPECT_EQ(buffer.numel(), layout.size());
    const std::vector<ParameterSpec> specs = ParameterSpecs(settings);
    ASSERT_EQ(flat.tensors().size(), specs.size());
    int64_t elements = 0;
    for (size_t i = 0; i < specs.size(); ++i) {
      const auto& [name, tensor] = flat.tensors()[i];
      EXPECT_EQ(name, specs[i].name);
      EXPECT_EQ(tensor.sizes().vec(), specs[i].shape);
      EXPECT_TRUE(tensor.is_contiguous());
      if (tensor.numel() == 0) continue;
      EXPECT_EQ(Offset(tensor, buffer), layout.entries()[i].range.first) << name;
      tensor.add_(1);
      elements += tensor.numel();
    }
    // No two share an element, and what lies between groups stays 0.
    EXPECT_LE(buffer.max().item<float>(), 1);
    EXPECT_EQ(buffer.sum().item<float>(), static_cast<float>(elements));
    EXPECT_LT(layout.size() - elements, 4 * 16);
    for (Group group : {Group::kEmbeddings, Group::kHead, Group::kVectors, Group::kMatrices})
      EXPECT_EQ(layout.range(group).first % 16, 0);
  }
}

TEST(FlatTest, GroupsInTheirOrder) {
  const Settings settings = Shape({{"tie_embeddings", "0"}, {"num_layers", "1"}});
  std::map<int64_t, std::string> names;  // by place; skip_weights has no element
  const FlatLayout layout(settings);
  for (const FlatLayout::Entry& entry : layout.entries())
    if (entry.range.size() > 0) names[entry.range.first] = entry.spec.name;
  std::vector<std::string> order;
  for (const auto& [place, name] : names) order.push_back(name);
  EXPECT_THAT(order, ElementsAre("tok_emb.weight", "bigram.embed.weight", "lm_head.weight", "bigram.scale", "smear.gate",
                                 "blocks.0.attn_scale", "blocks.0.mlp_scale", "blocks.0.resid_mix", "blocks.0.attn.q_gain",
                                 "bigram.proj.weight", "blocks.0.attn.c_q.weight", "blocks.0.attn.c_k.weight",
                                 "blocks.0.attn.c_v.weight", "blocks.0.attn.proj.weight", "blocks.0.mlp.fc.weight",
                                 "blocks.0.mlp.proj.weight"));
}

TEST(FlatTest, QueriesKeysAndValuesAreOneMatrix) {
  const Settings settings = Shape({});
  const FlatLayout layout(settings);
  std::map<std::string, FlatRange> ranges;
  for (const FlatLayout::Entry& entry : layout.entries()) ranges[entry.spec.name] = entry.range;
  for (int64_t i = 0; i < settings.num_layers; ++i) {
    const std::string attention = "blocks." + std::to_string(i) + ".attn.";
    EXPECT_EQ(ranges.at(attention + "c_q.weight").last, ranges.at(attention + "c_k.weight").first);
    EXPECT_EQ(ranges.at(attention + "c_k.weight").last, ranges.at(attention + "c_v.weight").first);
  }
}

TEST(FlatTest, BFloat16EmbeddingsHaveTheirOwnBuffer) {
  const Settings settings = Shape({{"precision", "bfloat16"}});
  const FlatLayout layout(settings);
  EXPECT_EQ(layout.embeddings_dtype(), at::kBFloat16);
  const FlatTensors flat(layout, at::kBFloat16);
  ASSERT_EQ(flat.buffers().size(), 2);
  EXPECT_EQ(flat.buffers()[0].scalar_type(), at::kBFloat16);
  EXPECT_EQ(flat.buffers()[1].scalar_type(), at::kFloat);
  const std::vector<ParameterSpec> specs = ParameterSpecs(settings);
  for (size_t i = 0; i < specs.size(); ++i) EXPECT_EQ(flat.tensors()[i].second.scalar_type(), specs[i].dtype);
  EXPECT_EQ(FlatTensors(layout, at::kFloat).buffers().size(), 1);
}

TEST(FlatTest, SomeGroupsAlone) {
  const FlatLayout layout(Shape({}));
  const FlatTensors matrices(layout, at::kFloat, Group::kMatrices, Group::kMatrices);
  EXPECT_EQ(matrices.buffers().front().numel(), layout.range(Group::kMatrices).size());
  for (const auto& [name, tensor] : matrices.tensors()) EXPECT_TRUE(name.ends_with(".weight")) << name;
  matrices.group(Group::kMatrices).fill_(2);
  EXPECT_EQ(matrices.tensors().front().second.min().item<float>(), 2);
  EXPECT_THROW(matrices.group(Group::kVectors), std::out_of_range);
}

}  // namespace
}  // namespace fairway
