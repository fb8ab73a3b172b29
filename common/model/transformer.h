// The transformer of specification 1, sections 2 and 3: U-net skips, grouped-query attention, exclusive self attention on
// the last layers, smear gate, hashed bigrams, tied embeddings, softcapped logits.
//
// Shapes: B sequences, T positions, D model_dim, H heads, d = D/H, V vocab_size. Plain ATen operations; gradients come from
// autograd where a parameter requires them.
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
#include "common/quantise/grid.h"
#include "common/settings/settings.h"

namespace fairway {

// Tensors by name, in the model's order (specification 1, section 2; the order of the published script).
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

struct ParameterSpec {
  std::string name;
  std::vector<int64_t> shape;
  at::ScalarType dtype;  // storage: float32, the embeddings bfloat16 under precision=bfloat16
};

// Every parameter of the model that `settings` describe.
std::vector<ParameterSpec> ParameterSpecs(const Settings& settings);

// Whether the parameter `name` is a table of embeddings, whose rows are looked up: no linear layer's weight.
bool IsTable(std::string_view name);

// cos and sin of specification 1, section 3, each [positions, d/2] in the compute dtype. Under rope_dims only the first rope_dims/2
// pairs turn, with the frequencies of a head of that size; the angle of the others is 0. (A pair is dimensions i and i + d/2; where
// the field rotates a head's first rope_dims dimensions, this is the same model with the rows of c_q and c_k in another order.)
struct Rotary {
  at::Tensor cos, sin;
};
// For the positions first … first + positions - 1; far from 0 angles are float64, or they would be rounded to nothing.
Rotary RotaryTables(const Settings& settings, int64_t positions, int64_t first = 0);

// What ln_scale multiplies the normed input of block `layer`'s attention and MLP by: 1 / sqrt(layer + 1), or 1 where it is off.
double InputScale(const Settings& settings, int64_t layer);

// The grid that late quantisation-aware training rounds the linear weight `name` to, if any: its export's; under published_quirks the
// published int6 for every matrix (specification 3, row 7). Where a budget chooses the export's steps: none, until FixSteps gives it.
std::optional<Grid> TrainingGrid(const std::string& name, const at::Tensor& weight, const Settings& settings);

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

  // ids: int64 [B, T] -> softcapped logits [B, T, V]; the embeddings' dtype.
  at::Tensor Logits(const at::Tensor& ids) const;
  // Mean cross-entropy in nats over all positions, a float32 scalar. targets: int64 [B, T].
  at::Tensor Loss(const at::Tensor& ids, const at::Tensor& targets) const;
  // The same before the mean: float32 [B, T]. For scoring.
  at::Tensor TokenLosses(const at::Tensor& ids, const at::Tensor& targets) const;

  const NamedTensors& parameters() const { return parameters_; }
  at::Tensor parameter(const std::string& name) const;

  // Late quantisation-aware training: while on, in passes that record gradients, matrices with an export grid go
  // through it (specification 1, section 4; published_quirks: every matrix, on the published grid). Returns how many matrices that are.
  int64_t SetFakeQuantisation(bool on);
  // From now on, these matrices go through these steps, and no others do.
  void FixSteps(const FixedSteps& steps);
  // From now on, hears the name, the weight and the input [B, T, in] of every linear layer that is passed. The tied output
  // layer is none.
  using Observer = std::function<void(const std::string&, const at::Tensor&, const at::Tensor&)>;
  void Observe(Observer observer) { observer_ = std::move(observer); }

  // How often a matrix was replaced so far: one a matrix and forward pass.
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
  struct Layer {
    at::Tensor attn_scale, mlp_scale, resid_mix, q_gain;
    Matrix c_q, c_k, c_v, attn_proj, mlp_fc, mlp_proj;
    bool exclusive;
    double scale;  // of the normed inputs
  };
  Matrix MatrixOf(const std::string& name) const;
  std::vector<Matrix*> Matrices();
  at::Tensor Linear(const at::Tensor& x, const Matrix& matrix) const;
  at::Tensor Embed(const at::Tensor& ids) const;
  at::Tensor Block(const Layer& layer, at::Tensor x, const at::Tensor& x0, const Rotary& rotary) const;
  at::Tensor Attention(const Layer& layer, const at::Tensor& u, const Rotary& rotary) const;

  Settings settings_;
  NamedTensors parameters_;
  std::vector<Layer> layers_;
  std::optional<Matrix> bigram_proj_, lm_head_;
  at::ScalarType compute_;
  bool fake_quantise_ = false;
  Observer observer_;
  mutable int64_t fake_quantisations_ = 0;
};

// The weights of a WEIGHTS or QUANTISED checkpoint as parameters for `settings` (codes dequantised, everything cast to its
// storage dtype). Throws InputError listing missing and unexpected tensors, or a tensor of another shape.
NamedTensors LoadParameters(const CheckpointReader& checkpoint, const Settings& settings);

}  // namespace fairway
