#include "common/model/packed_weights.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "common/model/ops/formulas.h"
#include "common/model/step_profile.h"
#include "common/quantise/steps.h"

namespace fairway {

WeightMemory::WeightMemory(const Plan& plan, const NamedTensors& parameters, const NamedTensors& gradients, Precision precision) {
  const auto memory = [](const NamedTensors& tensors, size_t i, Precision expected) -> Elements {
    const auto& [name, tensor] = tensors.at(i);
    if (tensor.scalar_type() != (expected == Precision::kBFloat16 ? at::kBFloat16 : at::kFloat) || !tensor.is_contiguous())
      throw std::invalid_argument(name + " is of another dtype, or not contiguous");
    return {tensor.data_ptr(), expected};
  };
  for (size_t i = 0; i < plan.weights.size(); ++i) {
    values_.push_back(memory(parameters, i, IsTable(plan.weights[i].role) ? precision : Precision::kFloat32));
    gradients_.push_back(gradients.empty() ? nullptr : memory(gradients, i, Precision::kFloat32).floats());
  }
}

const PackedLinear::Part& PackedLinear::part_of(int64_t& row) const {
  size_t i = 0;
  for (; row >= parts[i].rows; ++i) row -= parts[i].rows;
  return parts[i];
}

PackedWeights::PackedWeights(const Settings& settings, const Plan& plan, const WeightMemory& memory, bool training, int threads)
    : threads_(threads) {
  const Precision precision = settings.precision == "bfloat16" ? Precision::kBFloat16 : Precision::kFloat32;
  const auto packed = [&](const Linear& linear) {
    PackedLinear own{.rows = linear.rows, .columns = linear.columns, .constant = static_cast<float>(linear.constant)};
    for (const int number : linear.weights) {
      const Weight& weight = plan.weights[number];
      own.parts.push_back({.name = weight.name, .weight = memory.elements(number), .rows = weight.shape[0], .grid = std::nullopt});
      if (float* gradient = memory.gradient(number); gradient != nullptr)
        for (int64_t row = 0; row < weight.shape[0]; ++row) own.gradient_rows.push_back(gradient + row * linear.columns);
      if (IsTable(weight.role)) continue;
      if (const std::optional<Grid> grid = TrainingGrid(weight.name, weight.shape[0], weight.shape[1], settings))
        own.parts.back().grid = FakeGrid{.q_min = static_cast<float>(grid->q_min),
                                         .q_max = static_cast<float>(grid->q_max),
                                         .least = settings.published_quirks ? static_cast<float>(1.0 / grid->q_max) : 0x1p-24f,
                                         .stored = !settings.published_quirks,
                                         .exact_codes = *grid == kInt8};
    }
    if (linear.scale != kNone) {
      own.scale = memory.value(linear.scale);
      own.scale_gradient = memory.gradient(linear.scale);
      own.scale_stride = plan.weights[linear.scale].shape.empty() ? 0 : 1;
    }
    return own;
  };
  for (const LayerPlan& layer : plan.layers) {
    layers.push_back({.qkv = packed(layer.qkv),
                      .attn_proj = packed(layer.attn_proj),
                      .mlp_fc = packed(layer.mlp_fc),
                      .mlp_proj = packed(layer.mlp_proj)});
  }
  if (!plan.bigram_proj.weights.empty()) bigram_proj = packed(plan.bigram_proj);
  head = packed(plan.head);
  const auto place = [&](char* all_memory) {
    Planner planner(all_memory);
    for (PackedLinear* linear : Linears()) {
      linear->forward = planner.Take(linear->columns, linear->rows, precision);
      if (training) linear->backward = planner.Take(linear->rows, linear->columns, precision);
    }
    return planner.used();
  };
  memory_.Reserve(place(nullptr));
  place(memory_.data());
}

std::vector<PackedLinear*> PackedWeights::Linears() {
  std::vector<PackedLinear*> linears;
  for (Layer& layer : layers)
    for (PackedLinear* linear : {&layer.qkv, &layer.attn_proj, &layer.mlp_fc, &layer.mlp_proj}) linears.push_back(linear);
  if (bigram_proj) linears.push_back(&*bigram_proj);
  linears.push_back(&head);
  return linears;
}

std::vector<const PackedLinear*> PackedWeights::all() const {
  const std::vector<PackedLinear*> linears = const_cast<PackedWeights*>(this)->Linears();
  return {linears.begin(), linears.end()};
}

void PackedWeights::FixSteps(const FixedSteps& steps) {
  steps_ = steps;
  for (PackedLinear* linear : Linears()) {
    for (PackedLinear::Part& part : linear->parts) {
      const auto own = steps_.find(part.name);
      part.grid.reset();
      if (own != steps_.end())
        part.grid = FakeGrid{.q_min = -kLargestCode,
                             .q_max = kLargestCode,
                             .steps = own->second.rows.const_data_ptr<float>(),
                             .factors = own->second.columns.const_data_ptr<float>()};
    }
  }
}

int64_t PackedWeights::Prepare(bool fake_quantise, StepProfile* profile) {
  fake_quantise_ = fake_quantise;
  int64_t rounded = 0;
  struct Task {
    const PackedLinear* linear;
    Rows rows;
  };
  std::vector<Task> tasks;
  for (const PackedLinear* linear : all()) {
    for (const PackedLinear::Part& part : linear->parts) rounded += fake_quantise && part.grid;
    for (int64_t row = 0; row < linear->rows; row += kPanel) tasks.push_back({linear, {row, std::min(row + kPanel, linear->rows)}});
  }
  RunTeam(threads_, [&](const Team& team) {
    StepClock clock(team.rank == 0 ? profile : nullptr);
    std::vector<float> block;
    const Rows mine = team.Share(static_cast<int64_t>(tasks.size()));
    for (int64_t i = mine.first; i < mine.last; ++i) {
      const PackedLinear& linear = *tasks[i].linear;
      const Rows rows = tasks[i].rows;
      block.resize(kPanel * linear.columns);
      for (int64_t row = rows.first; row < rows.last; ++row) {
        float* to = block.data() + (row - rows.first) * linear.columns;
        Row(linear, row, to);
        if (!linear.scaled()) continue;
        const float scale = linear.ScaleOf(row);
        for (int64_t j = 0; j < linear.columns; ++j) to[j] *= scale;
      }
      PackTransposed(Floats(block.data()), linear.columns, linear.forward, rows);
      if (linear.backward.words != nullptr) PackRows(Floats(block.data()), linear.columns, linear.backward, rows);
    }
    clock.Done(StepProfile::kWeights);
  });
  return rounded;
}

// A row of the weight as float32, on its training grid where that is on.
void PackedWeights::Row(const PackedLinear& linear, int64_t row, float* to) const {
  const PackedLinear::Part& part = linear.part_of(row);
  const Elements from = part.weight + row * linear.columns;
  if (from.precision == Precision::kBFloat16) {
    const auto* elements = static_cast<const BFloat16*>(from.data);
    for (int64_t j = 0; j < linear.columns; ++j) to[j] = formula::FromBFloat16(elements[j].bits);
  } else if (fake_quantise_ && part.grid) {
    FakeGrid grid = *part.grid;
    if (grid.steps != nullptr) grid.steps += row;
    FakeQuantiseRows(grid, linear.columns, from.floats(), to, {0, 1});
  } else {
    std::memcpy(to, from.data, linear.columns * sizeof(float));
  }
}

// Makes the row's gradient that of the weight; returns the gradient of its scale.
float PackedWeights::FinishRow(const PackedLinear& linear, int64_t row, std::vector<float>& weight) const {
  weight.resize(linear.columns);
  Row(linear, row, weight.data());
  float* gradient = linear.gradient_rows[row];
  const float scale = linear.ScaleOf(row);
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < linear.columns; ++j) {
    sum += weight[j] * gradient[j];
    gradient[j] *= scale;
  }
  return sum;
}

void PackedWeights::FinishShare(const Team& team, const PackedLinear& linear, std::vector<float>& weight) const {
  if (!linear.scaled()) return;
  const Rows rows = team.Share(linear.rows);
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const float sum = FinishRow(linear, row, weight);
    if (linear.scale != nullptr) linear.scale_gradient[row] += sum;
  }
}

void PackedWeights::Finish(const std::vector<const PackedLinear*>& matrices, StepProfile* profile) const {
  std::vector<float> of_one_scale(threads_);
  float* one_scale_gradient = nullptr;
  for (const PackedLinear* linear : matrices)
    if (linear->scale != nullptr && linear->scale_stride == 0) one_scale_gradient = linear->scale_gradient;
  RunTeam(threads_, [&](const Team& team) {
    StepClock clock(team.rank == 0 ? profile : nullptr);
    std::vector<float> weight;
    for (const PackedLinear* linear : matrices) {
      if (linear->scale == nullptr || linear->scale_stride != 0) {
        FinishShare(team, *linear, weight);
        continue;
      }
      const Rows rows = team.Share(linear->rows);
      for (int64_t row = rows.first; row < rows.last; ++row) of_one_scale[team.rank] += FinishRow(*linear, row, weight);
    }
    clock.Done(StepProfile::kWeights);
  });
  if (one_scale_gradient != nullptr)
    for (float part : of_one_scale) *one_scale_gradient += part;
}

}  // namespace fairway
