#include "common/plan/plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "common/base/json.h"
#include "common/base/text.h"

namespace fairway {
namespace {

// Orthogonal first values need at least so many rows and columns in pull request 531; smaller matrices keep the layers' default.
constexpr int64_t kLeastOrthogonal = 64;

struct RoleTraits {
  std::string_view name;
  bool table, linear;
};
// In the order of Role.
constexpr RoleTraits kRoles[] = {
    {"token_embedding", true, false},  {"value_embedding", true, false}, {"bigram_embedding", true, false}, {"bigram_projection", false, true},
    {"query", false, true},            {"key", false, true},             {"value", false, true},            {"attention_output", false, true},
    {"mlp_up", false, true},           {"mlp_down", false, true},        {"lm_head", false, true},          {"control", false, false},
    {"attention_gate", false, false},  {"other", false, false},
};
const RoleTraits& TraitsOf(Role role) { return kRoles[static_cast<size_t>(role)]; }

// The names of matrices and tables; a layer's have the prefix "blocks.N.".
struct RoleOfName {
  Role role;
  std::string_view name;
  bool of_layer;
};
constexpr std::string_view kBlocks = "blocks.";
constexpr RoleOfName kNames[] = {
    {Role::kTokenEmbedding, "tok_emb.weight", false},
    {Role::kBigramEmbedding, "bigram.embed.weight", false},
    {Role::kBigramProjection, "bigram.proj.weight", false},
    {Role::kLmHead, "lm_head.weight", false},
    {Role::kQuery, "attn.c_q.weight", true},
    {Role::kKey, "attn.c_k.weight", true},
    {Role::kValue, "attn.c_v.weight", true},
    {Role::kAttentionOutput, "attn.proj.weight", true},
    {Role::kMlpUp, "mlp.fc.weight", true},
    {Role::kMlpDown, "mlp.proj.weight", true},
    {Role::kAttentionGate, "attn.attn_gate_w", true},
    {Role::kValueEmbedding, "attn.value_embed.weight", true},
};

std::string NameOf(Role role, int64_t layer) {
  const auto& own = *std::find_if(std::begin(kNames), std::end(kNames), [&](const RoleOfName& name) { return name.role == role; });
  return own.of_layer ? std::string(kBlocks) + std::to_string(layer) + "." + std::string(own.name) : std::string(own.name);
}

// Which layers a pass visits, in order.
std::vector<int64_t> VisitedLayers(const Settings& s, bool looped) {
  std::vector<int64_t> layers;
  for (int64_t i = 0; i < s.num_layers; ++i) {
    layers.push_back(i);
    if (!looped || i != s.loop_end) continue;
    for (int64_t loop = 0; loop < s.num_loops; ++loop)
      for (int64_t j = s.loop_start; j <= s.loop_end; ++j) layers.push_back(j);
  }
  return layers;
}

}  // namespace

std::string_view RoleName(Role role) { return TraitsOf(role).name; }
Role RoleOf(std::string_view name) {
  const bool of_layer = name.starts_with(kBlocks);
  if (of_layer) {
    const size_t dot = name.find_first_not_of("0123456789", kBlocks.size());
    if (dot == kBlocks.size() || dot == std::string_view::npos || name[dot] != '.') return Role::kOther;
    name.remove_prefix(dot + 1);
  }
  for (const RoleOfName& own : kNames)
    if (own.of_layer == of_layer && own.name == name) return own.role;
  return Role::kOther;
}

bool IsTable(Role role) { return TraitsOf(role).table; }
bool IsLinear(Role role) { return TraitsOf(role).linear; }

std::string_view GroupName(Group group) {
  constexpr std::string_view kNames[] = {"embeddings", "head", "vectors", "matrices"};
  return kNames[static_cast<size_t>(group)];
}

int64_t Plan::parameters() const {
  return std::accumulate(weights.begin(), weights.end(), int64_t{0}, [](int64_t sum, const Weight& weight) { return sum + weight.numel(); });
}

int64_t Weight::numel() const { return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()); }

Plan::Plan(const Settings& s)
    : V(s.vocab_size),
      L(s.num_layers),
      D(s.model_dim),
      H(s.num_heads),
      Hkv(s.num_kv_heads),
      d(D / H),
      F(static_cast<int64_t>(s.mlp_mult * static_cast<double>(D))),
      bigram_rows(s.bigram_vocab_size),
      bigram_dim(s.bigram_vocab_size > 0 ? s.bigram_dim : 0),
      rotated(s.rope_dims > 0 ? s.rope_dims : d),
      skips(static_cast<int64_t>(VisitedLayers(s, /*looped=*/true).size()) / 2),
      tied(s.tie_embeddings),
      loops_(s.num_loops > 0) {
  AddWeights(s);
  AddDraws(s);
  once_ = Order(VisitedLayers(s, /*looped=*/false), s);
  looped_ = Order(VisitedLayers(s, /*looped=*/true), s);
}

// The first half of the visits leaves its outputs on a stack, from which the second half takes them: the last one first.
std::vector<Visit> Plan::Order(const std::vector<int64_t>& visited, const Settings& s) const {
  const int64_t count = static_cast<int64_t>(visited.size()), half = count / 2;
  std::vector<Visit> visits;
  std::vector<bool> seen(L);
  bool lanes = false;
  for (int64_t v = 0; v < count; ++v) {
    Visit visit{.layer = visited[v], .first_of_layer = !seen[visited[v]]};
    seen[visited[v]] = true;
    visit.input_is_skip = v > 0 && v <= half;
    if (const int64_t place = v - half; place >= 0 && place < half) {
      visit.skip_from = half - 1 - place;
      visit.skip_row = place;
    }
    if (v >= half && s.parallel_start_layer > 0 && visit.layer >= s.parallel_start_layer) visit.enters_lanes = !std::exchange(lanes, true);
    visit.lanes = lanes;
    visits.push_back(visit);
  }
  return visits;
}

int Plan::Add(Weight weight) {
  weights.push_back(std::move(weight));
  return static_cast<int>(weights.size()) - 1;
}

void Plan::AddWeights(const Settings& s) {
  const std::vector<std::string> control = Split(s.control_tensor_name_patterns, ',');
  const auto group_of = [&](const std::string& name, Role role) {
    if (IsTable(role)) return Group::kEmbeddings;
    if (role == Role::kLmHead) return Group::kHead;
    const auto in_name = [&](const std::string& part) { return name.find(part) != std::string::npos; };
    return IsLinear(role) && std::none_of(control.begin(), control.end(), in_name) ? Group::kMatrices : Group::kVectors;
  };
  int64_t layer = -1;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, std::vector<float> first = {}, Role role = Role::kControl) {
    return Add({.name = name, .shape = std::move(shape), .role = role, .group = group_of(name, role), .layer = layer, .first = std::move(first)});
  };
  const auto matrix = [&](Role role, int64_t rows, int64_t columns) { return add(NameOf(role, layer), {rows, columns}, {}, role); };
  const auto linear = [&](std::vector<int> parts, int scale = kNone, double constant = 1) {
    Linear all{.weights = std::move(parts), .scale = scale, .constant = constant};
    for (const int part : all.weights) {
      all.rows += weights[part].shape[0];
      all.columns = weights[part].shape[1];
    }
    return all;
  };
  const float gain = static_cast<float>(s.qk_gain_init);

  skip_weights = add("skip_weights", {skips, D}, {1});
  if (s.skip_gates_enabled) skip_gates = add("skip_gates", {skips, D});
  tok_emb = matrix(Role::kTokenEmbedding, V, D);
  if (bigram_rows > 0) {
    bigram_scale = add("bigram.scale", {}, {0.05f});
    bigram_embed = matrix(Role::kBigramEmbedding, bigram_rows, bigram_dim);
    if (bigram_dim != D)
      bigram_proj = linear({matrix(Role::kBigramProjection, D, bigram_dim)}, bigram_scale);
  }
  if (s.smear) smear_gate = add("smear.gate", {D});
  if (s.smear_gate_enabled) {
    smear_window = add("smear_gate.weight", {1, s.gate_window});
    smear_lambda = add("smear_lambda", {1});
  }
  for (int64_t i = 0; i < L; ++i) {
    layer = i;
    const std::string block = "blocks." + std::to_string(i) + ".";
    LayerPlan own{.attn_scale = add(block + "attn_scale", {D}, {1}),
                  .mlp_scale = add(block + "mlp_scale", {D}, {1}),
                  .resid_mix = add(block + "resid_mix", {2, D}, {1, 0}),
                  .q_gain = add(block + "attn.q_gain", {H}, {gain}),
                  .exclusive = i >= L - s.xsa_last_n,
                  .input_scale = s.ln_scale ? 1 / std::sqrt(static_cast<double>(i + 1)) : 1};
    if (s.sparse_attn_gate_enabled) own.attn_gate = matrix(Role::kAttentionGate, H, s.gate_window);
    if (s.value_embed_every > 0 && (i + 1) % s.value_embed_every == 0) own.value_embed = matrix(Role::kValueEmbedding, V, Hkv * d);
    const int q = matrix(Role::kQuery, H * d, D);
    const int k = matrix(Role::kKey, Hkv * d, D);
    const int v = matrix(Role::kValue, Hkv * d, D);
    own.qkv = linear({q, k, v}, kNone, own.input_scale);
    own.attn_proj = linear({matrix(Role::kAttentionOutput, D, D)}, own.attn_scale);
    own.mlp_fc = linear({matrix(Role::kMlpUp, F, D)}, kNone, own.input_scale);
    own.mlp_proj = linear({matrix(Role::kMlpDown, D, F)}, own.mlp_scale);
    layers.push_back(std::move(own));
  }
  layer = -1;
  if (s.parallel_start_layer > 0) {
    parallel_post = add("parallel_post_lambdas", {L, 2, 2}, {1});
    parallel_resid = add("parallel_resid_lambdas", {L, 2}, {1.1f});
  }
  head = linear({tied ? tok_emb : matrix(Role::kLmHead, V, D)});
}

void Plan::AddDraws(const Settings& s) {
  using Kind = InitialDraw::Kind;
  const bool every_layer = s.published_entry == "531", projected = !bigram_proj.weights.empty();
  const auto draw = [&](int weight, Kind kind, bool kept = true, double scale = 1) {
    draws.push_back({.weight = static_cast<size_t>(weight), .kind = kind, .scale = scale, .kept = kept});
  };
  const auto orthogonal = [&](int weight, double scale = 1) {
    const std::vector<int64_t>& shape = weights[weight].shape;
    if (!every_layer || (shape[0] >= kLeastOrthogonal && shape[1] >= kLeastOrthogonal)) draw(weight, Kind::kOrthogonal, true, scale);
  };
  const double projection_scale = 1 / std::sqrt(2.0 * static_cast<double>(L));

  // What the framework draws when the modules are made; most of it is drawn again below, or replaced by zeros.
  draw(tok_emb, Kind::kNormal, /*kept=*/!tied);
  if (bigram_rows > 0) draw(bigram_embed, Kind::kNormal, /*kept=*/false);
  if (projected) draw(bigram_proj.weights[0], Kind::kKaimingUniform, /*kept=*/false);
  if (every_layer) {
    for (const LayerPlan& layer : layers) {
      for (const int weight : layer.qkv.weights) draw(weight, Kind::kKaimingUniform);
      draw(layer.attn_proj.weights[0], Kind::kKaimingUniform, /*kept=*/false);
      draw(layer.mlp_fc.weights[0], Kind::kKaimingUniform);
      draw(layer.mlp_proj.weights[0], Kind::kKaimingUniform, /*kept=*/false);
    }
  }
  if (!tied) draw(head.weights[0], Kind::kKaimingUniform, /*kept=*/false);
  if (smear_window != kNone) draw(smear_window, Kind::kKaimingUniform, /*kept=*/false);

  // The model's own.
  if (tied) draw(tok_emb, Kind::kNormal, true, s.tied_embed_init_std);
  // As published, what is smaller keeps what it has, which of this one is 0: the table is 0 too, each is a factor of the other's
  // gradient, and both stay 0.
  if (projected && s.published_quirks) orthogonal(bigram_proj.weights[0], projection_scale);
  else if (projected) draw(bigram_proj.weights[0], Kind::kOrthogonal, true, projection_scale);
  for (const LayerPlan& layer : layers) {
    for (const int weight : layer.qkv.weights) orthogonal(weight);
    if (every_layer) orthogonal(layer.mlp_fc.weights[0]);
  }
  if (!every_layer)
    for (const LayerPlan& layer : layers) orthogonal(layer.mlp_fc.weights[0]);
}

int Plan::Find(std::string_view name) const {
  const auto found = std::find_if(weights.begin(), weights.end(), [&](const Weight& weight) { return weight.name == name; });
  return found == weights.end() ? kNone : static_cast<int>(found - weights.begin());
}

double Plan::ProductsPerToken(bool looped) const {
  const auto size = [](const Linear& linear) { return static_cast<double>(linear.rows) * static_cast<double>(linear.columns); };
  double products = size(head) + size(bigram_proj);
  for (const Visit& visit : visits(looped)) {
    const LayerPlan& layer = layers[visit.layer];
    for (const Linear* linear : {&layer.qkv, &layer.attn_proj, &layer.mlp_fc, &layer.mlp_proj}) products += size(*linear);
  }
  return products;
}

double Plan::AttentionPerTokenAndPosition(bool looped) const {
  return 2 * static_cast<double>(D) * static_cast<double>(visits(looped).size());  // q k^T and P v
}

std::string Plan::ToJson() const {
  using Json = nlohmann::ordered_json;
  const auto linear = [&](const Linear& all) {
    Json names = Json::array();
    for (const int weight : all.weights) names.push_back(weights[weight].name);
    return Json{{"weights", names},
                {"scale", all.scale == kNone ? Json() : Json(weights[all.scale].name)},
                {"constant", all.constant},
                {"rows", all.rows},
                {"columns", all.columns}};
  };
  const auto order = [](const std::vector<Visit>& all) {
    Json list = Json::array();
    for (const Visit& visit : all) {
      Json one{{"layer", visit.layer}};
      if (visit.skip_from >= 0) one.update({{"skip_from", visit.skip_from}, {"skip_row", visit.skip_row}});
      if (visit.lanes) one["lanes"] = 2;
      list.push_back(one);
    }
    return list;
  };
  Json json{{"vocab_size", V}, {"num_layers", L}, {"model_dim", D}, {"num_heads", H}, {"num_kv_heads", Hkv}, {"head_dim", d}, {"mlp_dim", F},
            {"bigram_vocab_size", bigram_rows}, {"bigram_dim", bigram_dim}, {"rotated_dims", rotated}};
  Json all = Json::array();
  for (const Weight& weight : weights) {
    all.push_back({{"name", weight.name}, {"shape", weight.shape}, {"role", RoleName(weight.role)}, {"group", GroupName(weight.group)},
                   {"layer", weight.layer < 0 ? Json() : Json(weight.layer)}});
  }
  json["parameters"] = parameters();
  json["weights"] = all;
  constexpr std::array<std::string_view, 3> kKinds{"normal", "kaiming_uniform", "orthogonal"};
  for (const InitialDraw& draw : draws)
    json["draws"].push_back({{"weight", weights[draw.weight].name}, {"kind", kKinds[static_cast<size_t>(draw.kind)]}, {"scale", draw.scale}, {"kept", draw.kept}});
  for (const LayerPlan& layer : layers) {
    json["layers"].push_back({{"qkv", linear(layer.qkv)},
                              {"attn_proj", linear(layer.attn_proj)},
                              {"mlp_fc", linear(layer.mlp_fc)},
                              {"mlp_proj", linear(layer.mlp_proj)},
                              {"exclusive", layer.exclusive},
                              {"value_embed", layer.value_embed == kNone ? Json() : Json(weights[layer.value_embed].name)}});
  }
  if (!bigram_proj.weights.empty()) json["bigram_proj"] = linear(bigram_proj);
  json["head"] = linear(head);
  json["visits"] = order(once_);
  json["multiply_adds_per_token"] = ProductsPerToken(false);
  json["attention_multiply_adds_per_token_and_position"] = AttentionPerTokenAndPosition(false);
  if (loops_) {
    json["visits_looped"] = order(looped_);
    json["multiply_adds_per_token_looped"] = ProductsPerToken(true);
    json["attention_multiply_adds_per_token_and_position_looped"] = AttentionPerTokenAndPosition(true);
  }
  return json.dump(2);
}

}  // namespace fairway
