// The model's description, derived from the settings once: its sizes, weights and layers, the order in which layers are visited,
// and what a token costs. Engines, optimisers, quantisers, estimates, records and benchmarks all read it. `train --print-plan`
// prints it as JSON.
//
// Notation: D model_dim, V vocab_size, H query heads, Hkv key/value heads, d = D / H, F hidden units of the MLP, L layers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/settings/settings.h"

namespace fairway {

// What a weight does in the model.
enum class Role {
  kTokenEmbedding,   // [V, D]; also the output layer where embeddings are tied
  kValueEmbedding,   // [V, Hkv d]: of a layer, added to attention's values
  kBigramEmbedding,  // [bigram_vocab_size, bigram_dim]
  // Linear layers, [out, in]:
  kBigramProjection,
  kQuery,
  kKey,
  kValue,
  kAttentionOutput,
  kMlpUp,
  kMlpDown,
  kLmHead,
  kControl,        // vectors, scalars and small matrices that scale, mix or shift
  kAttentionGate,  // [H, gate_window]: small, but exported on a grid of its own
  kOther,          // a tensor of a file that the model does not have
};
std::string_view RoleName(Role role);
// The role of the matrix or table of this name, in any model; kOther of all other tensors.
Role RoleOf(std::string_view name);
// Whether rows of the weight are looked up by number.
bool IsTable(Role role);
// Whether the weight is the matrix of a linear layer.
bool IsLinear(Role role);

// Who trains a weight, in the order in which the groups lie in memory (common/model/flat.h).
enum class Group { kEmbeddings, kHead, kVectors, kMatrices };
std::string_view GroupName(Group group);

struct Weight {
  std::string name;
  std::vector<int64_t> shape;
  Role role;
  Group group;
  int64_t layer = -1;        // -1: of no layer
  std::vector<float> first;  // values where no draw gives them: one for all elements, or one per row; none: zeros

  int64_t numel() const;
};

// The random draws of the initial weights, in their order. Each fills a tensor of the weight's shape.
struct InitialDraw {
  enum class Kind { kNormal, kKaimingUniform, kOrthogonal };
  size_t weight;
  Kind kind;
  double scale = 1;   // the values' factor: a normal's standard deviation
  bool kept = true;  // false: only the generator's state moves on
};

constexpr int kNone = -1;

// Matrices, one below the other, whose product with one input is computed at once: [rows, columns]. A learned scale per row and a
// constant are multiplied into them.
struct Linear {
  std::vector<int> weights;   // numbers in Plan::weights
  int scale = kNone;          // a weight: [rows], or [] for one scale of all rows
  double constant = 1;
  int64_t rows = 0, columns = 0;
};

struct LayerPlan {
  int attn_scale, mlp_scale, resid_mix, q_gain;  // numbers in Plan::weights
  int attn_gate = kNone, value_embed = kNone;    // where there is one
  Linear qkv, attn_proj, mlp_fc, mlp_proj;
  bool exclusive;      // exclusive self attention (arXiv 2603.09078)
  double input_scale;  // of the normed inputs of attention and MLP: 1 / sqrt(layer + 1) with ln_scale, else 1
};

// One pass through a layer. Visit v reads the stream that visit v - 1 left.
struct Visit {
  int64_t layer;
  // The skip that is mixed into its input: the visit whose output it is, and the row of skip_weights and skip_gates. -1: none.
  int64_t skip_from = -1, skip_row = -1;
  // Where this visit's input has been pushed as a skip: by visit v - 1, for a later one. The gradient of that skip comes back here.
  bool input_is_skip = false;
  // Two residual lanes: attention reads lane 0 and the MLP lane 1, both write both (pull request 1855).
  bool lanes = false;
  bool enters_lanes = false;  // the first such visit: both lanes begin as the stream
  bool first_of_layer = true;  // the earliest visit of its layer, where a backward pass completes the layer's gradients
};

class Plan {
 public:
  // REQUIRES: settings.CheckModel() passes.
  explicit Plan(const Settings& settings);

  int64_t V, L, D, H, Hkv, d, F;
  int64_t bigram_rows, bigram_dim;  // both 0: no bigram part
  int64_t rotated;                  // leading dimensions of a head that rotary embedding turns
  int64_t skips;                    // rows of skip_weights
  bool tied;

  std::vector<Weight> weights;  // in the order of checkpoints
  std::vector<InitialDraw> draws;
  std::vector<LayerPlan> layers;
  // Numbers in `weights`; kNone where the model has no such weight.
  int tok_emb, skip_weights, skip_gates = kNone, bigram_scale = kNone, bigram_embed = kNone;
  int smear_gate = kNone;                                // [D], of smear
  int smear_window = kNone, smear_lambda = kNone;        // [1, gate_window] and [1], of smear_gate_enabled
  int parallel_post = kNone, parallel_resid = kNone;     // [L, 2, 2] by layer, source and lane; [L, 2] by layer and lane
  Linear bigram_proj;                                    // without weights where there is none
  Linear head;                                           // the output layer

  // The order of visits: each layer once, or with the looped segment num_loops + 1 times.
  const std::vector<Visit>& visits(bool looped) const { return looped ? looped_ : once_; }
  bool loops() const { return loops_; }

  int Find(std::string_view name) const;  // kNone where there is none
  int64_t parameters() const;             // elements of all weights
  // Multiply-adds per token in linear layers, over all visits; and per token and position of its context in attention.
  double ProductsPerToken(bool looped) const;
  double AttentionPerTokenAndPosition(bool looped) const;

  std::string ToJson() const;  // for `train --print-plan`

 private:
  std::vector<Visit> Order(const std::vector<int64_t>& layers, const Settings& settings) const;
  int Add(Weight weight);
  void AddWeights(const Settings& settings);
  void AddDraws(const Settings& settings);

  std::vector<Visit> once_, looped_;
  bool loops_;
};

}  // namespace fairway
