// Weights as the CPU engine's products take them: packed in both directions, rounded to their training grid and multiplied by the
// scales that the plan folds into them; and back from the gradients of the products to those of the weights.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/model/activations.h"
#include "common/model/ops/fake_quantise.h"
#include "common/model/ops/team.h"
#include "common/model/step_profile.h"
#include "common/model/transformer.h"

namespace fairway {

// Where a weight lies in memory, and its gradient.
class WeightMemory {
 public:
  // Throws std::invalid_argument where a tensor has another dtype than the plan says, or is not contiguous.
  WeightMemory(const Plan& plan, const NamedTensors& parameters, const NamedTensors& gradients, Precision precision);
  // Null of kNone; gradients are null where there is no training.
  const float* value(int weight) const { return weight == kNone ? nullptr : values_[weight].floats(); }
  Elements elements(int weight) const { return weight == kNone ? Elements{} : values_[weight]; }
  float* gradient(int weight) const { return weight == kNone ? nullptr : gradients_[weight]; }

 private:
  std::vector<Elements> values_;
  std::vector<float*> gradients_;
};

// A linear layer of the plan.
struct PackedLinear {
  struct Part {
    std::string name;
    Elements weight;
    int64_t rows;
    std::optional<FakeGrid> grid;
  };
  std::vector<Part> parts;
  int64_t rows = 0, columns = 0;
  // Of each row, scale_stride floats apart (0: one for all); null: no scale.
  const float* scale = nullptr;
  float* scale_gradient = nullptr;
  int64_t scale_stride = 1;
  float constant = 1;                 // of all rows, without a gradient
  Panels forward;                     // [columns, rows]: A W^T
  Panels backward;                    // [rows, columns]: dA = dOut W
  std::vector<float*> gradient_rows;  // where each row of the gradient lies

  bool scaled() const { return scale != nullptr || constant != 1; }
  float ScaleOf(int64_t row) const { return scale != nullptr ? scale[row * scale_stride] : constant; }
  const Part& part_of(int64_t& row) const;  // and the row's number in it
};

class PackedWeights {
 public:
  struct Layer {
    PackedLinear qkv, attn_proj, mlp_fc, mlp_proj;
  };

  PackedWeights(const Settings& settings, const Plan& plan, const WeightMemory& memory, bool training, int threads);

  // Packs the weights as they are now; returns how many were rounded.
  int64_t Prepare(bool fake_quantise, StepProfile* profile);
  // From the next Prepare on, the matrices that are rounded are those named here, on these steps.
  void FixSteps(const FixedSteps& steps);

  // From the gradients of the scaled weights to those of weights and scales: of these matrices, in one team.
  void Finish(const std::vector<const PackedLinear*>& matrices, StepProfile* profile) const;
  // The same of one matrix inside a team, whose member does its share of the rows. Not of one scale for all rows.
  void FinishShare(const Team& team, const PackedLinear& linear, std::vector<float>& weight) const;
  std::vector<const PackedLinear*> all() const;

  std::vector<Layer> layers;
  std::optional<PackedLinear> bigram_proj;
  PackedLinear head;  // the output layer: the token table where embeddings are tied

 private:
  std::vector<PackedLinear*> Linears();
  void Row(const PackedLinear& linear, int64_t row, float* to) const;
  float FinishRow(const PackedLinear& linear, int64_t row, std::vector<float>& weight) const;

  const int threads_;
  bool fake_quantise_ = false;
  FixedSteps steps_;  // what the parts' grids point into
  Workspace memory_;
};

}  // namespace fairway
