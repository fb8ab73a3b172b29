// Models of a few hundred weights, drawn at random, on both sides of every option of the shape.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include <map>
#include <functional>
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

// Every option of the model's structure, each away from its value in Shape({}); tests of every engine go through this list. A new
// option is added here and nowhere else.
inline std::vector<Options> EveryOption() {
  const Options loops{{"num_loops", "2"}, {"loop_start", "1"}, {"loop_end", "1"}};
  const Options lanes{{"num_layers", "4"}, {"parallel_start_layer", "2"}};
  std::vector<Options> all{
      {{"tie_embeddings", "0"}},
      {{"bigram_vocab_size", "0"}},
      {{"bigram_vocab_size", "2"}},
      {{"bigram_dim", "16"}},
      {{"bigram_dim", "40"}},
      {{"xsa_last_n", "0"}},
      {{"xsa_last_n", "3"}},
      {{"reset_at_bos", "1"}},
      {{"rope_dims", "2"}},
      {{"smear", "0"}},
      {{"ln_scale", "1"}},
      {{"mlp_negative_slope", "0.5"}},
      loops,
      {{"num_loops", "1"}, {"loop_start", "0"}, {"loop_end", "2"}},
      {{"skip_gates_enabled", "1"}},
      lanes,
      {{"sparse_attn_gate_enabled", "1"}, {"sparse_attn_gate_scale", "0.5"}, {"gate_window", "5"}},
      {{"smear_gate_enabled", "1"}, {"smear", "0"}, {"bigram_vocab_size", "0"}, {"gate_window", "5"}},
  };
  for (const char* lane : {"attn", "mlp"}) {
    Options one = lanes;
    one["parallel_final_lane"] = lane;
    all.push_back(one);
  }
  all.push_back({{"value_embed_every", "2"}});
  return all;
}

inline std::string NameOf(const Options& options) {
  std::string name;
  for (const auto& [setting, value] : options) name += (name.empty() ? "" : " ") + setting + "=" + value;
  return name;
}

// The shapes with one option of EveryOption, and those with two of them that a model can have together; without the shapes for which
// `takes` is false.
inline std::vector<Options> OptionsAlone(const std::function<bool(const Options&)>& takes = {}) {
  std::vector<Options> alone{{}};
  for (const Options& option : EveryOption())
    if (!takes || takes(option)) alone.push_back(option);
  return alone;
}
inline std::vector<Options> OptionsInPairs(const std::function<bool(const Options&)>& takes = {}) {
  std::vector<Options> pairs;
  const std::vector<Options> alone = OptionsAlone(takes);
  for (size_t i = 1; i < alone.size(); ++i) {
    for (size_t j = i + 1; j < alone.size(); ++j) {
      Options both = alone[i];
      bool agree = true;
      for (const auto& [name, value] : alone[j]) agree = agree && both.try_emplace(name, value).first->second == value;
      if (agree && !(both.contains("smear_gate_enabled") && both["bigram_vocab_size"] != "0")) pairs.push_back(both);
    }
  }
  return pairs;
}

// Some shape or other: sizes at random, and about a quarter of the options.
inline Options RandomOptions(uint64_t seed, const std::function<bool(const Options&)>& takes = {}) {
  std::mt19937_64 random(seed);
  const auto any = [&](const std::vector<int64_t>& values) { return std::to_string(values[random() % values.size()]); };
  const int64_t layers = 3 + static_cast<int64_t>(random() % 3), groups = int64_t{1} << random() % 3;
  const int64_t heads = groups * (1 + static_cast<int64_t>(random() % 2));
  const int64_t width = heads * (4 + 2 * static_cast<int64_t>(random() % 2));
  Options options{{"num_layers", std::to_string(layers)},
                  {"num_heads", std::to_string(heads)},
                  {"num_kv_heads", std::to_string(heads / groups)},
                  {"model_dim", std::to_string(width)},
                  {"bigram_dim", any({width, 5})},
                  {"bigram_vocab_size", any({0, 2, 23, 64})},
                  {"xsa_last_n", any({0, layers, 1, (layers + 1) / 2})},
                  {"gate_window", "4"}};
  for (const Options& option : EveryOption()) {
    if ((takes && !takes(option)) || random() % 4 != 0) continue;
    for (const auto& [name, value] : option)
      if (name != "num_layers" && name != "xsa_last_n" && name != "bigram_dim" && name != "gate_window") options[name] = value;
  }
  if (options.contains("smear_gate_enabled")) options["smear"] = options["bigram_vocab_size"] = "0";
  if (options.contains("loop_end")) options["loop_end"] = std::to_string(std::min<int64_t>(std::stoll(options["loop_end"]), layers - 1));
  return options;
}
inline Settings RandomShape(uint64_t seed, const std::function<bool(const Options&)>& takes = {}) { return Shape(RandomOptions(seed, takes)); }

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
