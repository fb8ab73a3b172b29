// Continues a text by sampling from a model.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/model/transformer.h"
#include "common/settings/settings.h"

namespace fairway {

struct Sampling {
  int64_t tokens = 64;     // to add, at most
  double temperature = 0;  // 0: always the most likely token
  int64_t top_k = 0;       // draw from this many of the most likely tokens; 0: from all
  double top_p = 1;        // draw from the fewest of the most likely tokens whose probabilities sum to this
  uint64_t seed = 1;       // of the draws
  int64_t stop = -1;       // an id that ends the text early and is left out; -1: none
};

// The ids that follow `prompt`, each drawn from softmax(logits / temperature), restricted to top_k and then to top_p, after at most
// the last train_seq_len ids. `on_token` is called with each id as it is drawn.
// REQUIRES: the prompt is not empty and its ids are below vocab_size.
std::vector<int64_t> Generate(const Transformer& model, const Settings& settings, std::vector<int64_t> prompt, const Sampling& sampling,
                              const std::function<void(int64_t id)>& on_token = {});

}  // namespace fairway
