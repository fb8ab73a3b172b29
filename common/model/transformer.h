// The transformer that plan.h describes, written out in plain ATen operations: U-net skips, grouped-query attention, exclusive self
// attention, smear gates, hashed bigrams, tied embeddings, softcapped logits (openai/parameter-golf pull request 531), and looped
// layers, skip gates, attention gates, residual lanes and packed documents (pull request 1855). Engines are tested against it.
//
// Shapes: B sequences, T positions, D model_dim, H heads, d = D/H, V vocab_size. Gradients come from autograd where a parameter
// requires them.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/checkpoint/checkpoint.h"
#include "common/plan/plan.h"
#include "common/quantise/grid.h"
#include "common/settings/settings.h"

namespace fairway {

// Tensors by name, in the plan's order.
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

struct ParameterSpec : Weight {
  at::ScalarType dtype;  // storage: float32, the embeddings bfloat16 under precision=bfloat16
};

// Every parameter of the model that `settings` describe, in the plan's order.
std::vector<ParameterSpec> ParameterSpecs(const Settings& settings);

// cos and sin of the rotary embedding, float32 [positions, plan.rotated / 2], for the positions first … first + positions - 1; far
// from 0 angles are float64, or they would be rounded to nothing. Dimension pair i of the `rotated` leading ones turns by position
// * rope_base^(-2i / rotated). Under bfloat16 and published_quirks they are rounded as the published entry does.
struct Rotary {
  at::Tensor cos, sin;
};
Rotary RotaryTables(const Settings& settings, int64_t positions, int64_t first = 0);

// The grid that late quantisation-aware training rounds the linear weight `name` to, if any: its export's; under published_quirks
// the published int6 for every matrix (a quirk of pull request 531). Where a budget chooses the export's steps: none, until
// FixSteps gives it.
std::optional<Grid> TrainingGrid(const std::string& name, int64_t rows, int64_t columns, const Settings& settings);

// The steps of linear weights, by name (common/quantise/steps.h): an element's is rows[r] * columns[c]; codes go to +-kLargestCode.
// float32 [rows] and [columns], where the weights are.
struct TensorSteps {
  at::Tensor rows, columns;
};
using FixedSteps = std::map<std::string, TensorSteps>;

class Transformer {
 public:
  // REQUIRES: settings.CheckModel() passed; `parameters` as ParameterSpecs says (names, order, shapes, dtypes).
  Transformer(const Settings& settings, NamedTensors parameters);

  // ids: int64 [B, T] -> softcapped logits [B, T, V]; the embeddings' dtype. With `starts`, positions of each row where segments begin
  // (the first is 0), attention stays inside a segment.
  at::Tensor Logits(const at::Tensor& ids, const std::vector<int64_t>& starts = {}) const;
  // Mean cross-entropy in nats over all positions, a float32 scalar. targets: int64 [B, T].
  at::Tensor Loss(const at::Tensor& ids, const at::Tensor& targets, const std::vector<int64_t>& starts = {}) const;
  // The same before the mean: float32 [B, T]. For scoring.
  at::Tensor TokenLosses(const at::Tensor& ids, const at::Tensor& targets, const std::vector<int64_t>& starts = {}) const;

  // Whether passes visit the looped segment num_loops + 1 times. At first they do, where the model has loops.
  void SetLooped(bool looped) { looped_ = looped; }

  const NamedTensors& parameters() const { return parameters_; }
  at::Tensor parameter(const std::string& name) const;

  // What is added to a linear layer's output, by its input: of a visit's queries, keys, values, attention output (whose adapter
  // reads the block's normed input) and MLP (likewise), and of the logits before their softcap (visit 0, the final normed stream).
  // Undefined: nothing.
  enum class AdapterTarget { kQuery, kKey, kValue, kAttentionOutput, kMlp, kHead };
  using Adapter = std::function<at::Tensor(AdapterTarget target, size_t visit, const at::Tensor& input)>;
  void Adapt(Adapter adapter) { adapter_ = std::move(adapter); }

  // Late quantisation-aware training: while on, in passes that record gradients, matrices with an export grid go
  // through it (pull request 531; published_quirks: every matrix, on the published grid). Returns how many matrices that are.
  int64_t SetFakeQuantisation(bool on);
  // From now on, these matrices go through these steps, and no others do.
  void FixSteps(const FixedSteps& steps);
  // Called from now on with the name, the weight and the input [B, T, in] of every linear layer that is computed, the output
  // layer among them; where that is tied, under the token embedding's name.
  using Observer = std::function<void(const std::string&, const at::Tensor&, const at::Tensor&)>;
  void Observe(Observer observer) { observer_ = std::move(observer); }

  // How often a matrix was replaced so far: once per matrix and forward pass.
  int64_t fake_quantisations() const { return fake_quantisations_; }

 private:
  // A linear layer's weight [out, in] and the grid that late quantisation-aware training rounds it to.
  struct Matrix {
    std::string name;
    at::Tensor weight;
    std::optional<Grid> grid;
    std::optional<TensorSteps> steps;  // where they are fixed
    bool rounded() const { return grid || steps; }
  };
  const at::Tensor& of(int weight) const { return parameters_[weight].second; }
  Matrix MatrixOf(int weight) const;
  std::vector<Matrix*> Matrices();
  at::Tensor Linear(const at::Tensor& x, int weight) const;
  at::Tensor Embed(const at::Tensor& ids) const;
  at::Tensor Adapted(at::Tensor output, AdapterTarget target, size_t visit, const at::Tensor& input) const;
  at::Tensor Attention(size_t visit, const at::Tensor& ids, const at::Tensor& n, const Rotary& rotary, const std::vector<int64_t>& starts) const;
  at::Tensor Mlp(size_t visit, const at::Tensor& n) const;
  const LayerPlan& LayerOf(size_t visit) const { return plan_.layers[plan_.visits(looped_)[visit].layer]; }

  Settings settings_;
  Plan plan_;
  NamedTensors parameters_;
  std::vector<std::optional<Matrix>> matrices_;  // of each weight that is a linear layer's
  bool looped_;
  at::ScalarType compute_;
  bool fake_quantise_ = false;
  Observer observer_;
  Adapter adapter_;
  mutable int64_t fake_quantisations_ = 0;
};

// The weights of a WEIGHTS or QUANTISED checkpoint as parameters for `settings` (codes dequantised, everything cast to its
// storage dtype). Throws InputError listing missing and unexpected tensors, or a tensor of another shape.
NamedTensors LoadParameters(const CheckpointReader& checkpoint, const Settings& settings);

}  // namespace fairway
