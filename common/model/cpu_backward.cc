// The backward pass's operations, each on this thread's rows; a matrix's gradient is shared out by panels.
#include <cstring>

#include "common/model/cpu_engine_impl.h"
#include "common/model/ops/attention.h"
#include "common/model/ops/cross_entropy.h"
#include "common/model/ops/embed.h"
#include "common/model/ops/product.h"
#include "common/model/ops/xsa.h"

namespace fairway {

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
    const float share0 = e_.Lane0Share();
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
  if (float* table = e_.memory_.gradient(numbers.value_embed)) {
    const int64_t width = plan_.Hkv * plan_.d;
    ScatterAddRows(width, 1, a_.dqkv + (S - width), S, a_.ids, a_.N, table, team_.Share(width));
    clock_.Done(StepProfile::kEmbed);
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
  ScatterAddRows(D, 1, Floats(ds), D, a_.ids, a_.N, e_.memory_.gradient(plan_.tok_emb), columns);
  if (!e_.before_.empty() && smear.w != nullptr)
    ScatterAddRows(D, smear.lambda * a_.smear_gates[0], Floats(a_.dx0), D, &e_.before_id_, 1, e_.memory_.gradient(plan_.tok_emb), columns);
  if (width > 0) {
    if (projection) WeightGradient(*projection, a_.bigram_d, a_.bigram_in);
    const float scale = projection ? 1 : *e_.memory_.value(plan_.bigram_scale);
    ScatterAddRows(width, scale, Floats(dbigram), width, a_.bigram_rows, a_.N, e_.memory_.gradient(plan_.bigram_embed), team_.Share(width));
  }
  clock_.Done(StepProfile::kEmbed);
}

}  // namespace fairway
