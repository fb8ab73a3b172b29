#include "common/model/cpu_engine.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "common/model/activations.h"
#include "common/model/memory.h"
#include "common/model/ops/attention.h"
#include "common/model/ops/attention_gate.h"
#include "common/model/ops/cross_entropy.h"
#include "common/model/ops/embed.h"
#include "common/model/ops/formulas.h"
#include "common/model/ops/lanes.h"
#include "common/model/ops/mix_norm.h"
#include "common/model/ops/product.h"
#include "common/model/ops/qk.h"
#include "common/model/ops/smear_gate.h"
#include "common/model/ops/team.h"
#include "common/model/ops/xsa.h"
#include "common/model/packed_weights.h"
#include "common/model/positions.h"
#include "common/model/schedule.h"
#include "common/tokens/shard_format.h"

namespace fairway {
namespace {

constexpr int64_t kRowsPerThread = 1024;  // of a chunk: its activations stay in the outer caches
constexpr int64_t kBlockRows = 252;       // that go through a layer together: they stay in a core's own cache

// Gradients of vectors and scalars add up per thread; this is one thread's share, by the weight's number in the plan.
class VectorGradients {
 public:
  explicit VectorGradients(const Plan& plan) : values_(plan.weights.size()) {
    for (size_t i = 0; i < plan.weights.size(); ++i) {
      const Role role = plan.weights[i].role;
      if (role == Role::kControl || role == Role::kAttentionGate) values_[i].resize(plan.weights[i].numel());
    }
    if (plan.parallel_resid != kNone) lanes.resize(plan.L);
  }
  void Clear() {
    for (std::vector<float>& values : values_) std::fill(values.begin(), values.end(), 0.0f);
    std::fill(lanes.begin(), lanes.end(), LaneSums{});
  }
  float* of(int weight) { return weight == kNone ? nullptr : values_[weight].data(); }

  // In the order of their weights, so that a number of threads gives one result.
  void AddTo(const Plan& plan, const WeightMemory& memory) {
    for (int64_t i = 0; i < static_cast<int64_t>(lanes.size()); ++i) {
      for (int k = 0; k < 2; ++k) of(plan.parallel_resid)[2 * i + k] += static_cast<float>(lanes[i].resid[k]);
      for (int k = 0; k < 4; ++k) of(plan.parallel_post)[4 * i + k] += static_cast<float>(lanes[i].post[k]);
    }
    for (size_t i = 0; i < values_.size(); ++i) {
      float* to = memory.gradient(static_cast<int>(i));
      for (size_t j = 0; j < values_[i].size(); ++j) to[j] += values_[i][j];
    }
  }

  struct LaneSums {  // products over all rows, in float64
    double resid[2] = {}, post[4] = {};
  };
  std::vector<LaneSums> lanes;

 private:
  std::vector<std::vector<float>> values_;
};

Elements At(Elements rows, int64_t stride, Rows range) { return rows + range.first * stride; }

// Calls work(rows) for one block of the rows after the other.
template <class Work>
void EachBlock(Rows rows, Work work) {
  for (int64_t first = rows.first; first < rows.last; first += kBlockRows)
    work(Rows{first, std::min(first + kBlockRows, rows.last)});
}

Rows All(int64_t n) { return {0, n}; }

// How many of the segments from `first` on are computed together. Attention is dealt out by segment and key/value head.
template <class LengthOf>
int64_t ChunkOf(const Settings& s, int64_t threads, int64_t first, int64_t all, LengthOf length_of) {
  if (s.micro_batch_seqs > 0) return std::min(s.micro_batch_seqs, all - first);
  const int64_t least = (threads + s.num_kv_heads - 1) / s.num_kv_heads;
  int64_t count = 0;
  for (int64_t rows = 0; first + count < all && (rows < threads * kRowsPerThread || count < least); ++count) rows += length_of(first + count);
  return count;
}

}  // namespace

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

CpuEngine::Impl::Impl(const Settings& settings, NamedTensors parameters, NamedTensors gradients)
    : settings_(settings),
      parameters_(std::move(parameters)),
      gradients_(std::move(gradients)),
      plan_(settings),
      precision_(settings.precision == "bfloat16" ? Precision::kBFloat16 : Precision::kFloat32),
      threads_(at::get_num_threads()),
      negative_slope_(static_cast<float>(settings.mlp_negative_slope)),
      memory_(plan_, parameters_, gradients_, precision_),
      weights_(settings, plan_, memory_, !gradients_.empty(), threads_),
      smear_(plan_.D) {
  looped = plan_.loops();
  for (int i = 0; i < threads_; ++i) vectors_.emplace_back(plan_);
  Prepare(/*fake_quantise=*/false);
}

int64_t CpuEngine::Impl::Prepare(bool fake_quantise) {
  const float* smear = memory_.value(plan_.smear_gate);
  for (int64_t j = 0; j < plan_.D; ++j) smear_[j] = smear != nullptr ? formula::Sigmoid(smear[j]) : 0;
  if (const float* gates = memory_.value(plan_.skip_gates)) {
    skip_gates_.resize(plan_.skips * plan_.D);
    for (size_t j = 0; j < skip_gates_.size(); ++j) skip_gates_[j] = formula::Sigmoid(gates[j]);
  }
  return weights_.Prepare(fake_quantise, profile);
}

void CpuEngine::Impl::Begin(std::span<const Segment> segments, bool training) {
  segments_.clear();
  int64_t rows = 0, longest = 0, positions = 0;
  for (const Segment& segment : segments) {
    segments_.push_back({rows, rows + segment.length});
    rows += segment.length;
    longest = std::max(longest, segment.length);
    positions = std::max(positions, segment.position + segment.length);
  }
  const ActivationShape shape{.plan = &plan_, .looped = looped, .precision = precision_, .rows = rows, .longest = longest,
                              .training = training, .threads = threads_};
  Planner count(nullptr);
  PlanActivations(shape, count);
  workspace_.Reserve(count.used());
  Planner plan(workspace_.data());
  a_ = PlanActivations(shape, plan);
  // What lies behind an odd row is multiplied by 0, and must be a number.
  if (Stride(plan_.F) != plan_.F) std::memset(a_.act.data, 0, a_.N * Stride(plan_.F) * ElementBytes(precision_));
  if (rotary_positions_ < positions) {
    rotary_ = RotaryTables(settings_, positions);
    rotary_positions_ = positions;
  }
  heads_ = {.T = longest,
            .H = plan_.H,
            .Hkv = plan_.Hkv,
            .d = plan_.d,
            .rotated = plan_.rotated,
            .cos = rotary_.cos.const_data_ptr<float>(),
            .sin = rotary_.sin.const_data_ptr<float>(),
            .positions = a_.positions};
  EachPosition(settings_, segments, [&](int64_t n, const Position& position) {
    a_.ids[n] = position.id;
    a_.targets[n] = position.target;
    a_.positions[n] = position.position;
    a_.joined[n] = position.joined;
    if (plan_.bigram_rows > 0) a_.bigram_rows[n] = position.bigram_row;
  });
  before_.clear();
  if (plan_.smear_window == kNone || !a_.joined[0]) return;
  // The gate reads token embeddings alone, so the row before the chunk is its token's.
  before_id_ = segments.front().tokens[-1];
  before_.resize(plan_.D);
  const Elements row = memory_.elements(plan_.tok_emb) + before_id_ * plan_.D;
  for (int64_t j = 0; j < plan_.D; ++j)
    before_[j] = precision_ == Precision::kBFloat16 ? formula::FromBFloat16(static_cast<const BFloat16*>(row.data)[j].bits) : row.floats()[j];
}

MixNorm CpuEngine::Impl::Pass::InputOf(size_t v) const {
  MixNorm in{.D = D, .x = a_.x[v], .x0 = a_.x[0], .mix = e_.memory_.value(layer(v).resid_mix)};
  if (const Visit& own = visit(v); own.skip_from >= 0) {
    in.skip = a_.x[own.skip_from + 1];
    in.skip_weight = e_.memory_.value(plan_.skip_weights) + own.skip_row * D;
    if (plan_.skip_gates != kNone) in.skip_gate = e_.skip_gates_.data() + own.skip_row * D;
  }
  return in;
}

Lanes CpuEngine::Impl::Pass::LanesOf(size_t v) const {
  const int64_t i = visit(v).layer;
  return {.D = D,
          .resid = e_.memory_.value(plan_.parallel_resid) + 2 * i,
          .post = e_.memory_.value(plan_.parallel_post) + 4 * i,
          .lane0 = a_.saved[v].residual,
          .lane1 = Lane1(v),
          .a = a_.saved[v].a,
          .m = a_.saved[v].m};
}

AttentionGate CpuEngine::Impl::Pass::GateOf(size_t v) const {
  return {.D = D,
          .H = plan_.H,
          .d = plan_.d,
          .window = e_.settings_.gate_window,
          .scale = static_cast<float>(e_.settings_.sparse_attn_gate_scale * layer(v).input_scale),
          .w = e_.memory_.value(layer(v).attn_gate)};
}

SmearGate CpuEngine::Impl::Pass::SmearOf() const {
  return {.D = D,
          .window = e_.settings_.gate_window,
          .w = e_.memory_.value(plan_.smear_window),
          .lambda = *e_.memory_.value(plan_.smear_lambda),
          .e = a_.x1,
          .before = e_.before_.empty() ? nullptr : e_.before_.data(),
          .joined = a_.joined};
}

void CpuEngine::Impl::Pass::Embed() {
  const int64_t width = plan_.bigram_dim, stride = e_.Stride(width);
  const std::optional<PackedLinear>& projection = e_.weights_.bigram_proj;
  Elements bigram;
  float scale = 1;
  if (width > 0) {
    GatherRows(width, e_.memory_.elements(plan_.bigram_embed), a_.bigram_rows, a_.bigram, stride, mine_);
    if (projection) {  // its scale is in its weights
      MultiplyTo({.a = a_.bigram, .a_stride = stride, .b = projection->forward}, a_.u, D, mine_, All(D));
      bigram = a_.u;
    } else {
      bigram = a_.bigram;
      scale = *e_.memory_.value(plan_.bigram_scale);
    }
  }
  const bool by_content = plan_.smear_window != kNone;
  EmbedForward(D, e_.memory_.elements(plan_.tok_emb), a_.ids, bigram, scale, a_.x1, by_content ? nullptr : a_.embed_norms, mine_);
  clock_.Done(StepProfile::kEmbed);
  Wait();
  if (by_content) {
    SmearGateForward(SmearOf(), a_.x[0], a_.smear_gates, a_.embed_norms, mine_);
  } else {
    SmearForward(D, e_.smear_.data(), a_.joined, a_.x1, a_.x[0], mine_);
    if (mine_.first == 0 && !e_.before_.empty())
      for (int64_t j = 0; j < D; ++j) a_.x[0][j] = formula::Smear(e_.smear_[j], a_.x1[j], e_.before_[j]);
  }
  clock_.Done(StepProfile::kEmbed);
}

void CpuEngine::Impl::Pass::AttentionInput(size_t v) {
  const Activations::Saved& saved = a_.saved[v];
  const Product qkv{.a = a_.u, .a_stride = D, .b = weights(v).qkv.forward};
  const int64_t first = FirstOf(v), keys_from = first > 0 ? D / kPanel * kPanel : 0;
  EachBlock(mine_, [&](Rows rows) {
    MixNormForward(InputOf(v), saved.residual, a_.u, rows, CarriesOf(v));
    if (saved.gates != nullptr) AttentionGates(GateOf(v), a_.u, saved.gates, rows);
    clock_.Done(StepProfile::kNorm);
    MultiplyTo(qkv, saved.qkv, S, rows, {keys_from, S});
    clock_.Done(StepProfile::kLinear);
  });
  if (keys_from > 0) {
    EachFrom(first, [&](Rows rows) { MultiplyTo(qkv, saved.qkv, S, rows, All(keys_from)); });
    clock_.Done(StepProfile::kLinear);
  }
  QkForward(e_.heads_, saved.qkv, saved.inverse_norms, mine_);
  clock_.Done(StepProfile::kQk);
  Wait();
}

void CpuEngine::Impl::Pass::Attention(size_t v) {
  const Activations::Saved& saved = a_.saved[v];
  const int64_t past = e_.past_, tasks = static_cast<int64_t>(e_.segments_.size()) * plan_.Hkv;
  QkShape seen = e_.heads_;
  for (int64_t task = team_.rank; task < tasks; task += team_.size) {
    const Rows segment = e_.segments_[task / plan_.Hkv];
    seen.T = segment.count() + past;
    AttentionForward(seen, e_.memory_.value(layer(v).q_gain), saved.qkv + -past * S, segment.first, task % plan_.Hkv, past + FirstOf(v),
                     a_.scratch[team_.rank], saved.y + -past * D, saved.lse);
  }
  clock_.Done(StepProfile::kAttention);
  Wait();
}

void CpuEngine::Impl::Pass::Output(size_t v) {
  const Activations::Saved& saved = a_.saved[v];
  const Visit& own = visit(v);
  const PackedWeights::Layer& w = weights(v);
  EachFrom(FirstOf(v), [&](Rows rows) {
    Elements y = saved.y;
    if (layer(v).exclusive) {
      XsaForward(e_.heads_, saved.qkv, saved.y, a_.u, rows);
      y = a_.u;
      clock_.Done(StepProfile::kXsa);
    }
    if (saved.gates != nullptr) {
      GateHeads(GateOf(v), saved.gates, y, a_.u, rows);
      y = a_.u;
      clock_.Done(StepProfile::kXsa);
    }
    const Product projection{.a = y, .a_stride = D, .b = w.attn_proj.forward};
    float* next = a_.x[v + 1];
    if (own.lanes) MultiplyTo(projection, saved.a, D, rows, All(D));
    else MultiplyAddTo(projection, saved.residual, D, rows);
    clock_.Done(StepProfile::kLinear);
    // The stream continues in the next visit's input, to which the MLP's product is added.
    MixNormForward(MiddleOf(v), own.lanes ? nullptr : next, a_.u, rows, Residual::kMixed);
    clock_.Done(StepProfile::kNorm);
    MultiplyRelu2({.a = a_.u, .a_stride = D, .b = w.mlp_fc.forward}, e_.negative_slope_, saved.h, a_.act, F, rows);
    const Product down{.a = a_.act, .a_stride = F, .b = w.mlp_proj.forward};
    if (own.lanes) {
      MultiplyTo(down, saved.m, D, rows, All(D));
      clock_.Done(StepProfile::kLinear);
      LanesForward(LanesOf(v), next, a_.lane1[v + 1], rows);
      clock_.Done(StepProfile::kNorm);
    } else {
      MultiplyAddTo(down, next, D, rows);
      clock_.Done(StepProfile::kLinear);
    }
    if (v + 1 < e_.visits().size() || !own.lanes) return;
    const std::string& from = e_.settings_.parallel_final_lane;
    const float share0 = from == "attn" ? 1.0f : from == "mlp" ? 0.0f : 0.5f;
    for (int64_t i = rows.first * D; i < rows.last * D; ++i) a_.final[i] = share0 * next[i] + (1 - share0) * a_.lane1[v + 1][i];
  });
}

void CpuEngine::Impl::Pass::Score() {
  const int64_t V = plan_.V;
  float* logits = a_.heads[team_.rank].logits;
  EachFrom(first_, [&](Rows rows) {
    MixNormForward({.D = D, .x = a_.final}, nullptr, a_.u, rows, Residual::kMixed);
    MultiplyTo({.a = a_.u + rows.first * D, .a_stride = D, .b = e_.weights_.head.forward}, Floats(logits), V, All(rows.count()), All(V));
    CrossEntropyForward(V, static_cast<float>(e_.settings_.logit_softcap), logits, a_.targets, a_.losses, rows);
  });
  clock_.Done(StepProfile::kHead);
}

// Final norm, logits and losses, and their gradients: into the stream's, and into the output layer's, of which each thread
// adds its part from all threads' rows.
void CpuEngine::Impl::Pass::HeadWithGradients(float share) {
  const int64_t V = plan_.V, stride = e_.Stride(V);
  const PackedLinear& head_weights = e_.weights_.head;
  const MixNorm last{.D = D, .x = a_.final};
  MixNormForward(last, nullptr, a_.u, mine_, Residual::kMixed);
  const auto rows_of = [&](int rank, int64_t round) {
    const Rows all = team_.ShareOf(rank, a_.N, 2);
    return Rows{std::min(all.first + round * kHeadRows, all.last), std::min(all.first + (round + 1) * kHeadRows, all.last)};
  };
  const auto operands_of = [&](int rank, int64_t round) {
    Activations::Head head = a_.heads[rank];
    head.dlogits.K = head.u.K = rows_of(rank, round).count();
    return head;
  };
  int64_t largest = 0;
  for (int rank = 0; rank < team_.size; ++rank) largest = std::max(largest, team_.ShareOf(rank, a_.N, 2).count());
  for (int64_t round = 0; round * kHeadRows < largest; ++round) {
    const Rows rows = rows_of(team_.rank, round), own = All(rows.count());
    const Activations::Head head = operands_of(team_.rank, round);
    const Elements dlogits{head.logits, e_.precision_};
    MultiplyTo({.a = At(a_.u, D, rows), .a_stride = D, .b = head_weights.forward}, Floats(head.logits), V, own, All(V));
    CrossEntropyBackward(V, static_cast<float>(e_.settings_.logit_softcap), share, head.logits, a_.targets, a_.losses, dlogits,
                         stride, rows);
    MultiplyTo({.a = dlogits, .a_stride = stride, .b = head_weights.backward}, At(a_.dy, D, rows), D, own, All(D));
    PackRows(dlogits, stride, head.dlogits, own);
    PackRows(At(a_.u, D, rows), D, head.u, own);
    clock_.Done(StepProfile::kHead);
    Wait();
    for (int rank = 0; rank < team_.size; ++rank) {
      const Activations::Head others = operands_of(rank, round);
      if (others.u.K > 0) WeightGradient(head_weights, others.dlogits, others.u);
    }
    clock_.Done(StepProfile::kHead);
    Wait();
  }
  std::fill_n(a_.dx + mine_.first * D, mine_.count() * D, 0.0f);
  std::fill_n(a_.dx0 + mine_.first * D, mine_.count() * D, 0.0f);
  MixNormBackward(last, {.du = a_.dy, .dresidual = a_.dx, .dx = StreamCopy()}, mine_);
  if (a_.dx_lane1 != nullptr) {
    const std::string& from = e_.settings_.parallel_final_lane;
    const float share0 = from == "attn" ? 1.0f : from == "mlp" ? 0.0f : 0.5f;
    for (int64_t i = mine_.first * D; i < mine_.last * D; ++i) {
      a_.dx_lane1[i] = (1 - share0) * a_.dx[i];
      a_.dx[i] *= share0;
    }
  }
  clock_.Done(StepProfile::kHead);
}

// The matrix's gradient += dout^T in; this thread does its share of the panels.
void CpuEngine::Impl::Pass::WeightGradient(const PackedLinear& linear, const Panels& dout, const Panels& in) {
  const int64_t across = dout.count();
  const Rows tasks = team_.Share(across * in.count());
  for (int64_t q = tasks.first / across; q * across < tasks.last; ++q) {
    const Rows down{std::max(tasks.first - q * across, int64_t{0}), std::min(tasks.last - q * across, across)};
    MultiplyPackedAddTo(dout, in, linear.gradient_rows.data(), down, {q, q + 1});
  }
}

void CpuEngine::Impl::Pass::OutputBackward(size_t v) {
  const Activations::Saved& saved = a_.saved[v];
  const PackedWeights::Layer& w = weights(v);
  const bool lanes = visit(v).lanes;
  // Gradients of what MLP and attention add: the stream's own, before and behind the MLP's norm, where there are no lanes.
  const Elements dm = lanes ? a_.dm : a_.dx_elements, da = lanes ? a_.da : a_.dx_elements;
  EachBlock(mine_, [&](Rows rows) {
    if (lanes) {
      VectorGradients::LaneSums& sums = vectors_.lanes[visit(v).layer];
      LanesBackward(LanesOf(v), a_.dx, a_.dx_lane1, da, dm, sums.resid, sums.post, rows);
      clock_.Done(StepProfile::kNorm);
    }
    MultiplyRelu2Backward({.a = dm, .a_stride = D, .b = w.mlp_proj.backward}, e_.negative_slope_, saved.h, a_.dh, F, a_.mlp_dh, a_.mlp_act,
                          rows);
    MultiplyTo({.a = a_.dh, .a_stride = F, .b = w.mlp_fc.backward}, a_.dy, D, rows, All(D));
    clock_.Done(StepProfile::kLinear);
    MixNormForward(MiddleOf(v), nullptr, a_.u, rows, Residual::kMixed);
    PackRows(At(a_.u, D, rows), D, a_.mlp_u, rows);
    PackRows(At(dm, D, rows), D, a_.mlp_dx, rows);
    MixNormBackward(MiddleOf(v), {.du = a_.dy, .dresidual = lanes ? a_.dx_lane1 : a_.dx, .dx = lanes ? Elements{} : StreamCopy()}, rows);
    clock_.Done(StepProfile::kNorm);
    MultiplyTo({.a = da, .a_stride = D, .b = w.attn_proj.backward}, a_.dy, D, rows, All(D));
    clock_.Done(StepProfile::kLinear);
    Elements y = saved.y;
    if (saved.gates != nullptr) {
      if (layer(v).exclusive) XsaForward(e_.heads_, saved.qkv, saved.y, a_.u, rows);
      else std::memcpy(At(a_.u, D, rows).data, At(saved.y, D, rows).data, rows.count() * D * ElementBytes(e_.precision_));
      GateHeadsBackward(GateOf(v), saved.gates, a_.u, a_.dy, a_.dgates, rows);
      y = a_.u;
      PackRows(At(y, D, rows), D, a_.proj_y, rows);
    }
    if (layer(v).exclusive) {
      XsaBackward(e_.heads_, saved.qkv, saved.y, a_.u, a_.dy, a_.dqkv, rows);
      y = a_.u;
    }
    clock_.Done(StepProfile::kXsa);
    PackRows(At(da, D, rows), D, a_.proj_dx, rows);
    if (saved.gates == nullptr) PackRows(At(y, D, rows), D, a_.proj_y, rows);
    clock_.Done(StepProfile::kNorm);
  });
  Wait();
  TellOfLayer();
}

void CpuEngine::Impl::Pass::AttentionBackward(size_t v) {
  const Activations::Saved& saved = a_.saved[v];
  const PackedWeights::Layer& w = weights(v);
  const int64_t tasks = static_cast<int64_t>(e_.segments_.size()) * plan_.Hkv;
  QkShape seen = e_.heads_;
  for (int64_t task = team_.rank; task < tasks; task += team_.size) {
    const Rows segment = e_.segments_[task / plan_.Hkv];
    seen.T = segment.count();
    fairway::AttentionBackward(seen, e_.memory_.value(layer(v).q_gain), saved.qkv, saved.y, saved.lse, a_.dy, segment.first, task % plan_.Hkv,
                               layer(v).exclusive, a_.scratch[team_.rank], a_.dqkv);
  }
  clock_.Done(StepProfile::kAttention);
  WeightGradient(w.mlp_proj, a_.mlp_dx, a_.mlp_act);
  WeightGradient(w.mlp_fc, a_.mlp_dh, a_.mlp_u);
  WeightGradient(w.attn_proj, a_.proj_dx, a_.proj_y);
  clock_.Done(StepProfile::kGradients);
  Wait();
}

void CpuEngine::Impl::Pass::AttentionInputBackward(size_t v) {
  const Activations::Saved& saved = a_.saved[v];
  const Visit& own = visit(v);
  const LayerPlan& numbers = layer(v);
  const MixNorm in = InputOf(v);
  MixNormGradients out{.du = a_.dy, .dresidual = a_.dx, .carries = CarriesOf(v), .dx = StreamCopy(), .dx0 = a_.dx0,
                       .dmix = vectors_.of(numbers.resid_mix)};
  if (own.skip_from >= 0) {
    out.dskip = a_.dskip[own.skip_from];
    out.dskip_weight = vectors_.of(plan_.skip_weights) + own.skip_row * D;
    if (plan_.skip_gates != kNone) out.dskip_gate = vectors_.of(plan_.skip_gates) + own.skip_row * D;
  }
  // What the visit before has left for a later one comes back beside what it has given to this one.
  if (own.input_is_skip) out.extra = a_.dskip[v - 1];
  if (own.enters_lanes) out.extra_lane = a_.dx_lane1;
  EachBlock(mine_, [&](Rows rows) {
    QkBackward(e_.heads_, saved.qkv, saved.inverse_norms, e_.memory_.value(numbers.q_gain), a_.dqkv, vectors_.of(numbers.q_gain), rows);
    clock_.Done(StepProfile::kQk);
    MultiplyTo({.a = a_.dqkv, .a_stride = S, .b = weights(v).qkv.backward}, a_.dy, D, rows, All(D));
    clock_.Done(StepProfile::kLinear);
    MixNormForward(in, nullptr, a_.u, rows, Residual::kMixed);
    if (saved.gates != nullptr) AttentionGatesBackward(GateOf(v), a_.dgates, a_.u, a_.dy, vectors_.of(numbers.attn_gate), rows);
    PackRows(At(a_.u, D, rows), D, a_.qkv_u, rows);
    PackRows(At(a_.dqkv, S, rows), S, a_.qkv_d, rows);
    MixNormBackward(in, out, rows);
    clock_.Done(StepProfile::kNorm);
  });
  Wait();
  // The other threads may continue: nothing that this reads is written before they wait again.
  WeightGradient(weights(v).qkv, a_.qkv_d, a_.qkv_u);
  clock_.Done(StepProfile::kGradients);
}

void CpuEngine::Impl::Pass::LayerDone(int64_t layer) {
  if (on_block_ == nullptr) return;
  const PackedWeights::Layer& w = e_.weights_.layers[layer];
  if (w.qkv.scaled()) Wait();  // its gradient was added up by panels
  std::vector<float> weight;
  for (const PackedLinear* linear : {&w.qkv, &w.attn_proj, &w.mlp_fc, &w.mlp_proj}) e_.weights_.FinishShare(team_, *linear, weight);
  clock_.Done(StepProfile::kWeights);
  done_ = layer;
}

// Behind a barrier: all threads have done what LayerDone says.
void CpuEngine::Impl::Pass::TellOfLayer() {
  if (done_ >= 0 && team_.rank == 0) (*on_block_)(done_);
  done_ = -1;
}

void CpuEngine::Impl::Pass::EmbedBackward() {
  const int64_t width = plan_.bigram_dim;
  const std::optional<PackedLinear>& projection = e_.weights_.bigram_proj;
  for (int64_t j = mine_.first * D; j < mine_.last * D; ++j) a_.dx0[j] += a_.dx[j];
  const SmearGate smear = plan_.smear_window != kNone ? SmearOf() : SmearGate{};
  if (smear.w != nullptr)
    SmearGateBackward(smear, a_.x[0], a_.smear_gates, a_.embed_norms, a_.dx0, a_.dsmear, vectors_.of(plan_.smear_window),
                      vectors_.of(plan_.smear_lambda), mine_);
  Wait();
  TellOfLayer();
  float* ds = a_.dx;
  if (smear.w != nullptr)
    SmearGateInputs(smear, a_.smear_gates, a_.dx0, a_.dsmear, ds, a_.N, mine_);
  else
    fairway::EmbedBackward(D, e_.smear_.data(), a_.joined, a_.x1, a_.embed_norms, a_.dx0, ds, StreamCopy(), vectors_.of(plan_.smear_gate),
                           a_.N, mine_);
  const float* dbigram = ds;
  if (projection) {
    const int64_t stride = e_.Stride(width);
    dbigram = a_.dbigram;
    MultiplyTo({.a = a_.dx_elements, .a_stride = D, .b = projection->backward}, Floats(a_.dbigram), width, mine_, All(width));
    PackRows(At(a_.dx_elements, D, mine_), D, a_.bigram_d, mine_);
    PackRows(At(a_.bigram, stride, mine_), stride, a_.bigram_in, mine_);
  } else if (width > 0) {
    DotRows(width, ds, a_.bigram, vectors_.of(plan_.bigram_scale), mine_);
  }
  Wait();
  const Rows columns = team_.Share(D);
  ScatterAddRows(D, 1, ds, a_.ids, a_.N, e_.memory_.gradient(plan_.tok_emb), columns);
  if (!e_.before_.empty() && smear.w != nullptr)
    ScatterAddRows(D, smear.lambda * a_.smear_gates[0], a_.dx0, &e_.before_id_, 1, e_.memory_.gradient(plan_.tok_emb), columns);
  if (width > 0) {
    if (projection) WeightGradient(*projection, a_.bigram_d, a_.bigram_in);
    const float scale = projection ? 1 : *e_.memory_.value(plan_.bigram_scale);
    ScatterAddRows(width, scale, dbigram, a_.bigram_rows, a_.N, e_.memory_.gradient(plan_.bigram_embed), team_.Share(width));
  }
  clock_.Done(StepProfile::kEmbed);
}

double CpuEngine::Impl::AccumulateGradients(std::span<const Segment> segments, double share, const OnBlock* on_block) {
  const int64_t all = static_cast<int64_t>(segments.size()), positions = PositionsIn(segments);
  const float share_of_one = static_cast<float>(share / static_cast<double>(positions));
  double loss = 0;
  for (VectorGradients& vectors : vectors_) vectors.Clear();
  for (int64_t first = 0, count = 0; first < all; first += count) {
    count = ChunkOf(settings_, threads_, first, all, [&](int64_t i) { return segments[i].length; });
    if (between_chunks) between_chunks();
    Begin(segments.subspan(first, count), /*training=*/true);
    const bool last = first + count >= all;
    RunTeam(threads_, [&](const Team& team) {
      Pass pass(*this, team, /*first=*/0, last ? on_block : nullptr);
      ForwardPass(visits(), pass);
      pass.HeadWithGradients(share_of_one);
      BackwardPass(visits(), pass);
    });
    for (int64_t n = 0; n < a_.N; ++n) loss += a_.losses[n];
  }
  for (VectorGradients& vectors : vectors_) vectors.AddTo(plan_, memory_);
  if (on_block != nullptr && weights_.bigram_proj) weights_.Finish({&*weights_.bigram_proj}, profile);
  return loss / static_cast<double>(positions);
}

void CpuEngine::Impl::TokenLosses(std::span<const Segment> segments, int64_t first_position, float* losses) {
  const int64_t all = static_cast<int64_t>(segments.size());
  for (int64_t first = 0, count = 0; first < all; first += count) {
    count = ChunkOf(settings_, threads_, first, all, [&](int64_t i) { return segments[i].length; });
    if (between_chunks) between_chunks();
    Begin(segments.subspan(first, count), /*training=*/false);
    RunTeam(threads_, [&](const Team& team) {
      Pass pass(*this, team, first_position);
      ForwardPass(visits(), pass);
      pass.Score();
    });
    for (const Rows& segment : segments_)
      losses = std::copy(a_.losses + segment.first + first_position, a_.losses + segment.last, losses);
  }
}

// A chunk of one segment whose keys and values are computed behind those of the text so far.
void CpuEngine::Impl::BeginWithPast(const uint16_t* tokens, int64_t count, int64_t past) {
  const int64_t S = qkv(), D = plan_.D, row_bytes = S * ElementBytes(precision_);
  const Segment segment{.tokens = tokens, .length = count, .position = 0, .continues = past > 0};
  Begin({&segment, 1}, /*training=*/false);
  if (past == 0) text_.position = text_.rows = 0;
  // Memory for two windows, so that rows move to the front once per window, not once per call.
  text_.qkv.resize(visits().size());
  const int64_t capacity = static_cast<int64_t>(text_.qkv[0].size()) / row_bytes;
  const bool move = text_.rows + count > capacity;
  if (move) {
    for (std::vector<char>& qkv : text_.qkv) {
      if (past > 0) std::memmove(qkv.data(), qkv.data() + (text_.rows - past) * row_bytes, past * row_bytes);
      if (past + count > capacity) qkv.resize(2 * (past + count) * row_bytes);
    }
    text_.rows = past;
  }
  const QkShape seen{.T = past + count, .H = plan_.H, .Hkv = plan_.Hkv, .d = plan_.d};
  Elements y;
  float* lse = nullptr;
  const auto plan = [&](char* memory) {
    Planner planner(memory);
    y = planner.Take(seen.T * D, precision_);
    lse = planner.Take<float>(seen.T * plan_.H);
    for (char*& scratch : a_.scratch) scratch = planner.Take<char>(AttentionScratchBytes(seen));
    return planner.used();
  };
  text_.workspace.Reserve(plan(nullptr));
  plan(text_.workspace.data());
  for (size_t v = 0; v < visits().size(); ++v) {
    a_.saved[v].qkv = {text_.qkv[v].data() + text_.rows * row_bytes, precision_};
    a_.saved[v].y = y + past * D;
    a_.saved[v].lse = lse;
  }
  if (past > 0) {
    text_.rotary = RotaryTables(settings_, count, text_.position);
    heads_.cos = text_.rotary.cos.const_data_ptr<float>();
    heads_.sin = text_.rotary.sin.const_data_ptr<float>();
    if (plan_.smear_window == kNone && !(settings_.reset_at_bos && tokens[0] == kBos)) {
      before_ = text_.before;
      const int32_t rows = static_cast<int32_t>(plan_.bigram_rows);
      if (rows > 0) a_.bigram_rows[0] = formula::BigramRow(tokens[0], tokens[-1], rows);
    }
  }
  past_ = past;
}

void CpuEngine::Impl::ContinueLosses(const uint16_t* tokens, int64_t count, int64_t past, float* losses) {
  BeginWithPast(tokens, count, past);
  RunTeam(threads_, [&](const Team& team) {
    Pass pass(*this, team, /*first=*/0);
    ForwardPass(visits(), pass);
    pass.Score();
  });
  std::copy_n(a_.losses, count, losses);
  text_.before.assign(a_.x1 + (count - 1) * plan_.D, a_.x1 + count * plan_.D);
  text_.position += count;
  text_.rows += count;
  past_ = 0;
  before_.clear();
}

double EngineBytes(const Settings& s, int64_t sequences, bool training) {
  const Plan plan(s);
  const int64_t T = s.train_seq_len;
  const int threads = s.ThreadCount();
  // Segments of several lengths fill a chunk beyond its mark by less than one of them.
  const int64_t chunk = ChunkOf(s, threads, 0, sequences, [&](int64_t) { return T; });
  const int64_t rows = std::min(chunk + (s.packed_documents && s.micro_batch_seqs == 0), sequences) * T;
  Planner count(nullptr);
  PlanActivations({.plan = &plan,
                   .looped = plan.loops(),
                   .precision = s.precision == "bfloat16" ? Precision::kBFloat16 : Precision::kFloat32,
                   .rows = rows,
                   .longest = T,
                   .training = training,
                   .threads = threads},
                  count);
  double parameters = 0;
  for (const Weight& weight : plan.weights) parameters += static_cast<double>(weight.numel());
  return static_cast<double>(count.used()) + 8 * parameters;
}

CpuEngine::CpuEngine(const Settings& settings, NamedTensors parameters, NamedTensors gradients)
    : impl_(std::make_unique<Impl>(settings, std::move(parameters), std::move(gradients))) {}
CpuEngine::~CpuEngine() = default;
int64_t CpuEngine::Prepare(bool fake_quantise) {
  losses_.clear();
  return impl_->Prepare(fake_quantise);
}
void CpuEngine::FixSteps(const FixedSteps& steps) { impl_->weights_.FixSteps(steps); }
void CpuEngine::SetLooped(bool looped) { impl_->looped = looped; }
void CpuEngine::AccumulateGradients(std::span<const Segment> segments, double share) {
  losses_.push_back(static_cast<float>(impl_->AccumulateGradients(segments, share)));
}
void CpuEngine::FinishGradients() { impl_->weights_.Finish(impl_->weights_.all(), impl_->profile); }
void CpuEngine::AccumulateLastGradients(std::span<const Segment> segments, double share, const OnBlock& on_block) {
  losses_.push_back(static_cast<float>(impl_->AccumulateGradients(segments, share, &on_block)));
}
void CpuEngine::TokenLosses(std::span<const Segment> segments, int64_t first, float* losses) {
  impl_->TokenLosses(segments, first, losses);
}
void CpuEngine::ContinueLosses(const uint16_t* tokens, int64_t count, int64_t past, float* losses) {
  impl_->ContinueLosses(tokens, count, past, losses);
}
void CpuEngine::SetBetweenChunks(std::function<void()> between) { impl_->between_chunks = std::move(between); }
void CpuEngine::SetProfile(StepProfile* profile) { impl_->profile = profile; }

}  // namespace fairway
