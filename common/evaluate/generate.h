// Continues a text, so that a person can see what the bytes have learnt.
#pragma once

#include <cstdint>
#include <vector>

#include "common/model/transformer.h"
#include "common/settings/settings.h"

namespace fairway {

struct Sampling {
  int64_t tokens = 64;     // to add, at most
  double temperature = 0;  // 0: always the likeliest
  uint64_t seed = 1;       // of the draws at other temperatures
  int64_t stop = -1;       // an id that ends the text early and is left out; -1: none
};

// The ids that follow `prompt`, each drawn from softmax(logits / temperature) after at most the last train_seq_len ids.
// REQUIRES: the prompt is not empty and its ids are below vocab_size.
std::vector<int64_t> Generate(const Transformer& model, const Settings& settings, std::vector<int64_t> prompt,
                              const Sampling& sampling);

}  // namespace fairway
