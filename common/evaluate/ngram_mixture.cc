#include "common/evaluate/ngram_mixture.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "common/tokens/shard_format.h"

namespace fairway {
namespace {

constexpr double kDiscount = 0.75, kRate = 0.5;

// Buckets of a context: its length, how often it was seen (powers of 2), how many kinds of tokens followed, in quarters of that.
constexpr int64_t kSeen = 7, kVariety = 4;

// Finaliser of MurmurHash3 (Appleby, public domain).
uint64_t Scramble(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdULL;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ULL;
  return x ^ (x >> 33);
}

}  // namespace

size_t NgramMixture::Hash::operator()(const Key& key) const {
  const auto halves = std::bit_cast<std::array<uint64_t, 2>>(key);
  return Scramble(Scramble(halves[0]) ^ halves[1]);
}

NgramMixture::NgramMixture(int64_t order, int64_t vocab_size)
    : order_(order), uniform_(1 / static_cast<double>(vocab_size)), gates_((order + 2) * kSeen * kVariety) {}

NgramMixture::Key NgramMixture::KeyOf(const uint16_t* tokens, int64_t i, int64_t order) {
  Key key;
  key.order = static_cast<uint16_t>(order);
  for (int64_t back = 0; back < order; ++back) key.context[back] = tokens[i - back];
  return key;
}

int64_t NgramMixture::ContextLength(const uint16_t* tokens, int64_t i) const {
  int64_t length = 0;
  while (length < order_ && length <= i && (length == 0 || tokens[i - length + 1] != kBos)) ++length;
  return length;
}

NgramMixture::Estimate NgramMixture::EstimateOf(const uint16_t* tokens, int64_t i) const {
  const int64_t longest = ContextLength(tokens, i);
  double probability = uniform_;
  int64_t seen = 0;  // orders that were seen
  Context last;
  for (int64_t order = 0; order <= longest; ++order) {
    Key key = KeyOf(tokens, i, order);
    const auto context = contexts_.find(key);
    if (context == contexts_.end()) break;  // nor was a longer one
    key.token = tokens[i + 1];
    const auto count = counts_.find(key);
    const double above = count == counts_.end() ? 0 : static_cast<double>(count->second) - kDiscount;
    last = context->second;
    probability = (above + kDiscount * static_cast<double>(last.kinds) * probability) / static_cast<double>(last.total);
    seen = order + 1;
  }
  const int64_t often = std::min<int64_t>(std::bit_width(static_cast<uint64_t>(last.total + 1)) - 1, kSeen - 1);
  const int64_t variety = last.total == 0 ? 0 : std::min(kVariety * last.kinds / last.total, kVariety - 1);
  return {probability, static_cast<size_t>((seen * kSeen + often) * kVariety + variety)};
}

double NgramMixture::WeightOf(size_t bucket) const { return 1 / (1 + std::exp(-gates_[bucket].logit)); }

void NgramMixture::Mix(const uint16_t* tokens, const Window& window, float* losses) const {
  for (int64_t i = window.score_from; i < window.length; ++i) {
    const Estimate estimate = EstimateOf(tokens, i);
    const double weight = WeightOf(estimate.bucket);
    losses[i] = static_cast<float>(-std::log((1 - weight) * std::exp(-static_cast<double>(losses[i])) + weight * estimate.probability));
  }
}

void NgramMixture::Update(const uint16_t* tokens, const Window& window, const float* losses) {
  struct Step {
    size_t bucket;
    double gradient;
  };
  std::vector<Step> steps;
  for (int64_t i = window.score_from; i < window.length; ++i) {
    const Estimate estimate = EstimateOf(tokens, i);
    // Of -log of the mixture by W: what the gate gives the n-grams, less their share of the mixture.
    const double weight = WeightOf(estimate.bucket), share = weight * estimate.probability * std::exp(static_cast<double>(losses[i]));
    steps.push_back({estimate.bucket, weight - share});
  }
  for (const auto& [bucket, gradient] : steps) {
    Gate& gate = gates_[bucket];
    gate.squares += gradient * gradient;
    if (gate.squares > 0) gate.logit -= kRate * gradient / std::sqrt(gate.squares);
  }
  for (int64_t i = window.score_from; i < window.length; ++i) Count(tokens, i);
}

void NgramMixture::Count(const uint16_t* tokens, int64_t i) {
  // The digest loses what an entry was and gains what it becomes.
  const auto entry = [](const Key& key, int64_t value) { return value == 0 ? 0 : Scramble(Hash()(key) + static_cast<uint64_t>(value)); };
  const int64_t longest = ContextLength(tokens, i);
  for (int64_t order = 0; order <= longest; ++order) {
    Key key = KeyOf(tokens, i, order);
    Context& context = contexts_[key];
    key.token = tokens[i + 1];
    int64_t& count = counts_[key];
    if (count == 0) ++context.kinds;
    ++context.total;
    digest_ += entry(key, count + 1) - entry(key, count);
    ++count;
  }
}

uint64_t NgramMixture::Digest() const {
  uint64_t digest = Scramble(digest_);
  for (const Gate& gate : gates_)
    for (const double value : {gate.logit, gate.squares}) digest = Scramble(digest ^ std::bit_cast<uint64_t>(value)) + 1;
  return digest;
}

double NgramMixture::Bytes(int64_t order, int64_t targets) {
  // An entry's key, value and list pointer, its bucket, and what malloc adds; one of each table for each order of each target.
  constexpr double kEntry = 72;
  return 2 * kEntry * static_cast<double>(order + 1) * static_cast<double>(targets);
}

}  // namespace fairway
