// What tests of engines share: batches of random tokens, and gradients to compare.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "tests/common/model/formula.h"
#include "tests/common/model/shapes.h"

namespace fairway {

// Sequences of T + 1 tokens, as the stream gives them, and the same as tensors.
struct Batch {
  Batch(const Settings& settings, int64_t B, int64_t T, uint64_t seed = 4) {
    const at::Tensor all = RandomIds(settings, B, T + 1, seed);
    ids = all.narrow(1, 0, T).contiguous();
    targets = all.narrow(1, 1, T).contiguous();
    const int64_t* from = all.const_data_ptr<int64_t>();
    tokens.assign(from, from + all.numel());
    for (int64_t b = 0; b < B; ++b) sequences.push_back(tokens.data() + b * (T + 1));
  }
  at::Tensor ids, targets;
  std::vector<uint16_t> tokens;
  std::vector<const uint16_t*> sequences;
};

inline NamedTensors ZerosLike(const NamedTensors& parameters) {
  NamedTensors zeros;
  for (const auto& [name, tensor] : parameters) zeros.emplace_back(name, at::zeros(tensor.sizes(), at::kFloat));
  return zeros;
}

// Steps for every linear layer: rows and columns differ, and the largest weights are clamped.
inline FixedSteps SomeSteps(const NamedTensors& parameters) {
  FixedSteps steps;
  for (const auto& [name, tensor] : parameters) {
    if (tensor.dim() != 2 || !name.ends_with(".weight") || IsTable(RoleOf(name))) continue;
    const at::Tensor largest = tensor.to(at::kFloat).abs().amax(1) / 100;
    steps[name] = {largest * at::arange(1, tensor.size(0) + 1, at::kFloat) / tensor.size(0),
                   at::arange(2, tensor.size(1) + 2, at::kFloat).reciprocal() * tensor.size(1)};
  }
  return steps;
}

struct Computed {
  double loss;  // the mean
  NamedTensors gradients;
  int64_t rounded;  // matrices, to their export grid
};

// The plain composition's.
inline Computed ComputePlainly(const Settings& settings, const NamedTensors& parameters, const Batch& batch,
                               bool fake_quantise = false, const FixedSteps& steps = {}) {
  Transformer plain(settings, WithGradients(parameters));
  if (!steps.empty()) plain.FixSteps(steps);
  Computed result{.loss = 0, .gradients = {}, .rounded = fake_quantise ? plain.SetFakeQuantisation(true) : 0};
  const at::Tensor loss = plain.Loss(batch.ids, batch.targets);
  loss.backward();
  result.loss = loss.item<double>();
  for (const auto& [name, tensor] : plain.parameters()) result.gradients.emplace_back(name, tensor.grad());
  return result;
}

inline NamedTensors FormulaGradients(const Formula& formula, const NamedTensors& parameters) {
  NamedTensors gradients;
  for (const auto& [name, tensor] : parameters) gradients.emplace_back(name, formula.parameter(name).grad());
  return gradients;
}

// Apart by at most `tolerance` of a tensor's largest element.
inline void ExpectGradients(const NamedTensors& ours, const NamedTensors& theirs, double tolerance) {
  constexpr double kNothing = 1e-6;
  for (size_t i = 0; i < ours.size(); ++i) {
    const at::Tensor expected = theirs[i].second;
    if (!expected.defined() || expected.numel() == 0) {
      EXPECT_TRUE(ours[i].second.numel() == 0 || ours[i].second.abs().max().item<double>() == 0) << ours[i].first;
      continue;
    }
    const double largest = expected.abs().max().item<double>();
    EXPECT_LE((ours[i].second - expected).abs().max().item<double>(), tolerance * largest + kNothing)
        << ours[i].first << " of up to " << largest;
  }
}

// The settings of the model that are not at their defaults.
inline std::string ShapeOf(const Settings& settings, int64_t B, int64_t T) {
  std::string shape = "B " + std::to_string(B) + " T " + std::to_string(T);
  for (const auto& [name, value] : settings.NonDefault(scope::kModel)) shape += " " + name + " " + value;
  return shape;
}

}  // namespace fairway
