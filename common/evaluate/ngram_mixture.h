// A mixture of a model with n-grams over what has been scored so far (the setting ngram_order).
//
// With n(c, y) occurrences of token y after context c, N(c) of the context and T(c) different tokens after it, orders 0 to k
// interpolate down to the uniform distribution by absolute discounting (Ney, Essen and Kneser 1994):
//   p_o(y | c) = (max(n(c, y) - D, 0) + D T(c) p_{o-1}(y)) / N(c),   D = 0.75;   p_o = p_{o-1} where N(c) = 0;   p_{-1} = 1 / V.
// The mixture is (1 - w) p_model + w p_k. w = sigmoid(W[bucket]) depends on the context alone: on the longest context that was seen
// before, on how often, and on how many different tokens followed. So the mixture sums to 1 over the vocabulary as its two parts
// do. W learns by AdaGrad from targets that were scored. A context does not reach across a document's start (BOS) or its window's.
//
// Mix() changes nothing, Update() comes after it: the targets of a window are all scored from the tables as they were before the
// window.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "common/score/windows.h"

namespace fairway {

class NgramMixture {
 public:
  static constexpr int64_t kMaxOrder = 5;

  // REQUIRES: 1 <= order <= kMaxOrder.
  NgramMixture(int64_t order, int64_t vocab_size);

  // Of a window's `tokens` [length + 1], each of `losses` [length] from score_from on, -log p_model of the target, becomes -log of
  // its mixture.
  void Mix(const uint16_t* tokens, const Window& window, float* losses) const;
  // Takes the window's scored targets into the tables. `losses` are those that Mix() has made of it; of windows that were mixed
  // before any of them was taken in, the gates learn from the tables that the windows before have left.
  void Update(const uint16_t* tokens, const Window& window, const float* losses);

  // Of all that Mix() depends on, whatever the order in which it came about.
  uint64_t Digest() const;

  // At most, for so many targets.
  static double Bytes(int64_t order, int64_t targets);

 private:
  // Up to kMaxOrder tokens of context, the last one first, and for a count the token that followed them. Whole tokens, no hash of
  // them: n-grams that share a counter are no distribution.
  struct Key {
    std::array<uint16_t, kMaxOrder> context = {};
    uint16_t order = 0, token = 0, unused = 0;
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    size_t operator()(const Key& key) const;
  };
  struct Context {
    int64_t total = 0, kinds = 0;
  };
  struct Estimate {
    double probability;  // of the target, by n-grams
    size_t bucket;
  };
  struct Gate {
    double logit = -3, squares = 0;  // W and AdaGrad's sum of squared gradients
  };

  // Of the target tokens[i + 1].
  static Key KeyOf(const uint16_t* tokens, int64_t i, int64_t order);  // its last `order` tokens of context
  int64_t ContextLength(const uint16_t* tokens, int64_t i) const;
  Estimate EstimateOf(const uint16_t* tokens, int64_t i) const;
  double WeightOf(size_t bucket) const;
  void Count(const uint16_t* tokens, int64_t i);

  const int64_t order_;
  const double uniform_;
  std::unordered_map<Key, Context, Hash> contexts_;
  std::unordered_map<Key, int64_t, Hash> counts_;
  std::vector<Gate> gates_;
  uint64_t digest_ = 0;  // sum over all entries, kept up as they change
};

}  // namespace fairway
