#include "common/evaluate/ngram_mixture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "common/tokens/shard_format.h"

namespace fairway {
namespace {

// Windows of `stride` targets of a text, each with `seen` tokens of context before them.
std::vector<Window> WindowsOf(const std::vector<uint16_t>& text, int64_t stride, int64_t seen) {
  std::vector<Window> windows;
  for (int64_t first = 0; first + 1 < std::ssize(text); first += stride) {
    const int64_t begin = std::max<int64_t>(0, first - seen), end = std::min<int64_t>(first + stride, std::ssize(text) - 1);
    windows.push_back({.begin = begin, .length = end - begin, .score_from = first - begin});
  }
  return windows;
}

// Losses of a text under a model that gives every token the same probability.
std::vector<double> Mixed(NgramMixture& mixture, const std::vector<uint16_t>& text, int64_t vocab_size, int64_t stride, int64_t seen) {
  std::vector<double> all;
  for (const Window& window : WindowsOf(text, stride, seen)) {
    std::vector<float> losses(window.length, static_cast<float>(std::log(vocab_size)));
    mixture.Mix(text.data() + window.begin, window, losses.data());
    all.insert(all.end(), losses.begin() + window.score_from, losses.end());
    mixture.Update(text.data() + window.begin, window, losses.data());
  }
  return all;
}

std::vector<uint16_t> Text(int64_t count, int64_t vocab_size, int64_t document) {
  std::mt19937_64 random(3);
  std::vector<uint16_t> text(count);
  for (int64_t i = 0; i < count; ++i) text[i] = i % document == 0 ? kBos : static_cast<uint16_t>(2 + random() % (vocab_size - 2) * random() % (vocab_size - 2) / vocab_size);
  return text;
}

TEST(NgramMixture, IsADistributionAtEveryTarget) {
  constexpr int64_t kVocabulary = 12;
  for (int64_t order = 1; order <= NgramMixture::kMaxOrder; ++order) {
    NgramMixture mixture(order, kVocabulary);
    const std::vector<uint16_t> text = Text(300, kVocabulary, 37);
    for (const Window& window : WindowsOf(text, 4, 16)) {
      std::vector<uint16_t> tokens(text.begin() + window.begin, text.begin() + window.end() + 1);
      // A model that is a distribution, and sure of itself.
      const auto loss = [&](int64_t token) { return static_cast<float>(token == 5 ? -std::log(0.45) : -std::log(0.05)); };
      for (int64_t i = window.score_from; i < window.length; ++i) {
        const uint16_t target = tokens[i + 1];
        double sum = 0;
        for (int64_t token = 0; token < kVocabulary; ++token) {
          tokens[i + 1] = static_cast<uint16_t>(token);
          float value = loss(token);
          const Window one{.begin = 0, .length = i + 1, .score_from = i};
          std::vector<float> losses(i, 0);
          losses.push_back(value);
          mixture.Mix(tokens.data(), one, losses.data());
          sum += std::exp(-static_cast<double>(losses[i]));
        }
        tokens[i + 1] = target;
        ASSERT_NEAR(sum, 1, 1e-6) << "order " << order << ", target " << window.begin + i;
      }
      std::vector<float> losses(window.length);
      for (int64_t i = window.score_from; i < window.length; ++i) losses[i] = loss(tokens[i + 1]);
      mixture.Mix(tokens.data(), window, losses.data());
      mixture.Update(tokens.data(), window, losses.data());
    }
  }
}

// The formula by hand: text BOS a b a b with V = 10, order 1, one target at a time.
TEST(NgramMixture, DiscountsAndInterpolates) {
  constexpr uint16_t a = 5, b = 6;
  const std::vector<uint16_t> text = {kBos, a, b, a, b};
  NgramMixture mixture(1, 10);
  const double D = 0.75;
  const std::vector<double> losses = Mixed(mixture, text, 10, 1, 4);
  const auto mixed = [&](double ngrams, double logit = -3) {
    const double weight = 1 / (1 + std::exp(-logit));
    return -std::log((1 - weight) * 0.1 + weight * ngrams);
  };
  EXPECT_NEAR(losses[0], mixed(0.1), 1e-6);  // nothing seen: uniform
  // Context a is new; of order 0 there is a, once.
  EXPECT_NEAR(losses[1], mixed(D * 1 * 0.1 / 1), 1e-6);
  // Context b is new; a is one of two tokens, of two kinds. As after the target before, which n-grams had thought less likely than
  // the model: AdaGrad's first step.
  EXPECT_NEAR(losses[2], mixed((1 - D + D * 2 * 0.1) / 2, -3.5), 1e-6);
  // After a there was b, once; b is one of three tokens (a, b, a), of two kinds.
  const double unigram = (1 - D + D * 2 * 0.1) / 3;
  EXPECT_NEAR(losses[3], mixed((1 - D + D * 1 * unigram) / 1), 1e-6);
}

TEST(NgramMixture, LearnsToTrustWhatRepeats) {
  std::vector<uint16_t> text;
  for (int repeat = 0; repeat < 40; ++repeat)
    for (const uint16_t token : {kBos, int64_t{7}, int64_t{3}, int64_t{9}, int64_t{4}, int64_t{8}, int64_t{2}}) text.push_back(static_cast<uint16_t>(token));
  NgramMixture mixture(3, 1000);
  const std::vector<double> losses = Mixed(mixture, text, 1000, 7, 7);
  double first = 0, last = 0;
  for (int i = 0; i < 7; ++i) {
    first += losses[i] / 7;
    last += losses[losses.size() - 1 - i] / 7;
  }
  EXPECT_NEAR(first, std::log(1000), 0.1);  // a window is scored from the tables before it
  EXPECT_LT(last, 0.1 * first);
}

TEST(NgramMixture, NoContextReachesAcrossADocumentsStart) {
  NgramMixture mixture(2, 20);
  std::vector<uint16_t> text = {kBos, 5, 6, kBos, 7, 8, kBos, 7};
  Mixed(mixture, text, 20, 8, 8);
  // Whatever came before the document, its second token is predicted alike.
  std::vector<float> one(2, 1.0f), other(2, 1.0f);
  const std::vector<uint16_t> after_six = {6, kBos, 7}, after_nine = {9, kBos, 7};
  mixture.Mix(after_six.data(), {.begin = 0, .length = 2, .score_from = 1}, one.data());
  mixture.Mix(after_nine.data(), {.begin = 0, .length = 2, .score_from = 1}, other.data());
  EXPECT_EQ(one[1], other[1]);
  EXPECT_NE(one[1], 1.0f);
  // A context of two tokens that was seen tells more than one that was not.
  const std::vector<uint16_t> seen = {kBos, 5, 6}, unseen = {8, 5, 6};
  mixture.Mix(seen.data(), {.begin = 0, .length = 2, .score_from = 1}, one.data());
  mixture.Mix(unseen.data(), {.begin = 0, .length = 2, .score_from = 1}, other.data());
  EXPECT_NE(one[1], other[1]);
}

TEST(NgramMixture, MixingChangesNothingAndUpdatingDoes) {
  const std::vector<uint16_t> text = Text(60, 12, 20);
  NgramMixture mixture(3, 12), same(3, 12), stepped(3, 12);
  const uint64_t fresh = mixture.Digest();
  std::vector<float> losses(59, 1.5f);
  const Window window{.begin = 0, .length = 59, .score_from = 0};
  mixture.Mix(text.data(), window, losses.data());
  EXPECT_EQ(mixture.Digest(), fresh);
  mixture.Update(text.data(), window, losses.data());
  EXPECT_NE(mixture.Digest(), fresh);
  std::vector<float> again(59, 1.5f);
  same.Mix(text.data(), window, again.data());
  same.Update(text.data(), window, again.data());
  EXPECT_EQ(same.Digest(), mixture.Digest());
  // One token more is another state.
  std::vector<uint16_t> longer = text;
  longer.push_back(5);
  stepped.Mix(longer.data(), {.begin = 0, .length = 60, .score_from = 0}, std::vector<float>(60, 1.5f).data());
  stepped.Update(longer.data(), {.begin = 0, .length = 60, .score_from = 0}, std::vector<float>(60, 1.5f).data());
  EXPECT_NE(stepped.Digest(), mixture.Digest());
  // So are other tokens, where the gates have learnt the same.
  NgramMixture five(1, 12), six(1, 12);
  const Window one{.begin = 0, .length = 1, .score_from = 0};
  float loss = 1;
  five.Mix(std::vector<uint16_t>{kBos, 5}.data(), one, &loss);
  five.Update(std::vector<uint16_t>{kBos, 5}.data(), one, &loss);
  six.Update(std::vector<uint16_t>{kBos, 6}.data(), one, &loss);
  EXPECT_NE(five.Digest(), six.Digest());
}

}  // namespace
}  // namespace fairway
