// A model small enough to be evaluated target by target, with random weights, and text for it.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/randn.h>

#include <cmath>
#include <random>
#include <vector>

#include "common/model/transformer.h"
#include "common/tokens/byte_table.h"
#include "common/tokens/shards.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {

inline Settings TinySettings() {
  Settings settings;
  for (const auto& [name, value] : std::vector<std::pair<std::string, std::string>>{{"vocab_size", "40"},
                                                                                    {"num_layers", "3"},
                                                                                    {"model_dim", "16"},
                                                                                    {"num_heads", "4"},
                                                                                    {"num_kv_heads", "2"},
                                                                                    {"mlp_mult", "2"},
                                                                                    {"bigram_vocab_size", "64"},
                                                                                    {"bigram_dim", "8"},
                                                                                    {"xsa_last_n", "1"},
                                                                                    {"value_embed_every", "2"},
                                                                                    {"precision", "float32"},
                                                                                    {"train_seq_len", "16"},
                                                                                    {"eval_stride", "5"},
                                                                                    {"eval_batch_seqs", "3"},
                                                                                    {"val_batch_size", "256"}}) {
    settings.Set(name, value, Origin::kCommandLine, "test");
  }
  return settings;
}

// Standard normal weights, scaled by their width: losses differ from token to token and depend on the context.
inline Transformer TinyModel(const Settings& settings) {
  at::set_num_threads(1);  // handing such work to a second one takes longer than doing it
  at::Generator generator = at::detail::createCPUGenerator(7);
  NamedTensors parameters;
  for (const ParameterSpec& spec : ParameterSpecs(settings)) {
    const double scale = spec.shape.size() == 2 ? 2.0 / std::sqrt(spec.shape[1]) : 1.0;
    parameters.emplace_back(spec.name, at::randn(spec.shape, generator, at::kFloat).mul(scale).to(spec.dtype));
  }
  return {settings, std::move(parameters)};
}

inline std::vector<uint16_t> RandomTokens(int64_t count, int64_t vocab_size) {
  std::mt19937_64 random(11);
  std::vector<uint16_t> tokens(count);
  for (uint16_t& token : tokens) token = random() % vocab_size;
  return tokens;
}

// Two shards in `folder`, so that windows cross from one to the other.
inline ShardSet WriteVal(const ScratchFolder& folder, const std::vector<uint16_t>& tokens, int64_t vocab_size) {
  const auto middle = tokens.begin() + (tokens.size() + 1) / 2;
  WriteBytes(folder / "fineweb_val_000000.bin", ShardBytes({tokens.begin(), middle}));
  if (middle != tokens.end()) WriteBytes(folder / "fineweb_val_000001.bin", ShardBytes({middle, tokens.end()}));
  return ShardSet(folder.path(), "val", vocab_size);
}

// Single letters that claim 1 to 4 bytes, some with a leading space; the first four are boundaries of no bytes.
inline ByteTable TinyTable(int64_t vocab_size) {
  ByteTable table;
  for (int64_t id = 0; id < vocab_size; ++id) {
    const bool boundary = id < 4;
    const bool leading_space = !boundary && id % 3 == 0;
    const uint8_t bytes = boundary ? 0 : 1 + id % 4;
    table.pieces.push_back(
        {.text = boundary ? "<" + std::to_string(id) + ">"
                          : (leading_space ? "\xe2\x96\x81" : "") + std::string(bytes, static_cast<char>('A' + id - 4)),
         .bytes = bytes,
         .leading_space = leading_space,
         .boundary = boundary});
  }
  return table;
}

}  // namespace fairway
