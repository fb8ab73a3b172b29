// What the plan says of a model, from the definitions: the order of visits by hand, what a token costs from the weights' sizes.
#include "common/plan/plan.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

namespace fairway {
namespace {

using Given = std::vector<std::pair<const char*, const char*>>;

Settings With(const Given& given) {
  Settings settings;
  for (const auto& [name, value] : given) settings.Set(name, value, Origin::kCommandLine, "test");
  settings.CheckModel();
  return settings;
}

constexpr std::pair<const char*, const char*> kLayers{"num_layers", "3"}, kLoops{"num_loops", "2"}, kStart{"loop_start", "1"},
    kEnd{"loop_end", "1"};

TEST(Plan, SkipsAreTakenTheLastOneFirst) {
  const Plan plan(With({{"num_layers", "5"}, {"xsa_last_n", "0"}}));
  const std::vector<Visit>& visits = plan.visits(false);
  ASSERT_EQ(visits.size(), 5u);
  EXPECT_EQ(plan.skips, 2);
  const int64_t from[] = {-1, -1, 1, 0, -1}, row[] = {-1, -1, 0, 1, -1};
  const bool is_skip[] = {false, true, true, false, false};
  for (int64_t v = 0; v < 5; ++v) {
    SCOPED_TRACE(v);
    EXPECT_EQ(visits[v].layer, v);
    EXPECT_EQ(visits[v].skip_from, from[v]);
    EXPECT_EQ(visits[v].skip_row, row[v]);
    EXPECT_EQ(visits[v].input_is_skip, is_skip[v]);
    EXPECT_TRUE(visits[v].first_of_layer);
    EXPECT_FALSE(visits[v].lanes || visits[v].enters_lanes);
  }
}

TEST(Plan, ALoopedSegmentIsVisitedAgain) {
  const Plan plan(With({kLayers, kLoops, kStart, kEnd, {"xsa_last_n", "1"}, {"parallel_start_layer", "2"}}));
  EXPECT_TRUE(plan.loops());
  const std::vector<Visit>& visits = plan.visits(true);
  ASSERT_EQ(visits.size(), 5u);
  const int64_t layer[] = {0, 1, 1, 1, 2}, from[] = {-1, -1, 1, 0, -1};
  const bool first[] = {true, true, false, false, true};
  for (int64_t v = 0; v < 5; ++v) {
    SCOPED_TRACE(v);
    EXPECT_EQ(visits[v].layer, layer[v]);
    EXPECT_EQ(visits[v].skip_from, from[v]);
    EXPECT_EQ(visits[v].first_of_layer, first[v]);
    EXPECT_EQ(visits[v].lanes, v == 4);
    EXPECT_EQ(visits[v].enters_lanes, v == 4);
  }
  EXPECT_EQ(plan.skips, 2);
  EXPECT_EQ(plan.visits(false).size(), 3u);
}

// A token passes each linear layer of each visit once, and the output layer.
TEST(Plan, ATokensProductsAreTheSizesOfTheLayersItPasses) {
  for (const char* tied : {"1", "0"}) {
    for (const char* bigrams : {"0", "300"}) {
      SCOPED_TRACE(std::string("tied ") + tied + ", bigrams " + bigrams);
      const Plan plan(With({kLayers, kLoops, kStart, kEnd, {"xsa_last_n", "1"}, {"tie_embeddings", tied}, {"bigram_vocab_size", bigrams}}));
      int64_t once = 0, again = 0;
      for (const Weight& weight : plan.weights) {
        const bool output = weight.role == (plan.tied ? Role::kTokenEmbedding : Role::kLmHead);
        if (output || (IsLinear(weight.role) && weight.role != Role::kLmHead)) once += weight.numel();
        if (IsLinear(weight.role) && weight.layer == 1) again += weight.numel();
      }
      EXPECT_EQ(plan.ProductsPerToken(false), static_cast<double>(once));
      EXPECT_EQ(plan.ProductsPerToken(true), static_cast<double>(once + 2 * again));
      EXPECT_EQ(plan.AttentionPerTokenAndPosition(false), static_cast<double>(3 * 2 * plan.D));
      EXPECT_EQ(plan.AttentionPerTokenAndPosition(true), static_cast<double>(5 * 2 * plan.D));
    }
  }
}

TEST(Plan, RolesDecideWhoTrainsAWeight) {
  const Plan plan(With({{"tie_embeddings", "0"}, {"skip_gates_enabled", "1"}, {"sparse_attn_gate_enabled", "1"}, {"value_embed_every", "4"}}));
  std::set<std::string> names;
  for (const Weight& weight : plan.weights) {
    SCOPED_TRACE(weight.name);
    EXPECT_TRUE(names.insert(weight.name).second);
    EXPECT_EQ(RoleOf(weight.name), weight.role == Role::kControl ? Role::kOther : weight.role);
    EXPECT_EQ(weight.name.starts_with("blocks." + std::to_string(weight.layer) + "."), weight.layer >= 0);
    EXPECT_EQ(weight.group, IsTable(weight.role)           ? Group::kEmbeddings
                            : weight.role == Role::kLmHead ? Group::kHead
                            : IsLinear(weight.role)        ? Group::kMatrices
                                                           : Group::kVectors);
    EXPECT_EQ(plan.weights[plan.Find(weight.name)].name, weight.name);
  }
  EXPECT_EQ(plan.Find("blocks.0.none"), kNone);
}

TEST(Plan, NamesDecideWhereAUserListsThem) {
  const Plan plan(With({{"control_tensor_name_patterns", "blocks.0.attn.c_q"}}));
  EXPECT_EQ(plan.weights[plan.Find("blocks.0.attn.c_q.weight")].group, Group::kVectors);
  EXPECT_EQ(plan.weights[plan.Find("blocks.1.attn.c_q.weight")].group, Group::kMatrices);
}

TEST(Plan, EveryFewLayersHaveAnEmbeddingOfValues) {
  const Plan plan(With({{"value_embed_every", "4"}}));
  for (int64_t i = 0; i < plan.L; ++i) {
    SCOPED_TRACE(i);
    const int embedding = plan.layers[i].value_embed;
    ASSERT_EQ(embedding != kNone, i == 3 || i == 7);
    if (embedding == kNone) continue;
    EXPECT_EQ(plan.weights[embedding].role, Role::kValueEmbedding);
    EXPECT_EQ(plan.weights[embedding].layer, i);
    EXPECT_EQ(plan.weights[embedding].shape, (std::vector<int64_t>{plan.V, plan.Hkv * plan.d}));
  }
}

TEST(Plan, IsPrintedAsItIs) {
  const Plan plan(With({kLayers, kLoops, kStart, kEnd, {"xsa_last_n", "1"}}));
  const auto json = nlohmann::json::parse(plan.ToJson());
  int64_t parameters = 0;
  for (size_t i = 0; i < plan.weights.size(); ++i) {
    const Weight& weight = plan.weights[i];
    parameters += weight.numel();
    EXPECT_EQ(json["weights"][i]["name"], weight.name);
    EXPECT_EQ(json["weights"][i]["shape"], weight.shape);
    EXPECT_EQ(json["weights"][i]["group"], std::string(GroupName(weight.group)));
  }
  EXPECT_EQ(json["weights"].size(), plan.weights.size());
  EXPECT_EQ(json["parameters"], parameters);
  EXPECT_EQ(json["visits"].size(), 3u);
  EXPECT_EQ(json["visits_looped"].size(), 5u);
  EXPECT_EQ(json["multiply_adds_per_token"], plan.ProductsPerToken(false));
  EXPECT_EQ(json["multiply_adds_per_token_looped"], plan.ProductsPerToken(true));
  EXPECT_EQ(json["attention_multiply_adds_per_token_and_position_looped"], plan.AttentionPerTokenAndPosition(true));
  EXPECT_FALSE(nlohmann::json::parse(Plan(With({})).ToJson()).contains("visits_looped"));
}

}  // namespace
}  // namespace fairway
