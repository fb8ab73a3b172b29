// The forward pass's operations, each on this thread's rows (schedule.h calls them).
#include "common/model/cpu_engine_impl.h"
#include "common/model/ops/attention.h"
#include "common/model/ops/cross_entropy.h"
#include "common/model/ops/embed.h"
#include "common/model/ops/formulas.h"
#include "common/model/ops/product.h"
#include "common/model/ops/xsa.h"

namespace fairway {

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
    if (const int table = layer(v).value_embed; table != kNone) {
      const int64_t width = plan_.Hkv * plan_.d;
      AddGatheredRows(width, e_.memory_.elements(table), a_.ids, saved.qkv + (S - width), S, rows);
      clock_.Done(StepProfile::kEmbed);
    }
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
    const float share0 = e_.Lane0Share();
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

}  // namespace fairway
