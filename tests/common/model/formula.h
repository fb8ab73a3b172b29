// The model once more, from its definition: one sequence, one head and one position at a time, in float64. It shares no code with
// Transformer or the plan and is far too slow for anything but a test.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/model/transformer.h"

namespace fairway {

class Formula {
 public:
  // Copies of `parameters` in float64, which record gradients.
  Formula(const Settings& settings, const NamedTensors& parameters) : s_(settings) {
    for (const auto& [name, tensor] : parameters)
      w_[name] = tensor.detach().to(at::kDouble).clone().set_requires_grad(true);
  }

  const at::Tensor& parameter(const std::string& name) const { return w_.at(name); }

  // Whether the looped segment is looped.
  bool looped = true;

  // The first position whose keys and values position t sees.
  std::function<int64_t(int64_t)> first_seen = [](int64_t) { return 0; };

  // float64 [B, T, V].
  at::Tensor Logits(const at::Tensor& ids) const {
    std::vector<at::Tensor> sequences;
    for (int64_t b = 0; b < ids.size(0); ++b) {
      const int64_t* first = ids[b].const_data_ptr<int64_t>();
      sequences.push_back(at::stack(Sequence({first, first + ids.size(1)})));
    }
    return at::stack(sequences);
  }

  // float64 [B, T].
  at::Tensor TokenLosses(const at::Tensor& ids, const at::Tensor& targets) const {
    return -at::log_softmax(Logits(ids), -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1);
  }

 private:
  using Rows = std::vector<at::Tensor>;  // a vector of width D for every position

  static at::Tensor Rms(const at::Tensor& x) { return x / ((x * x).mean() + std::ldexp(1.0, -23)).sqrt(); }

  at::Tensor Product(const std::string& matrix, const at::Tensor& x) const { return at::mv(w_.at(matrix), x); }

  // The row of the bigram table for the token at t.
  int64_t Hash(const std::vector<int64_t>& ids, size_t t) const {
    const int64_t last = s_.bigram_vocab_size - 1;
    if (t == 0 || (s_.reset_at_bos && ids[t] == 1)) return last;
    const auto product = [](uint32_t a, int64_t token) {
      return static_cast<int32_t>(a * static_cast<uint32_t>(token));
    };
    const int64_t mixed = product(36313, ids[t]) ^ product(27191, ids[t - 1]);
    return ((mixed % last) + last) % last;
  }

  at::Tensor Rotate(const at::Tensor& head, int64_t t) const {
    const int64_t turned = s_.rope_dims > 0 ? s_.rope_dims : head.size(0), half = turned / 2;
    std::vector<at::Tensor> first, second;
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(t) * std::pow(s_.rope_base, -2.0 * static_cast<double>(i) / static_cast<double>(turned));
      first.push_back(head[i] * std::cos(angle) + head[half + i] * std::sin(angle));
      second.push_back(head[half + i] * std::cos(angle) - head[i] * std::sin(angle));
    }
    first.insert(first.end(), second.begin(), second.end());
    for (int64_t i = turned; i < head.size(0); ++i) first.push_back(head[i]);
    return at::stack(first);
  }

  Rows Attention(int64_t layer, const std::vector<int64_t>& ids, const Rows& u) const {
    const std::string block = Block(layer);
    const bool exclusive = layer >= s_.num_layers - s_.xsa_last_n;
    const int64_t H = s_.num_heads, group = H / s_.num_kv_heads, d = s_.model_dim / H;
    std::vector<Rows> q(H), k(s_.num_kv_heads), v(s_.num_kv_heads);  // by head, then position
    for (size_t t = 0; t < u.size(); ++t) {
      const at::Tensor all_q = Product(block + "attn.c_q.weight", u[t]),
                       all_k = Product(block + "attn.c_k.weight", u[t]),
                       own_v = Product(block + "attn.c_v.weight", u[t]);
      const bool embedded = s_.value_embed_every > 0 && (layer + 1) % s_.value_embed_every == 0;
      const at::Tensor all_v = embedded ? own_v + w_.at(block + "attn.value_embed.weight")[ids[t]] : own_v;
      const auto position = static_cast<int64_t>(t);
      for (int64_t h = 0; h < H; ++h)
        q[h].push_back(Rotate(Rms(all_q.slice(0, h * d, (h + 1) * d)), position) * w_.at(block + "attn.q_gain")[h]);
      for (int64_t g = 0; g < s_.num_kv_heads; ++g) {
        k[g].push_back(Rotate(Rms(all_k.slice(0, g * d, (g + 1) * d)), position));
        v[g].push_back(all_v.slice(0, g * d, (g + 1) * d));
      }
    }
    Rows out;
    for (size_t t = 0; t < u.size(); ++t) {
      std::vector<at::Tensor> heads;
      for (int64_t h = 0; h < H; ++h) {
        const int64_t g = h / group;
        std::vector<at::Tensor> scores;
        const auto first = static_cast<size_t>(first_seen(static_cast<int64_t>(t)));
        for (size_t past = first; past <= t; ++past)
          scores.push_back((q[h][t] * k[g][past]).sum() / std::sqrt(static_cast<double>(d)));
        const at::Tensor share = at::softmax(at::stack(scores), 0);
        at::Tensor y = at::zeros_like(v[g][t]);
        for (size_t past = first; past <= t; ++past) y = y + share[static_cast<int64_t>(past - first)] * v[g][past];
        if (exclusive) y = y - (y * v[g][t]).sum() / (v[g][t] * v[g][t]).sum() * v[g][t];
        if (s_.sparse_attn_gate_enabled) {
          const at::Tensor logit = (w_.at(block + "attn.attn_gate_w")[h] * u[t].slice(0, 0, s_.gate_window)).sum();
          y = y * Sigmoid(s_.sparse_attn_gate_scale * logit);
        }
        heads.push_back(y);
      }
      out.push_back(Product(block + "attn.proj.weight", at::cat(heads)));
    }
    return out;
  }

  static std::string Block(int64_t layer) { return "blocks." + std::to_string(layer) + "."; }

  static at::Tensor Sigmoid(const at::Tensor& x) { return 1 / (1 + (-x).exp()); }

  Rows Normed(int64_t layer, const Rows& rows) const {
    const double scale = s_.ln_scale ? 1 / std::sqrt(1.0 + static_cast<double>(layer)) : 1;
    Rows result;
    for (const at::Tensor& row : rows) result.push_back(scale * Rms(row));
    return result;
  }

  // attn_scale * attention of the mixed stream, which is left in `mixed`.
  Rows ScaledAttention(int64_t layer, const std::vector<int64_t>& ids, const Rows& x, const Rows& x0, Rows* mixed) const {
    const std::string block = Block(layer);
    mixed->clear();
    for (size_t t = 0; t < x.size(); ++t)
      mixed->push_back(w_.at(block + "resid_mix")[0] * x[t] + w_.at(block + "resid_mix")[1] * x0[t]);
    Rows attention = Attention(layer, ids, Normed(layer, *mixed));
    for (at::Tensor& row : attention) row = w_.at(block + "attn_scale") * row;
    return attention;
  }

  Rows ScaledMlp(int64_t layer, const Rows& x) const {
    const std::string block = Block(layer);
    Rows out;
    for (const at::Tensor& normed : Normed(layer, x)) {
      const at::Tensor h = Product(block + "mlp.fc.weight", normed);
      const at::Tensor hidden = h.clamp_min(0) + s_.mlp_negative_slope * h.clamp_max(0);
      out.push_back(w_.at(block + "mlp_scale") * Product(block + "mlp.proj.weight", hidden * hidden));
    }
    return out;
  }

  static Rows Sum(const Rows& a, const Rows& b) {
    Rows sum;
    for (size_t t = 0; t < a.size(); ++t) sum.push_back(a[t] + b[t]);
    return sum;
  }

  Rows Embed(const std::vector<int64_t>& ids) const {
    Rows embedded, x0;
    for (size_t t = 0; t < ids.size(); ++t) {
      at::Tensor x = w_.at("tok_emb.weight")[ids[t]];
      if (s_.bigram_vocab_size > 0) {
        at::Tensor bigram = w_.at("bigram.embed.weight")[Hash(ids, t)];
        if (s_.bigram_dim != s_.model_dim) bigram = Product("bigram.proj.weight", bigram);
        x = x + w_.at("bigram.scale") * bigram;
      }
      embedded.push_back(s_.smear_gate_enabled ? x : Rms(x));
    }
    for (size_t t = 0; t < ids.size(); ++t) {
      if (s_.smear_gate_enabled) {
        at::Tensor x = embedded[t];
        if (t > 0 && ids[t] != 1) {
          const at::Tensor logit = (w_.at("smear_gate.weight")[0] * x.slice(0, 0, s_.gate_window)).sum();
          x = x + w_.at("smear_lambda") * Sigmoid(logit) * embedded[t - 1];
        }
        x0.push_back(Rms(x));
        continue;
      }
      const at::Tensor g = s_.smear ? Sigmoid(w_.at("smear.gate")) : at::zeros_like(embedded[0]);
      const bool alone = t == 0 || (s_.reset_at_bos && ids[t] == 1);
      x0.push_back(alone ? (1 - g) * embedded[t] : (1 - g) * embedded[t] + g * embedded[t - 1]);
    }
    return x0;
  }

  Rows Sequence(const std::vector<int64_t>& ids) const {
    const Rows x0 = Embed(ids);
    std::vector<int64_t> order;
    for (int64_t i = 0; i < s_.num_layers; ++i) {
      order.push_back(i);
      if (looped && i == s_.loop_end)
        for (int64_t loop = 0; loop < s_.num_loops; ++loop)
          for (int64_t j = s_.loop_start; j <= s_.loop_end; ++j) order.push_back(j);
    }
    // The first half of the visits, each kept for one of the second half, the last one first.
    const size_t half = order.size() / 2;
    std::vector<Rows> kept;
    Rows x = x0, lane1, mixed;
    for (size_t place = 0; place < order.size(); ++place) {
      const int64_t layer = order[place], j = static_cast<int64_t>(place) - static_cast<int64_t>(half);
      if (j >= 0 && lane1.empty() && s_.parallel_start_layer > 0 && layer >= s_.parallel_start_layer) lane1 = x;
      if (j >= 0 && !kept.empty()) {
        for (size_t t = 0; t < x.size(); ++t) {
          const at::Tensor skip = w_.at("skip_weights")[j] * kept.back()[t];
          const at::Tensor gate = s_.skip_gates_enabled ? Sigmoid(w_.at("skip_gates")[j]) : at::Tensor();
          x[t] = s_.skip_gates_enabled ? gate * x[t] + (1 - gate) * skip : x[t] + skip;
        }
        kept.pop_back();
      }
      const Rows attention = ScaledAttention(layer, ids, x, x0, &mixed);
      if (lane1.empty()) {
        x = Sum(mixed, attention);
        x = Sum(x, ScaledMlp(layer, x));
      } else {
        const Rows mlp = ScaledMlp(layer, lane1);
        const at::Tensor resid = w_.at("parallel_resid_lambdas")[layer], post = w_.at("parallel_post_lambdas")[layer];
        for (size_t t = 0; t < x.size(); ++t) {
          x[t] = resid[0] * x[t] + post[0][0] * attention[t] + post[1][0] * mlp[t];
          lane1[t] = resid[1] * lane1[t] + post[0][1] * attention[t] + post[1][1] * mlp[t];
        }
      }
      if (place < half) kept.push_back(x);
    }
    for (size_t t = 0; t < x.size() && !lane1.empty(); ++t) {
      if (s_.parallel_final_lane == "mean") x[t] = (x[t] + lane1[t]) / 2;
      if (s_.parallel_final_lane == "mlp") x[t] = lane1[t];
    }
    const std::string output = s_.tie_embeddings ? "tok_emb.weight" : "lm_head.weight";
    for (at::Tensor& row : x) row = s_.logit_softcap * at::tanh(Product(output, Rms(row)) / s_.logit_softcap);
    return x;
  }

  Settings s_;
  std::map<std::string, at::Tensor> w_;
};

}  // namespace fairway
