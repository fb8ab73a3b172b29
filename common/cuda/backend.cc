#include "common/cuda/backend.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <type_traits>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/cuda/attention.h"
#include "common/model/schedule.h"
#include "common/quantise/steps.h"

namespace fairway::cuda {
namespace {

// A linear layer's weight and where its products' copy lies: rows of T, rounded and scaled (cpu_engine.h).
template <class T>
struct Matrix {
  std::string name;
  ScaledRows rows{};
  bool has_grid = false;
  T* used = nullptr;
  at::Tensor gradient;  // float32 [rows, columns]; undefined where there is no training
  float* scale_gradient = nullptr;
};

// T, S: what products take and what the residual stream is held in (operations.h).
template <class T, class S>
class BackendOf : public Backend {
 public:
  BackendOf(const Settings& settings, const NamedTensors& parameters, const NamedTensors& gradients, Device& device);

  int64_t Prepare(bool fake_quantise) override;
  void SetLooped(bool looped) override {
    if (looped != looped_) shape_ = {};  // memory is of another number of visits
    looped_ = looped;
  }
  void FixSteps(const FixedSteps& steps) override;
  void Reserve(const BatchShape& shape, bool training) override;
  void AccumulateGradients(const Inputs& in, float share, at::Tensor loss) override;
  void FinishGradients() override;
  at::Tensor TokenLosses(const Inputs& in, int64_t first) override;

 private:
  // A linear layer of the plan: its weights, and the memory [rows, columns] that products use in their place.
  struct Product {
    at::Tensor used;
    std::vector<Matrix<T>> parts;
    at::Tensor gradient;  // of all parts, where theirs lie one behind the other, as a trainer's do
  };
  struct Layer {
    const float *resid_mix, *q_gain, *attn_gate;  // attn_gate: null where there is none
    float *resid_mix_gradient, *q_gain_gradient, *attn_gate_gradient;
    const T* value_embed;  // null where there is none
    at::Tensor value_embed_gradient;
    Product qkv, attn_proj, mlp_fc, mlp_proj;
  };
  // Of a visit, for the backward pass; all the same where there is none.
  struct Saved {
    at::Tensor u, qkv, qk;  // u [N, D]: attention's input
    at::Tensor gates;       // [N, H], of attention gates
    at::Tensor heads;       // [N, D]: attention's output behind exclusive self attention and gates, where there are such
    at::Tensor middle;      // [N, D]: the MLP's input
    at::Tensor inverse_norms;  // [N], of its norm
    at::Tensor h, act;      // [N, F]: before and behind its activation
    at::Tensor xa;          // [N, D], with two lanes: lane 0 behind the skip
    at::Tensor a, m;        // [N, D], with two lanes: what attention and MLP add
    AttentionOutput attended;
  };

  template <class Element>
  static constexpr at::ScalarType kTypeOf = std::is_same_v<Element, float> ? at::kFloat : at::kBFloat16;
  static constexpr at::ScalarType kElement = kTypeOf<T>, kStream = kTypeOf<S>;

  at::Tensor Empty(at::IntArrayRef shape, at::ScalarType dtype) const {
    return at::empty(shape, at::TensorOptions().dtype(dtype).device(torch_device_));
  }
  at::Tensor Integers(int32_t* data, at::IntArrayRef shape) const {
    return at::for_blob(data, shape).options(at::TensorOptions().dtype(at::kInt).device(torch_device_)).target_device(torch_device_).make_tensor();
  }
  // Undefined, and null, of kNone and where there is no training.
  at::Tensor ValueOf(int weight) const { return weight == kNone ? at::Tensor() : parameters_[weight].second.detach(); }
  at::Tensor GradientOf(int weight) const { return weight == kNone || gradients_.empty() ? at::Tensor() : gradients_[weight].second.detach(); }
  template <class Value>
  static Value* Data(const at::Tensor& tensor) {
    return tensor.defined() ? static_cast<Value*>(tensor.mutable_data_ptr()) : nullptr;
  }
  Product ProductOf(const Linear& linear);
  // Their gradients as one [rows of all, columns]; undefined where they lie elsewhere.
  static at::Tensor Joined(const std::vector<Matrix<T>>& parts);
  // out = in weight^T, and its way back to the input.
  void Multiply(at::Tensor out, const at::Tensor& in, const Product& product) const {
    at::mm_out(out, in, product.used.t());
    Passed("product", {out, in});
  }
  void MultiplyBack(at::Tensor din, const at::Tensor& dout, const Product& product) const {
    at::mm_out(din, dout, product.used);
    Passed("product, input's gradient", {din, dout});
  }
  // sum += in weight^T, added in float32.
  void AddProduct(at::Tensor sum, const at::Tensor& in, const Product& product) const {
    FloatProduct(sum, in, product.used.t());
    Passed("product", {sum, sum, in});
  }
  void AddWeightGradient(Product& product, const at::Tensor& dout, const at::Tensor& in) const;
  // The library has read or written these rows in memory.
  void Passed(const char* what, std::initializer_list<at::Tensor> rows) const {
    double bytes = 0;
    for (const at::Tensor& each : rows) bytes += static_cast<double>(each.nbytes());
    device_.Passed(what, bytes);
  }

  template <class Operation>
  void Run(const Operation& operation) const {
    device_.Launch(operation);
  }
  // sum = beta sum + a b, added in float32 whatever the products take; a stream's sum of fewer bits is rounded once.
  static void FloatProduct(at::Tensor sum, const at::Tensor& a, const at::Tensor& b, double beta = 1);
  void Norm(const at::Tensor& x, const at::Tensor& u, const at::Tensor& inverse_norms = {}) const {
    Run(NormForward<T, S>{.N = x.size(0), .D = D_, .x = Data<S>(x), .u = Data<T>(u), .inverse_norms = Data<float>(inverse_norms)});
  }
  // sums [columns] += the rows' partial sums.
  void AddPartials(const float* values, int64_t rows, int64_t stride, int64_t columns, float* sums) const {
    Run(AddColumns{.rows = rows, .stride = stride, .columns = columns, .values = values, .sums = sums});
  }

  const std::vector<Visit>& visits() const { return plan_.visits(looped_); }
  const LayerPlan& layer(size_t v) const { return plan_.layers[visits()[v].layer]; }
  MixNormInput<S> InputOf(size_t v) const;
  Heads HeadsOf() const;
  LanesInput<T, S> LanesOf(size_t v, const at::Tensor& lane0, const at::Tensor& lane1, const at::Tensor& a, const at::Tensor& m) const;
  AttentionGate<T> GateOf(size_t v) const;
  SmearGate<T> SmearOf() const;
  Span SpanOf() const;
  // What the MLP of a visit with two lanes reads.
  const at::Tensor& Lane1(size_t v) const { return visits()[v].enters_lanes ? x_[v] : lane1_[v]; }
  // [N, width] as [N, width / d, d]
  at::Tensor AsHeads(const at::Tensor& rows) const { return rows.view({N_, rows.size(1) / d_, d_}); }
  at::Tensor Queries(const Saved& s) const { return AsHeads(s.qk).narrow(1, 0, H_); }
  at::Tensor Keys(const Saved& s) const { return AsHeads(s.qk).narrow(1, H_, Hkv_); }
  at::Tensor Values(const Saved& s) const { return AsHeads(s.qkv).narrow(1, H_ + Hkv_, Hkv_); }

  // Of rows [N, (H + 2 Hkv) d] the values' columns.
  at::Tensor ValueColumns(const at::Tensor& qkv) const { return qkv.narrow(1, (H_ + Hkv_) * d_, Hkv_ * d_); }
  // [B, H, T, d] as rows [N, D]
  at::Tensor Rows(const at::Tensor& y) const { return y.transpose(1, 2).reshape({N_, D_}); }

  // The scored rows of [N, width], side by side.
  at::Tensor Tail(const at::Tensor& rows) const {
    if (first_ == 0) return rows;
    return rows.view({shape_.B, shape_.T, -1}).narrow(1, first_, shape_.T - first_).contiguous().view({-1, rows.size(1)});
  }
  // The backend of schedule.h.
  template <class Backend>
  friend void fairway::ForwardPass(const std::vector<Visit>& visits, Backend& backend);
  template <class Backend>
  friend void fairway::BackwardPass(const std::vector<Visit>& visits, Backend& backend);
  void Embed();
  void AttentionInput(size_t v);
  void Attention(size_t v);
  void Output(size_t v);
  void OutputBackward(size_t v);
  void AttentionBackward(size_t v);
  void AttentionInputBackward(size_t v);
  void LayerDone(int64_t) {}
  void EmbedBackward();
  void SmearGateBackward();

  void HeadWithGradients(float share);
  // Where the gradient of the stream is rounded for products; null where these take it as it is.
  T* RoundedDx() const { return std::is_same_v<T, S> ? nullptr : Data<T>(dx_rounded_); }
  HeadGates<T> HeadGatesOf(size_t v) const;
  // What the output projection takes.
  at::Tensor HeadsOut(size_t v, const at::Tensor& y) const { return layer(v).exclusive || saved_[v].gates.defined() ? saved_[v].heads : y; }
  void Scatter(const TableInputs& table, const at::Tensor& x, const float* scale, const at::Tensor& gradient);

  const Settings settings_;
  const NamedTensors parameters_, gradients_;
  Device& device_;
  const at::Device torch_device_;
  const Plan plan_;
  const int64_t V_, D_, H_, Hkv_, d_, F_, bigram_dim_;
  const float cap_, negative_slope_;
  bool looped_;

  std::vector<Layer> layers_;
  std::vector<Matrix<T>*> matrices_;
  at::Tensor tok_emb_, output_;  // output_: the table that logits come from, as products use it
  at::Tensor tok_emb_gradient_, output_gradient_, bigram_embed_, bigram_embed_gradient_;
  Product bigram_proj_, lm_head_;  // without parts where there is none
  // Null of what the model does not have; gate_ has a stand-in for its value.
  struct Vector {
    const float* value = nullptr;
    float* gradient = nullptr;
  };
  Vector VectorOf(int weight) const { return {Data<float>(ValueOf(weight)), Data<float>(GradientOf(weight))}; }
  Vector skip_weights_, skip_gates_, gate_, bigram_scale_, smear_window_, smear_lambda_, parallel_post_, parallel_resid_;

  FixedSteps steps_;        // what matrices point into
  at::Tensor closed_gate_;  // float32 [D], where there is no smear gate
  at::Tensor sums_;         // float32 [D]: of one operation for the next

  // Memory of the reserved shape.
  BatchShape shape_;
  int64_t N_ = 0;
  bool training_ = false;
  const Inputs* in_ = nullptr;  // of the pass that runs
  int64_t first_ = 0;           // positions before this one are not scored in it
  Rotary rotary_;
  std::vector<at::Tensor> x_;      // [visits + 1] of [N, D]: the stream, or lane 0, before each visit; the stream behind the last
  at::Tensor scored_;              // of the latter, the scored rows
  std::vector<at::Tensor> lane1_;  // lane 1 before each visit, where it differs
  std::vector<Saved> saved_;
  std::vector<at::Tensor> dskip_;
  at::Tensor x1_, embed_norms_, output_norms_, smear_gates_, bigram_, u_, logits_, losses_;
  at::Tensor dlogits_, dh_, dx_, dx_rounded_, dx_lane1_, dx0_, da_, dm_, dy_, dqkv_, dbigram_, dv_exclusive_, dgates_, dsmear_, partials_, pieces_;
};

template <class T, class S>
typename BackendOf<T, S>::Product BackendOf<T, S>::ProductOf(const Linear& linear) {
  Product product{.used = Empty({linear.rows, linear.columns}, kElement), .parts = {}};
  int64_t row = 0;
  for (const int number : linear.weights) {
    const Weight& weight = plan_.weights[number];
    Matrix<T> m{.name = weight.name,
                .used = Data<T>(product.used.narrow(0, row, weight.shape[0])),
                .gradient = GradientOf(number)};
    row += weight.shape[0];
    m.rows = {.rows = weight.shape[0], .columns = weight.shape[1], .weight = Data<float>(ValueOf(number))};
    m.rows.constant = static_cast<float>(linear.constant);
    if (const std::optional<Grid> grid = TrainingGrid(weight.name, weight.shape[0], weight.shape[1], settings_)) {
      m.has_grid = true;
      m.rows.q_min = static_cast<float>(grid->q_min);
      m.rows.q_max = static_cast<float>(grid->q_max);
      m.rows.least = settings_.published_quirks ? static_cast<float>(1.0 / grid->q_max) : 0x1p-24f;
      m.rows.stored = !settings_.published_quirks;
      m.rows.exact_codes = *grid == kInt8;
    }
    if (linear.scale != kNone) {
      m.rows.scale = Data<float>(ValueOf(linear.scale));
      m.rows.scale_stride = plan_.weights[linear.scale].shape.empty() ? 0 : 1;
      m.scale_gradient = Data<float>(GradientOf(linear.scale));
    }
    product.parts.push_back(std::move(m));
  }
  product.gradient = Joined(product.parts);
  return product;
}

template <class T, class S>
at::Tensor BackendOf<T, S>::Joined(const std::vector<Matrix<T>>& parts) {
  const at::Tensor& first = parts.front().gradient;
  if (!first.defined()) return {};
  const float* next = Data<float>(first);
  int64_t rows = 0;
  for (const Matrix<T>& part : parts) {
    if (!part.gradient.is_alias_of(first) || Data<float>(part.gradient) != next) return {};
    next += part.gradient.numel();
    rows += part.rows.rows;
  }
  return first.as_strided({rows, first.size(1)}, {first.size(1), 1});
}

template <class T, class S>
BackendOf<T, S>::BackendOf(const Settings& settings, const NamedTensors& parameters, const NamedTensors& gradients, Device& device)
    : settings_(settings),
      parameters_(parameters),
      gradients_(gradients),
      device_(device),
      torch_device_(device.torch_device()),
      plan_(settings),
      V_(plan_.V),
      D_(plan_.D),
      H_(plan_.H),
      Hkv_(plan_.Hkv),
      d_(plan_.d),
      F_(plan_.F),
      bigram_dim_(plan_.bigram_dim),
      cap_(static_cast<float>(settings.logit_softcap)),
      negative_slope_(static_cast<float>(settings.mlp_negative_slope)),
      looped_(plan_.loops()) {
  const int64_t multiple = std::is_same_v<T, float> ? 4 : 8, largest = 256;
  if (torch_device_.is_cuda() && (d_ % multiple != 0 || d_ > largest)) {
    throw UsageError(StringPrintf("MODEL_DIM=%jd and NUM_HEADS=%jd make heads of %jd; on a GPU in %s they must be a multiple of "
                                  "%jd up to %jd",
                                  D_, H_, d_, settings.precision.c_str(), multiple, largest));
  }
  sums_ = Empty({D_}, at::kFloat);
  tok_emb_ = ValueOf(plan_.tok_emb);
  tok_emb_gradient_ = GradientOf(plan_.tok_emb);
  skip_weights_ = VectorOf(plan_.skip_weights);
  skip_gates_ = VectorOf(plan_.skip_gates);
  smear_window_ = VectorOf(plan_.smear_window);
  smear_lambda_ = VectorOf(plan_.smear_lambda);
  parallel_post_ = VectorOf(plan_.parallel_post);
  parallel_resid_ = VectorOf(plan_.parallel_resid);
  if (plan_.smear_gate != kNone) {
    gate_ = VectorOf(plan_.smear_gate);
  } else {
    closed_gate_ = Empty({D_}, at::kFloat).fill_(-std::numeric_limits<float>::infinity());  // its sigmoid is 0
    gate_.value = Data<float>(closed_gate_);
  }
  if (bigram_dim_ > 0) {
    bigram_embed_ = ValueOf(plan_.bigram_embed);
    bigram_embed_gradient_ = GradientOf(plan_.bigram_embed);
    bigram_scale_ = VectorOf(plan_.bigram_scale);
    if (!plan_.bigram_proj.weights.empty()) bigram_proj_ = ProductOf(plan_.bigram_proj);
  }
  if (plan_.tied) {
    output_ = tok_emb_;
    output_gradient_ = tok_emb_gradient_;
  } else {
    lm_head_ = ProductOf(plan_.head);
    output_ = lm_head_.used;
    output_gradient_ = lm_head_.parts[0].gradient;
  }
  for (const LayerPlan& layer : plan_.layers) {
    layers_.push_back({.resid_mix = Data<float>(ValueOf(layer.resid_mix)),
                       .q_gain = Data<float>(ValueOf(layer.q_gain)),
                       .attn_gate = Data<float>(ValueOf(layer.attn_gate)),
                       .resid_mix_gradient = Data<float>(GradientOf(layer.resid_mix)),
                       .q_gain_gradient = Data<float>(GradientOf(layer.q_gain)),
                       .attn_gate_gradient = Data<float>(GradientOf(layer.attn_gate)),
                       .value_embed = Data<T>(ValueOf(layer.value_embed)),
                       .value_embed_gradient = GradientOf(layer.value_embed),
                       .qkv = ProductOf(layer.qkv),
                       .attn_proj = ProductOf(layer.attn_proj),
                       .mlp_fc = ProductOf(layer.mlp_fc),
                       .mlp_proj = ProductOf(layer.mlp_proj)});
  }
  const auto list = [&](Product& product) {
    for (Matrix<T>& part : product.parts) matrices_.push_back(&part);
  };
  list(bigram_proj_);
  list(lm_head_);
  for (Layer& layer : layers_)
    for (Product* product : {&layer.qkv, &layer.attn_proj, &layer.mlp_fc, &layer.mlp_proj}) list(*product);
}

template <class T, class S>
void BackendOf<T, S>::AddWeightGradient(Product& product, const at::Tensor& dout, const at::Tensor& in) const {
  if (product.gradient.defined()) {
    FloatProduct(product.gradient, dout.t(), in);
    Passed("product, weight's gradient", {dout, in});
    return;
  }
  int64_t row = 0;
  for (Matrix<T>& part : product.parts) {
    FloatProduct(part.gradient, dout.narrow(1, row, part.rows.rows).t(), in);
    Passed("product, weight's gradient", {dout.narrow(1, row, part.rows.rows), in});
    row += part.rows.rows;
  }
}

template <class T, class S>
int64_t BackendOf<T, S>::Prepare(bool fake_quantise) {
  int64_t rounded = 0;
  for (Matrix<T>* m : matrices_) {
    m->rows.rounded = fake_quantise && m->has_grid;
    rounded += m->rows.rounded;
    Run(PrepareRows<T>{.matrix = m->rows, .used = m->used});
  }
  return rounded;
}

template <class T, class S>
void BackendOf<T, S>::FixSteps(const FixedSteps& steps) {
  steps_ = steps;
  for (Matrix<T>* m : matrices_) {
    const auto own = steps_.find(m->name);
    m->has_grid = own != steps_.end();
    if (!m->has_grid) continue;
    m->rows.q_min = -kLargestCode;
    m->rows.q_max = kLargestCode;
    m->rows.steps = Data<float>(own->second.rows);
    m->rows.factors = Data<float>(own->second.columns);
  }
}

template <class T, class S>
void BackendOf<T, S>::FinishGradients() {
  for (Matrix<T>* m : matrices_) {
    if (m->rows.scale == nullptr && m->rows.constant == 1) continue;
    Run(FinishRows{.matrix = m->rows,
                   .gradient = Data<float>(m->gradient),
                   .scale_gradient = m->scale_gradient,
                   .shares = Data<float>(sums_)});
    if (m->rows.scale != nullptr && m->rows.scale_stride == 0) AddPartials(Data<float>(sums_), m->rows.rows, 1, 1, m->scale_gradient);
  }
}

template <class T, class S>
void BackendOf<T, S>::Reserve(const BatchShape& shape, bool training) {
  if (shape == shape_ && training == training_) return;
  shape_ = shape;
  N_ = shape.N();
  training_ = training;
  const int64_t qkv = (H_ + 2 * Hkv_) * d_, kv = Hkv_ * d_, window = settings_.gate_window;
  const bool gated = plan_.layers[0].attn_gate != kNone, lanes = visits().back().lanes, smears = plan_.smear_window != kNone;
  // Each is given back before its successor is taken.
  const auto reserve = [&](at::Tensor& tensor, at::IntArrayRef shape, at::ScalarType dtype, bool needed = true) {
    tensor.reset();
    if (needed) tensor = Empty(shape, dtype);
  };
  rotary_ = RotaryTables(settings_, shape.rotary_positions());
  rotary_ = {rotary_.cos.to(torch_device_), rotary_.sin.to(torch_device_)};
  x_.resize(visits().size() + 1);
  for (at::Tensor& x : x_) reserve(x, {N_, D_}, kStream);
  lane1_.resize(visits().size());
  saved_.clear();
  for (size_t v = 0; v < visits().size(); ++v) {
    reserve(lane1_[v], {N_, D_}, kStream, visits()[v].lanes && !visits()[v].enters_lanes);
    if (v > 0 && !training) {
      saved_.push_back(saved_[0]);
      continue;
    }
    Saved& saved = saved_.emplace_back();
    reserve(saved.u, {N_, D_}, kElement);
    reserve(saved.qkv, {N_, qkv}, kElement);
    reserve(saved.qk, {N_, D_ + kv}, kElement);
    reserve(saved.gates, {N_, H_}, at::kFloat, gated);
    reserve(saved.heads, {N_, D_}, kElement, gated || (training ? layer(v).exclusive : settings_.xsa_last_n > 0));
    reserve(saved.middle, {N_, D_}, kElement);
    reserve(saved.inverse_norms, {N_}, at::kFloat);
    for (at::Tensor* hidden : {&saved.h, &saved.act}) reserve(*hidden, {N_, F_}, kElement);
    reserve(saved.xa, {N_, D_}, kStream, training ? visits()[v].lanes : lanes);
    for (at::Tensor* added : {&saved.a, &saved.m}) reserve(*added, {N_, D_}, kElement, training ? visits()[v].lanes : lanes);
  }
  const int64_t head_rows = std::min(kHeadRows, N_), slabs = SlabsOf(N_).slabs;
  reserve(x1_, {N_, D_}, kStream, !smears);
  reserve(embed_norms_, {N_}, at::kFloat);
  reserve(output_norms_, {N_}, at::kFloat, training);
  reserve(smear_gates_, {N_}, at::kFloat, smears);
  reserve(bigram_, {N_, bigram_dim_}, kElement, bigram_dim_ > 0);
  reserve(u_, {N_, D_}, kElement);
  reserve(logits_, {head_rows, V_}, at::kFloat);
  reserve(losses_, {N_}, at::kFloat);
  reserve(dlogits_, {head_rows, V_}, kElement, training);
  reserve(dh_, {N_, F_}, kElement, training);
  reserve(dx_, {N_, D_}, kStream, training);
  dx_rounded_.reset();
  if (training) dx_rounded_ = std::is_same_v<T, S> ? dx_ : Empty({N_, D_}, kElement);
  reserve(dx_lane1_, {N_, D_}, kStream, training && lanes);
  reserve(dx0_, {N_, D_}, kStream, training);
  for (at::Tensor* added : {&da_, &dm_}) reserve(*added, {N_, D_}, kElement, training && lanes);
  reserve(dy_, {N_, D_}, kElement, training);
  reserve(dqkv_, {N_, qkv}, kElement, training);
  reserve(dbigram_, {N_, bigram_dim_}, kElement, training && bigram_proj_.used.defined());
  reserve(dv_exclusive_, {N_, kv}, kElement, training);
  reserve(dgates_, {N_, H_}, at::kFloat, training && gated);
  reserve(dsmear_, {N_}, at::kFloat, training && smears);
  reserve(partials_, {slabs, PartialSums(plan_, window)}, at::kFloat, training);
  dskip_.resize(training ? visits().size() / 2 : 0);
  for (at::Tensor& dskip : dskip_) reserve(dskip, {N_, D_}, kStream);
  const Inputs sizes(settings_, shape_, nullptr);
  reserve(pieces_, {std::max(sizes.tokens.partials() * D_, sizes.bigrams.partials() * bigram_dim_)}, at::kFloat, training);
}

template <class T, class S>
void BackendOf<T, S>::FloatProduct(at::Tensor sum, const at::Tensor& a, const at::Tensor& b, double beta) {
  if (sum.is_cuda() && sum.scalar_type() != a.scalar_type()) {
    // bfloat16 operands and a float32 sum: an overload that LibTorch has since 2.11, for CUDA alone.
    at::addmm_out(sum, sum, a, b, at::kFloat, beta);
  } else if (sum.is_cuda() || std::is_same_v<T, float>) {
    sum.addmm_(a, b, beta);
  } else {  // the CPU's products have one dtype, and add in it
    const at::Tensor added = sum.to(at::kFloat);
    added.addmm_(a.to(at::kFloat), b.to(at::kFloat), beta);
    if (!added.is_same(sum)) sum.copy_(added);
  }
}

template <class T, class S>
MixNormInput<S> BackendOf<T, S>::InputOf(size_t v) const {
  const Visit& visit = visits()[v];
  MixNormInput<S> in{.D = D_, .x = Data<S>(x_[v]), .x0 = Data<S>(x_[0]), .mix = layers_[visit.layer].resid_mix};
  if (visit.skip_from >= 0) {
    in.skip = Data<S>(x_[visit.skip_from + 1]);
    in.skip_weight = skip_weights_.value + visit.skip_row * D_;
    if (skip_gates_.value != nullptr) in.skip_gate = skip_gates_.value + visit.skip_row * D_;
  }
  return in;
}

template <class T, class S>
LanesInput<T, S> BackendOf<T, S>::LanesOf(size_t v, const at::Tensor& lane0, const at::Tensor& lane1, const at::Tensor& a,
                                          const at::Tensor& m) const {
  const int64_t i = visits()[v].layer;
  const std::string& from = settings_.parallel_final_lane;
  return {.D = D_,
          .resid = parallel_resid_.value + 2 * i,
          .post = parallel_post_.value + 4 * i,
          .lane0 = Data<S>(lane0),
          .lane1 = Data<S>(lane1),
          .a = Data<T>(a),
          .m = Data<T>(m),
          .last = v + 1 == visits().size(),
          .share0 = from == "attn" ? 1.0f : from == "mlp" ? 0.0f : 0.5f};
}

template <class T, class S>
AttentionGate<T> BackendOf<T, S>::GateOf(size_t v) const {
  return {.D = D_,
          .H = H_,
          .d = d_,
          .window = settings_.gate_window,
          .scale = static_cast<float>(settings_.sparse_attn_gate_scale * layer(v).input_scale),
          .w = layers_[visits()[v].layer].attn_gate,
          .u = Data<T>(saved_[v].u)};
}

template <class T, class S>
HeadGates<T> BackendOf<T, S>::HeadGatesOf(size_t v) const {
  return {.N = N_, .heads = HeadsOf(), .qkv = layer(v).exclusive ? Data<T>(saved_[v].qkv) : nullptr, .gates = Data<float>(saved_[v].gates)};
}

template <class T, class S>
SmearGate<T> BackendOf<T, S>::SmearOf() const {
  return {.N = N_,
          .D = D_,
          .window = settings_.gate_window,
          .tok_emb = Data<T>(tok_emb_),
          .ids = in_->tokens.row,
          .before = in_->before,
          .joined = in_->joined,
          .w = smear_window_.value,
          .lambda = smear_lambda_.value};
}

template <class T, class S>
Span BackendOf<T, S>::SpanOf() const {
  Span span{.B = shape_.B, .T = shape_.T};
  if (shape_.segments > 0) {
    span.starts = Integers(in_->starts, {shape_.segments + 1});
    span.longest = shape_.longest;
  }
  return span;
}

template <class T, class S>
Heads BackendOf<T, S>::HeadsOf() const {
  return {.H = H_, .Hkv = Hkv_, .d = d_, .rotated = plan_.rotated, .positions = in_->positions, .cos = Data<float>(rotary_.cos), .sin = Data<float>(rotary_.sin)};
}

template <class T, class S>
void BackendOf<T, S>::Embed() {
  if (smear_window_.value != nullptr) {
    Run(SmearGateForward<T, S>{
        .in = SmearOf(), .x0 = Data<S>(x_[0]), .gates = Data<float>(smear_gates_), .inverse_norms = Data<float>(embed_norms_)});
    return;
  }
  const bool projected = bigram_proj_.used.defined();
  const T* bigram = nullptr;
  if (bigram_dim_ > 0) {
    at::index_select_out(bigram_, bigram_embed_, 0, Integers(in_->bigrams.row, {N_}));
    if (projected) Multiply(u_, bigram_, bigram_proj_);  // its scale is in its weights
    bigram = Data<T>(projected ? u_ : bigram_);
  }
  Run(EmbedForward<T, S>{.N = N_,
                         .D = D_,
                         .tok_emb = Data<T>(tok_emb_),
                         .ids = in_->tokens.row,
                         .bigram = bigram,
                         .bigram_scale = projected ? nullptr : bigram_scale_.value,
                         .x1 = Data<S>(x1_),
                         .inverse_norms = Data<float>(embed_norms_)});
  Run(SmearForward<S>{.N = N_, .D = D_, .gate = gate_.value, .joined = in_->joined, .x1 = Data<S>(x1_), .x0 = Data<S>(x_[0])});
}

// The residual path's part goes to where attention's output is added to it: the stream behind the visit, or lane 0.
template <class T, class S>
void BackendOf<T, S>::AttentionInput(size_t v) {
  const Layer& own = layers_[visits()[v].layer];
  Saved& saved = saved_[v];
  const bool lanes = visits()[v].lanes;
  Run(MixNormForward<T, S>{.N = N_,
                           .in = InputOf(v),
                           .carries_input = lanes,
                           .residual = Data<S>(lanes ? saved.xa : x_[v + 1]),
                           .u = Data<T>(saved.u)});
  if (own.attn_gate != nullptr) Run(AttentionGates<T>{.N = N_, .gate = GateOf(v), .gates = Data<float>(saved.gates)});
  Multiply(saved.qkv, saved.u, own.qkv);
  if (own.value_embed != nullptr)
    Run(AddTableRows<T>{.N = N_,
                        .width = Hkv_ * d_,
                        .stride = saved.qkv.stride(0),
                        .table = own.value_embed,
                        .row = in_->tokens.row,
                        .to = Data<T>(ValueColumns(saved.qkv))});
  Run(QkForward<T>{.N = N_, .heads = HeadsOf(), .gain = own.q_gain, .qkv = Data<T>(saved.qkv), .qk = Data<T>(saved.qk)});
}

template <class T, class S>
void BackendOf<T, S>::Attention(size_t v) {
  Saved& saved = saved_[v];
  saved.attended = Attend(SpanOf(), Queries(saved), Keys(saved), Values(saved));
  Passed("attention", {Queries(saved), Keys(saved), Values(saved), saved.attended.y});
}

// Through the output projection and the MLP, to the stream behind the visit, where both are added, or to both lanes; behind the last
// attention, only the scored rows.
template <class T, class S>
void BackendOf<T, S>::Output(size_t v) {
  const Layer& own = layers_[visits()[v].layer];
  Saved& saved = saved_[v];
  const bool lanes = visits()[v].lanes, last = v + 1 == visits().size();
  at::Tensor y = Rows(saved.attended.y);
  if (const at::Tensor heads = HeadsOut(v, y); !heads.is_same(y)) {
    Run(HeadGatesForward<T>{.in = HeadGatesOf(v), .y = Data<T>(y), .out = Data<T>(heads)});
    y = heads;
  }
  if (lanes) Multiply(saved.a, y, own.attn_proj);
  else AddProduct(x_[v + 1], y, own.attn_proj);
  const auto scored = [&](const at::Tensor& rows) { return last ? Tail(rows) : rows; };
  const at::Tensor x = scored(lanes ? Lane1(v) : x_[v + 1]);
  const int64_t N = x.size(0);
  const at::Tensor middle = saved.middle.narrow(0, 0, N), h = saved.h.narrow(0, 0, N), act = saved.act.narrow(0, 0, N), out = x_[v + 1].narrow(0, 0, N);
  Norm(x, middle, saved.inverse_norms);
  Multiply(h, middle, own.mlp_fc);
  Run(Relu2Forward<T>{.N = N, .F = F_, .negative = negative_slope_, .h = Data<T>(h), .a = Data<T>(act)});
  if (last) scored_ = lanes ? out : x;
  if (!lanes) return AddProduct(x, act, own.mlp_proj);
  const at::Tensor m = saved.m.narrow(0, 0, N);
  Multiply(m, act, own.mlp_proj);
  const at::Tensor lane0 = scored(saved.xa), a = scored(saved.a);
  Run(LanesForward<T, S>{.N = N,
                         .in = LanesOf(v, lane0, x, a, m),
                         .out0 = Data<S>(out),
                         .out1 = last ? nullptr : Data<S>(lane1_[v + 1])});
}

// Final norm, logits and losses, and their gradients: into dx, and into the output layer's.
template <class T, class S>
void BackendOf<T, S>::HeadWithGradients(float share) {
  Norm(x_.back(), u_, output_norms_);
  for (int64_t first = 0; first < N_; first += kHeadRows) {
    const int64_t rows = std::min(kHeadRows, N_ - first);
    const at::Tensor u = u_.narrow(0, first, rows), logits = logits_.narrow(0, 0, rows), dlogits = dlogits_.narrow(0, 0, rows);
    at::Tensor du = dy_.narrow(0, first, rows);
    FloatProduct(logits, u, output_.t(), /*beta=*/0);
    Passed("output layer", {logits, u});
    Run(CrossEntropy<T>{.N = rows,
                        .V = V_,
                        .cap = cap_,
                        .share = share,
                        .logits = Data<float>(logits),
                        .targets = in_->targets + first,
                        .losses = Data<float>(losses_) + first,
                        .dlogits = Data<T>(dlogits)});
    at::mm_out(du, dlogits, output_);
    FloatProduct(output_gradient_, dlogits.t(), u);
    Passed("output layer", {du, dlogits, dlogits, u});
  }
  Run(NormBackward<T, S>{.N = N_,
                         .D = D_,
                         .u = Data<T>(u_),
                         .inverse_norms = Data<float>(output_norms_),
                         .du = Data<T>(dy_),
                         .dx = Data<S>(dx_),
                         .dx_rounded = RoundedDx()});
}

template <class T, class S>
void BackendOf<T, S>::OutputBackward(size_t v) {
  const Visit& visit = visits()[v];
  Layer& own = layers_[visit.layer];
  Saved& saved = saved_[v];
  const Slabs slabs = SlabsOf(N_);
  // Gradients of what MLP and attention add: the stream's own, before and behind the MLP's norm, where there are no lanes.
  const at::Tensor &dm = visit.lanes ? dm_ : dx_rounded_, &da = visit.lanes ? da_ : dx_rounded_;
  if (visit.lanes) {
    Run(LanesBackward<T, S>{.rows = slabs,
                            .in = LanesOf(v, saved.xa, Lane1(v), saved.a, saved.m),
                            .d0 = Data<S>(dx_),
                            .d1 = Data<S>(dx_lane1_),
                            .da = Data<T>(da_),
                            .dm = Data<T>(dm_),
                            .partials = Data<float>(partials_)});
    constexpr int64_t kSums = LanesBackward<T, S>::kSums;
    AddPartials(Data<float>(partials_), slabs.slabs, kSums, 2, parallel_resid_.gradient + 2 * visit.layer);
    AddPartials(Data<float>(partials_) + 2, slabs.slabs, kSums, 4, parallel_post_.gradient + 4 * visit.layer);
  }
  MultiplyBack(dh_, dm, own.mlp_proj);
  AddWeightGradient(own.mlp_proj, dm, saved.act);
  Run(Relu2Backward<T>{.N = N_, .F = F_, .negative = negative_slope_, .h = Data<T>(saved.h), .da = Data<T>(dh_)});
  MultiplyBack(dy_, dh_, own.mlp_fc);
  AddWeightGradient(own.mlp_fc, dh_, saved.middle);
  const at::Tensor& dstream = visit.lanes ? dx_lane1_ : dx_;
  Run(NormBackward<T, S>{.N = N_,
                         .D = D_,
                         .u = Data<T>(saved.middle),
                         .inverse_norms = Data<float>(saved.inverse_norms),
                         .du = Data<T>(dy_),
                         .dresidual = Data<S>(dstream),
                         .dx = Data<S>(dstream),
                         .dx_rounded = visit.lanes ? nullptr : RoundedDx()});
  MultiplyBack(dy_, da, own.attn_proj);
  const at::Tensor y = Rows(saved.attended.y), heads = HeadsOut(v, y);
  AddWeightGradient(own.attn_proj, da, heads);
  if (heads.is_same(y)) return;
  const bool gated = own.attn_gate != nullptr;
  Run(HeadGatesBackward<T>{.in = HeadGatesOf(v),
                           .scale = gated ? GateOf(v).scale : 1.0f,
                           .y = Data<T>(y),
                           .dout = Data<T>(dy_),
                           .dv = layer(v).exclusive ? Data<T>(dv_exclusive_) : nullptr,
                           .dlogits = gated ? Data<float>(dgates_) : nullptr});
}

template <class T, class S>
void BackendOf<T, S>::AttentionBackward(size_t v) {
  const Layer& own = layers_[visits()[v].layer];
  Saved& saved = saved_[v];
  const Slabs slabs = SlabsOf(N_);
  const AttentionGradients gradients =
      AttendBackward(SpanOf(), saved.attended, Queries(saved), Keys(saved), Values(saved), AsHeads(dy_));
  Passed("attention, backward", {Queries(saved), Keys(saved), Values(saved), saved.attended.y, dy_, gradients.dq, gradients.dk, gradients.dv});
  device_.Passed("attention, backward", 8.0 * static_cast<double>(N_ * D_));  // flash attention's sums of dq in float32, written and read
  saved.attended = {};
  Run(QkBackward<T>{.rows = slabs,
                    .heads = HeadsOf(),
                    .gain = own.q_gain,
                    .qkv = Data<T>(saved.qkv),
                    .dq = Data<T>(gradients.dq),
                    .dk = Data<T>(gradients.dk),
                    .dv = Data<T>(gradients.dv),
                    .dv_exclusive = layer(v).exclusive ? Data<T>(dv_exclusive_) : nullptr,
                    .dqkv = Data<T>(dqkv_),
                    .partials = Data<float>(partials_)});
  AddPartials(Data<float>(partials_), slabs.slabs, H_, H_, own.q_gain_gradient);
}

template <class T, class S>
void BackendOf<T, S>::AttentionInputBackward(size_t v) {
  const Visit& visit = visits()[v];
  Layer& own = layers_[visit.layer];
  const Slabs slabs = SlabsOf(N_);
  MultiplyBack(dy_, dqkv_, own.qkv);
  AddWeightGradient(own.qkv, dqkv_, saved_[v].u);
  if (own.attn_gate != nullptr) {
    Run(AttentionGatesBackward<T>{
        .rows = slabs, .gate = GateOf(v), .dlogits = Data<float>(dgates_), .du = Data<T>(dy_), .partials = Data<float>(partials_)});
    const int64_t weights = H_ * settings_.gate_window;
    AddPartials(Data<float>(partials_), slabs.slabs, weights, weights, own.attn_gate_gradient);
  }
  if (own.value_embed_gradient.defined()) Scatter(in_->tokens, ValueColumns(dqkv_), nullptr, own.value_embed_gradient);
  const bool skips = visit.skip_from >= 0;
  Run(MixNormBackward<T, S>{.rows = slabs,
                            .in = InputOf(v),
                            .carries_input = visit.lanes,
                            .du = Data<T>(dy_),
                            .dresidual = Data<S>(dx_),
                            .dextra = visit.input_is_skip ? Data<S>(dskip_[v - 1]) : nullptr,
                            .dextra_lane = visit.enters_lanes ? Data<S>(dx_lane1_) : nullptr,
                            .dx = Data<S>(dx_),
                            .dx_rounded = RoundedDx(),
                            .dx0 = Data<S>(dx0_),
                            .dskip = skips ? Data<S>(dskip_[visit.skip_from]) : nullptr,
                            .partials = Data<float>(partials_)});
  const auto add = [&](int64_t first, int64_t columns, float* sums) {
    AddPartials(Data<float>(partials_) + first * D_, slabs.slabs, MixNormBackward<T, S>::kSums * D_, columns * D_, sums);
  };
  add(0, 2, own.resid_mix_gradient);
  if (skips) add(2, 1, skip_weights_.gradient + visit.skip_row * D_);
  if (skips && skip_gates_.value != nullptr) add(3, 1, skip_gates_.gradient + visit.skip_row * D_);
}

template <class T, class S>
void BackendOf<T, S>::Scatter(const TableInputs& table, const at::Tensor& x, const float* scale, const at::Tensor& gradient) {
  Run(ScatterPieces<T>{.pieces = table.pieces,
                       .width = x.size(1),
                       .piece = table.piece,
                       .order = table.order,
                       .x = Data<T>(x),
                       .stride = x.stride(0),
                       .scale = scale,
                       .table = Data<float>(gradient),
                       .partials = Data<float>(pieces_)});
  Run(JoinPieces{.joints = table.joints,
                 .width = x.size(1),
                 .joint = table.joint,
                 .partials = Data<float>(pieces_),
                 .table = Data<float>(gradient)});
}

template <class T, class S>
void BackendOf<T, S>::SmearGateBackward() {
  const Slabs slabs = SlabsOf(N_);
  const int64_t window = settings_.gate_window;
  Run(cuda::SmearGateBackward<T, S>{.rows = slabs,
                                    .in = SmearOf(),
                                    .x0 = Data<S>(x_[0]),
                                    .gates = Data<float>(smear_gates_),
                                    .inverse_norms = Data<float>(embed_norms_),
                                    .dx0 = Data<S>(dx0_),
                                    .dx = Data<S>(dx_),
                                    .dlogits = Data<float>(dsmear_),
                                    .partials = Data<float>(partials_)});
  AddPartials(Data<float>(partials_), slabs.slabs, window + 1, window, smear_window_.gradient);
  AddPartials(Data<float>(partials_) + window, slabs.slabs, window + 1, 1, smear_lambda_.gradient);
  Run(SmearGateInputs<T, S>{.in = SmearOf(),
                            .gates = Data<float>(smear_gates_),
                            .dlogits = Data<float>(dsmear_),
                            .ds = Data<S>(dx0_),
                            .de = Data<T>(dy_),
                            .table = Data<float>(tok_emb_gradient_)});
  Scatter(in_->tokens, dy_, nullptr, tok_emb_gradient_);
}

template <class T, class S>
void BackendOf<T, S>::EmbedBackward() {
  if (smear_window_.value != nullptr) return SmearGateBackward();
  const bool projected = bigram_proj_.used.defined(), scaled = bigram_dim_ > 0 && !projected;
  const Slabs slabs = SlabsOf(N_);
  const at::Tensor& ds = dy_;
  Run(cuda::EmbedBackward<T, S>{.rows = slabs,
                                .D = D_,
                                .gate = gate_.value,
                                .joined = in_->joined,
                                .x1 = Data<S>(x1_),
                                .inverse_norms = Data<float>(embed_norms_),
                                .dx0 = Data<S>(dx0_),
                                .dx = Data<S>(dx_),
                                .bigram = scaled ? Data<T>(bigram_) : nullptr,
                                .ds = Data<T>(ds),
                                .partials = Data<float>(partials_)});
  if (gate_.gradient != nullptr) AddPartials(Data<float>(partials_), slabs.slabs, 2 * D_, D_, gate_.gradient);
  Scatter(in_->tokens, ds, nullptr, tok_emb_gradient_);
  if (projected) {
    MultiplyBack(dbigram_, ds, bigram_proj_);
    AddWeightGradient(bigram_proj_, ds, bigram_);
    Scatter(in_->bigrams, dbigram_, nullptr, bigram_embed_gradient_);
  } else if (scaled) {
    sums_.zero_();
    AddPartials(Data<float>(partials_) + D_, slabs.slabs, 2 * D_, D_, Data<float>(sums_));
    AddPartials(Data<float>(sums_), D_, 1, 1, bigram_scale_.gradient);
    Scatter(in_->bigrams, ds, bigram_scale_.value, bigram_embed_gradient_);
  }
}

template <class T, class S>
void BackendOf<T, S>::AccumulateGradients(const Inputs& in, float share, at::Tensor loss) {
  in_ = &in;
  first_ = 0;
  ForwardPass(visits(), *this);
  HeadWithGradients(share);
  dx0_.zero_();
  BackwardPass(visits(), *this);
  loss.add_(losses_.sum(at::kDouble));
}

template <class T, class S>
at::Tensor BackendOf<T, S>::TokenLosses(const Inputs& in, int64_t first) {
  in_ = &in;
  first_ = first;
  ForwardPass(visits(), *this);
  const int64_t B = shape_.B, scored = shape_.T - first, N = B * scored;
  Norm(scored_, u_);
  const at::Tensor targets = Tail(Integers(in.targets, {N_, 1}));
  at::Tensor losses = Empty({B, scored}, at::kFloat);
  for (int64_t begin = 0; begin < N; begin += kHeadRows) {
    const int64_t rows = std::min(kHeadRows, N - begin);
    const at::Tensor logits = logits_.narrow(0, 0, rows);
    FloatProduct(logits, u_.narrow(0, begin, rows), output_.t(), /*beta=*/0);
    Run(CrossEntropy<T>{.N = rows,
                        .V = V_,
                        .cap = cap_,
                        .share = 0,
                        .logits = Data<float>(logits),
                        .targets = Data<int32_t>(targets) + begin,
                        .losses = Data<float>(losses) + begin});
  }
  return losses;
}

}  // namespace

std::unique_ptr<Backend> MakeBackend(const Settings& settings, const NamedTensors& parameters, const NamedTensors& gradients,
                                   Device& device) {
  const bool narrow_products = settings.precision == "bfloat16", narrow_stream = settings.residual_precision == "bfloat16";
  if (!narrow_products) return std::make_unique<BackendOf<float, float>>(settings, parameters, gradients, device);
  if (!narrow_stream) return std::make_unique<BackendOf<BFloat16, float>>(settings, parameters, gradients, device);
  return std::make_unique<BackendOf<BFloat16, BFloat16>>(settings, parameters, gradients, device);
}

}  // namespace fairway::cuda
