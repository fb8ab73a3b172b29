// The inside of the CPU's engine, for its own files alone:
//   cpu_engine.cc    weights, chunks of segments and their buffers; training and scoring
//   cpu_forward.cc   the operations of the forward pass
//   cpu_backward.cc  those of the backward pass
//   cpu_continue.cc  scoring a text call by call, behind the keys and values that are kept of it
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/model/activations.h"
#include "common/model/cpu_engine.h"
#include "common/model/ops/attention_gate.h"
#include "common/model/ops/lanes.h"
#include "common/model/ops/mix_norm.h"
#include "common/model/ops/qk.h"
#include "common/model/ops/smear_gate.h"
#include "common/model/ops/team.h"
#include "common/model/packed_weights.h"
#include "common/model/vector_gradients.h"

namespace fairway {

constexpr int64_t kBlockRows = 252;  // that go through a layer together: they stay in a core's own cache

inline Elements At(Elements rows, int64_t stride, Rows range) { return rows + range.first * stride; }
inline Rows All(int64_t n) { return {0, n}; }

// Calls work(rows) for one block of the rows after the other.
template <class Work>
void EachBlock(Rows rows, Work work) {
  for (int64_t first = rows.first; first < rows.last; first += kBlockRows)
    work(Rows{first, std::min(first + kBlockRows, rows.last)});
}

class CpuEngine::Impl {
 public:
  Impl(const Settings& settings, NamedTensors parameters, NamedTensors gradients);

  int64_t Prepare(bool fake_quantise);
  // With `on_block` the gradients are finished with the last chunk.
  double AccumulateGradients(std::span<const Segment> segments, double share, const OnBlock* on_block = nullptr);
  void TokenLosses(std::span<const Segment> segments, int64_t first, float* losses);
  void ContinueLosses(const uint16_t* tokens, int64_t count, int64_t past, float* losses);

  StepProfile* profile = nullptr;
  std::function<void()> between_chunks;
  bool looped;

 private:
  friend class CpuEngine;
  class Pass;

  const std::vector<Visit>& visits() const { return plan_.visits(looped); }
  void Begin(std::span<const Segment> segments, bool training);
  void BeginWithPast(const uint16_t* tokens, int64_t count, int64_t past);
  int64_t qkv() const { return (plan_.H + 2 * plan_.Hkv) * plan_.d; }
  int64_t Stride(int64_t width) const { return RowStride(precision_, width); }
  // Of two lanes, lane 0's share in what the output is computed from; the rest is lane 1's.
  float Lane0Share() const { return settings_.parallel_final_lane == "attn" ? 1.0f : settings_.parallel_final_lane == "mlp" ? 0.0f : 0.5f; }

  const Settings settings_;
  const NamedTensors parameters_, gradients_;
  const Plan plan_;
  const Precision precision_;
  const int threads_;
  const float negative_slope_;
  const WeightMemory memory_;
  PackedWeights weights_;
  std::vector<float> smear_;       // sigmoid(smear.gate); 0 where there is none
  std::vector<float> skip_gates_;  // sigmoid(skip_gates)
  Rotary rotary_;
  int64_t rotary_positions_ = 0;
  std::vector<VectorGradients> vectors_;  // of each thread
  Workspace workspace_;
  Activations a_{};
  QkShape heads_{};
  std::vector<Rows> segments_;   // of the chunk
  std::vector<float> before_;    // the row before the chunk's first, where it is seen: x1 [D], or empty
  int32_t before_id_ = 0;        // and its token

  // The text that ContinueLosses continues.
  struct Text {
    int64_t position = 0;                // of the next token
    int64_t rows = 0;                    // of each visit's memory that are in use
    std::vector<std::vector<char>> qkv;  // of each visit: elements [2 or more windows, (H + 2 Hkv) d], the last position last
    std::vector<float> before;           // x1 of the position before, [D]
    Workspace workspace;
    Rotary rotary;
  };
  Text text_;
  int64_t past_ = 0;  // positions before a segment's first whose keys and values lie before its own
};

// One thread's part of a pass over the chunk: the backend of schedule.h.
class CpuEngine::Impl::Pass {
 public:
  // Positions of a segment before `first` are not scored. `on_block` is called in the last backward pass of a step.
  Pass(Impl& engine, const Team& team, int64_t first, const OnBlock* on_block = nullptr)
      : e_(engine),
        plan_(engine.plan_),
        a_(engine.a_),
        vectors_(engine.vectors_[team.rank]),
        team_(team),
        clock_(team.rank == 0 ? engine.profile : nullptr),
        mine_(team.Share(a_.N, 2)),
        first_(first),
        on_block_(on_block),
        D(plan_.D),
        S(engine.qkv()),
        F(engine.Stride(plan_.F)) {}

  void Embed();
  void AttentionInput(size_t v);
  void Attention(size_t v);
  void Output(size_t v);
  void Score();
  void HeadWithGradients(float share);
  void OutputBackward(size_t v);
  void AttentionBackward(size_t v);
  void AttentionInputBackward(size_t v);
  void LayerDone(int64_t layer);
  void EmbedBackward();

 private:
  void Wait() {
    team_.Wait();
    clock_.Done(StepProfile::kWait);
  }
  const Visit& visit(size_t v) const { return e_.visits()[v]; }
  const LayerPlan& layer(size_t v) const { return plan_.layers[visit(v).layer]; }
  const PackedWeights::Layer& weights(size_t v) const { return e_.weights_.layers[visit(v).layer]; }
  // Positions of visit v that are computed behind its keys and values.
  int64_t FirstOf(size_t v) const { return v + 1 == e_.visits().size() ? first_ : 0; }
  // Calls work(rows) for this thread's rows at positions from `first` on, block by block.
  template <class Work>
  void EachFrom(int64_t first, Work work) const {
    if (first == 0) return EachBlock(mine_, work);
    for (const Rows& segment : e_.segments_) {
      const Rows rows{std::max(mine_.first, segment.first + first), std::min(mine_.last, segment.last)};
      if (rows.first < rows.last) EachBlock(rows, work);
    }
  }
  MixNorm InputOf(size_t v) const;
  Residual CarriesOf(size_t v) const { return visit(v).lanes ? Residual::kInput : Residual::kMixed; }
  MixNorm MiddleOf(size_t v) const { return {.D = D, .x = visit(v).lanes ? Lane1(v) : a_.saved[v].residual}; }
  // What the MLP of a lane visit reads.
  const float* Lane1(size_t v) const { return visit(v).enters_lanes ? a_.x[v] : a_.lane1[v]; }
  Lanes LanesOf(size_t v) const;
  AttentionGate GateOf(size_t v) const;
  SmearGate SmearOf() const;
  // Where the stream's gradient is written as elements: nowhere where it is made of them.
  Elements StreamCopy() const { return e_.precision_ == Precision::kFloat32 ? Elements{} : a_.dx_elements; }
  void WeightGradient(const PackedLinear& linear, const Panels& dout, const Panels& in);
  void TellOfLayer();

  Impl& e_;
  const Plan& plan_;
  Activations& a_;
  VectorGradients& vectors_;
  const Team& team_;
  StepClock clock_;
  const Rows mine_;
  const int64_t first_;
  const OnBlock* on_block_;
  int64_t done_ = -1;  // a layer that is done, once all threads have come here
  const int64_t D, S, F;
};

}  // namespace fairway
