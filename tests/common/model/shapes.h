// Models of a few hundred weights, drawn at random, on both sides of every option of the shape.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "common/model/transformer.h"

namespace fairway {

using Options = std::map<std::string, std::string>;

// A small model in float32; `options` change it.
inline Settings Shape(const Options& options) {
  Options all = {{"vocab_size", "24"},   {"num_layers", "3"},    {"model_dim", "16"}, {"num_heads", "4"},
                 {"num_kv_heads", "2"},  {"mlp_mult", "1.5"},    {"bigram_dim", "6"}, {"bigram_vocab_size", "19"},
                 {"xsa_last_n", "1"},    {"rope_base", "100"},   {"seed", "5"},       {"precision", "float32"},
                 {"logit_softcap", "7"}, {"keep_max_numel", "0"}};
  for (const auto& [name, value] : options) all[name] = value;
  Settings settings;
  for (const auto& [name, value] : all) settings.Set(name, value, Origin::kCommandLine, "test");
  settings.CheckModel();
  return settings;
}

// Some shape or other: every option has each of its sides in about half of the seeds.
inline Settings RandomShape(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto any = [&](const std::vector<int64_t>& values) { return std::to_string(values[random() % values.size()]); };
  const int64_t layers = 1 + static_cast<int64_t>(random() % 5), groups = int64_t{1} << random() % 3;
  const int64_t heads = groups * (1 + static_cast<int64_t>(random() % 2));
  const int64_t width = heads * (4 + 2 * static_cast<int64_t>(random() % 2));
  return Shape({{"num_layers", std::to_string(layers)},
                {"num_heads", std::to_string(heads)},
                {"num_kv_heads", std::to_string(heads / groups)},
                {"model_dim", std::to_string(width)},
                {"bigram_dim", any({width, 5})},
                {"bigram_vocab_size", any({0, 2, 23, 64})},
                {"xsa_last_n", any({0, layers, 1, (layers + 1) / 2})},
                {"tie_embeddings", any({0, 1})},
                {"reset_at_bos", any({0, 1})},
                {"rope_dims", any({0, 2})},
                {"smear", any({0, 1})},
                {"ln_scale", any({0, 1})},
                {"mlp_negative_slope", any({0, 1}) == "0" ? "0" : "0.5"}});
}

// Every parameter standard normal, matrices over the root of their width: no option hides behind zeros or ones.
inline NamedTensors RandomParameters(const Settings& settings, uint64_t seed = 3) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  NamedTensors parameters;
  for (const ParameterSpec& spec : ParameterSpecs(settings)) {
    const double scale = spec.shape.size() == 2 && spec.name.ends_with(".weight") ? 1 / std::sqrt(spec.shape[1]) : 1;
    parameters.emplace_back(spec.name, at::randn(spec.shape, generator, at::kFloat).mul(scale).to(spec.dtype));
  }
  return parameters;
}

// int64 [B, T], with a document's start (id 1) inside some sequences.
inline at::Tensor RandomIds(const Settings& settings, int64_t B, int64_t T, uint64_t seed = 4) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  at::Tensor ids = at::randint(0, settings.vocab_size, {B, T}, generator, at::kLong);
  if (T > 4) ids[B - 1][T / 2].fill_(1);
  ids[0][0].fill_(1);
  return ids;
}

inline NamedTensors WithGradients(NamedTensors parameters) {
  for (auto& [name, tensor] : parameters) tensor.set_requires_grad(true);
  return parameters;
}

}  // namespace fairway
