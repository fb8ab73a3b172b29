#include "common/evaluate/generate.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tests/common/evaluate/tiny_model.h"

namespace fairway {
namespace {

class GenerateTest : public testing::Test {
 protected:
  GenerateTest() : settings(TinySettings()), model(TinyModel(settings)) {}

  int64_t Likeliest(const std::vector<int64_t>& ids) const {
    return model.Logits(at::tensor(ids).unsqueeze(0))[0][-1].argmax().item<int64_t>();
  }

  Settings settings;
  Transformer model;
};

TEST_F(GenerateTest, TakesTheLikeliestTokenAtTemperatureZeroFromTheLastWindow) {
  std::vector<int64_t> ids = {1, 9, 30};
  const std::vector<int64_t> added = Generate(model, settings, ids, {.tokens = 40});
  ASSERT_EQ(added.size(), 40u);
  for (const int64_t id : added) {  // the prompt and 40 tokens are more than one window of 16
    const size_t context = std::min<size_t>(ids.size(), settings.train_seq_len);
    EXPECT_EQ(id, Likeliest({ids.end() - context, ids.end()}));
    ids.push_back(id);
  }
}

TEST_F(GenerateTest, DrawsInProportionAndAsSeeded) {
  const std::vector<int64_t> prompt = {1, 9, 30};
  const Sampling warm{.tokens = 25, .temperature = 2.0, .seed = 5};
  EXPECT_EQ(Generate(model, settings, prompt, warm), Generate(model, settings, prompt, warm));
  const at::Tensor expected = model.Logits(at::tensor(prompt).unsqueeze(0))[0][-1].to(at::kDouble).div(2.0).softmax(0);
  std::map<int64_t, int> counts;
  constexpr int kDraws = 1000;
  for (int draw = 0; draw < kDraws; ++draw) {
    ++counts[Generate(model, settings, prompt,
                      {.tokens = 1, .temperature = 2.0, .seed = static_cast<uint64_t>(draw)})[0]];
  }
  // Five standard deviations of a share of that many draws.
  for (int64_t id = 0; id < settings.vocab_size; ++id) {
    const double p = expected[id].item<double>();
    EXPECT_NEAR(counts[id] / double{kDraws}, p, 5 * std::sqrt(p * (1 - p) / kDraws) + 1e-9) << id;
  }
}

TEST_F(GenerateTest, StopsBeforeTheIdThatEndsTheText) {
  const std::vector<int64_t> all = Generate(model, settings, {1, 9, 30}, {.tokens = 10});
  const std::vector<int64_t> ended = Generate(model, settings, {1, 9, 30}, {.tokens = 10, .stop = all[4]});
  const auto first = std::find(all.begin(), all.end(), all[4]);
  EXPECT_EQ(ended, std::vector<int64_t>(all.begin(), first));
}

TEST_F(GenerateTest, DrawsOnlyFromTopKAndTopP) {
  const std::vector<int64_t> prompt = {1, 9, 30};
  const at::Tensor p = model.Logits(at::tensor(prompt).unsqueeze(0))[0][-1].to(at::kDouble).div(3.0).softmax(0);
  const auto [sorted, order] = p.sort(/*dim=*/0, /*descending=*/true);
  // The ids that come up in many draws, which are enough for the rarest of those allowed here.
  const auto drawn = [&](Sampling sampling) {
    std::set<int64_t> ids;
    sampling.tokens = 1;
    sampling.temperature = 3;
    for (int draw = 0; draw < 300; ++draw) {
      sampling.seed = draw;
      ids.insert(Generate(model, settings, prompt, sampling)[0]);
    }
    return ids;
  };
  const auto first = [&, &order = order](int64_t count) {
    std::set<int64_t> ids;
    for (int64_t i = 0; i < count; ++i) ids.insert(order[i].item<int64_t>());
    return ids;
  };
  EXPECT_EQ(drawn({.top_k = 1}), first(1));
  EXPECT_EQ(drawn({.top_k = 3}), first(3));
  // A sum just above the two most likely needs the third; just below it does not.
  const double two = sorted[0].item<double>() + sorted[1].item<double>();
  EXPECT_EQ(drawn({.top_p = two + 1e-6}), first(3));
  EXPECT_EQ(drawn({.top_p = two - 1e-6}), first(2));
  EXPECT_EQ(drawn({.top_p = 0}), first(1));
  // top_p counts what top_k has left.
  const double share = sorted[0].item<double>() / two;
  EXPECT_EQ(drawn({.top_k = 2, .top_p = share - 1e-6}), first(1));
  EXPECT_EQ(drawn({.top_k = 2, .top_p = share + 1e-6}), first(2));
}

TEST_F(GenerateTest, ReportsEachTokenAsItIsDrawn) {
  std::vector<int64_t> heard;
  const auto added = Generate(model, settings, {1, 9, 30}, {.tokens = 7, .temperature = 1}, [&](int64_t id) { heard.push_back(id); });
  EXPECT_EQ(heard, added);
}

}  // namespace
}  // namespace fairway
