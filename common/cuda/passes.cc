#include "common/cuda/passes.h"

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
#include "common/quantise/steps.h"

namespace fairway::cuda {
namespace {

constexpr int64_t kHeadRows = 8192;  // rows of logits that exist at a time

// A linear layer's weight and where its products' copy lies: rows of T, rounded and scaled (fused.h).
template <class T>
struct Matrix {
  std::string name;
  ScaledRows rows{};
  bool has_grid = false;
  T* used = nullptr;
  at::Tensor gradient;  // float32 [rows, columns]; undefined where there is no training
  float* scale_gradient = nullptr;
};

template <class T>
class PassesOf : public Passes {
 public:
  PassesOf(const Settings& settings, const NamedTensors& parameters, const NamedTensors& gradients, Machine& machine);

  int64_t Prepare(bool fake_quantise) override;
  void FixSteps(const FixedSteps& steps) override;
  void Reserve(int64_t B, int64_t T_, bool training) override;
  void AccumulateGradients(const Inputs& in, float share, at::Tensor loss) override;
  void FinishGradients() override;
  at::Tensor TokenLosses(const Inputs& in, int64_t first) override;

 private:
  struct Layer {
    const float *resid_mix, *q_gain;
    float *resid_mix_gradient, *q_gain_gradient;
    at::Tensor qkv, attn_proj, mlp_fc, mlp_proj;  // as products use them; qkv: c_q, c_k and c_v, one below the other
    Matrix<T> c_q, c_k, c_v, attn_proj_of, mlp_fc_of, mlp_proj_of;
    bool exclusive;
    int64_t skip_from = -1;  // the encoder block whose output comes in, and its row of skip_weights
    int64_t skip_row = 0;
    bool skipped_to = false;  // whether a decoder block takes this one's output
  };
  // Of a layer, for the way back; all the same where there is none.
  struct Saved {
    at::Tensor qkv, qk, xa, h;
    Attended attended;
  };

  static constexpr at::ScalarType kElement = std::is_same_v<T, float> ? at::kFloat : at::kBFloat16;

  at::Tensor Empty(at::IntArrayRef shape, at::ScalarType dtype) const {
    return at::empty(shape, at::TensorOptions().dtype(dtype).device(device_));
  }
  at::Tensor Integers(int32_t* data, at::IntArrayRef shape) const {
    return at::for_blob(data, shape).options(at::TensorOptions().dtype(at::kInt).device(device_)).target_device(device_).make_tensor();
  }
  at::Tensor Find(const NamedTensors& tensors, const std::string& name) const;
  template <class Value>
  Value* PointerOf(const NamedTensors& tensors, const std::string& name) const;
  template <class Value>
  static Value* Data(const at::Tensor& tensor) {
    return tensor.defined() ? static_cast<Value*>(tensor.mutable_data_ptr()) : nullptr;
  }
  Matrix<T> MatrixOf(const std::string& name, const at::Tensor& used, const std::string& scale = "", int64_t scale_stride = 1);

  template <class Operation>
  void Run(const Operation& operation) const {
    machine_.Launch(operation);
  }
  // sum = beta sum + a b, the sum in float32 whatever the products take.
  static void FloatProduct(at::Tensor sum, const at::Tensor& a, const at::Tensor& b, double beta = 1);
  void Norm(const MixNormInput& in, const at::Tensor& u, int64_t N, const at::Tensor& mixed = {}) const {
    Run(MixNormForward<T>{.N = N, .in = in, .mixed = Data<float>(mixed), .u = Data<T>(u)});
  }
  // sums [columns] += the rows' partial sums.
  void AddPartials(const float* values, int64_t rows, int64_t stride, int64_t columns, float* sums) const {
    Run(AddColumns{.rows = rows, .stride = stride, .columns = columns, .values = values, .sums = sums});
  }

  MixNormInput BlockInput(int64_t i) const;
  Heads HeadsOf() const;
  // [N, width] as [B, width / d, T, d]
  at::Tensor AsHeads(const at::Tensor& rows) const { return rows.view({B_, T_, rows.size(1) / d_, d_}).transpose(1, 2); }
  at::Tensor Queries(const Saved& s) const { return AsHeads(s.qk).narrow(1, 0, H_); }
  at::Tensor Keys(const Saved& s) const { return AsHeads(s.qk).narrow(1, H_, Hkv_); }
  at::Tensor Values(const Saved& s) const { return AsHeads(s.qkv).narrow(1, H_ + Hkv_, Hkv_); }

  // [B, H, T, d] as rows [N, D]
  at::Tensor Rows(const at::Tensor& y) const { return y.transpose(1, 2).reshape({N_, D_}); }

  void Embed(const Inputs& in);
  void Attention(int64_t i);
  void Mlp(int64_t i, const at::Tensor& xa, at::Tensor h, const at::Tensor& out);
  void HeadWithGradients(const Inputs& in, float share);
  void NormBackward(MixNormBackward<T> operation);
  void BlockBackward(int64_t i);
  void Scatter(const TableInputs& table, const at::Tensor& x, const float* scale, const at::Tensor& gradient);
  void EmbedBackward(const Inputs& in);

  const Settings settings_;
  const NamedTensors parameters_, gradients_;
  Machine& machine_;
  const at::Device device_;
  const int64_t V_, L_, D_, H_, Hkv_, d_, F_, bigram_dim_, encoder_;
  const float cap_, negative_slope_;

  std::vector<Layer> layers_;
  std::vector<Matrix<T>*> matrices_;
  at::Tensor tok_emb_, output_;  // output_: the table that logits come from, as products use it
  at::Tensor tok_emb_gradient_, output_gradient_, bigram_embed_, bigram_embed_gradient_;
  std::optional<Matrix<T>> bigram_proj_of_, lm_head_of_;
  at::Tensor bigram_proj_;  // as products use it
  const float *skip_weights_, *gate_, *bigram_scale_ = nullptr;
  float *skip_weights_gradient_, *gate_gradient_ = nullptr, *bigram_scale_gradient_ = nullptr;

  FixedSteps steps_;        // what matrices point into
  at::Tensor closed_gate_;  // float32 [D], where there is no smear gate
  at::Tensor sums_;         // float32 [D]: of one operation for the next

  // Memory of the reserved shape.
  int64_t B_ = 0, T_ = 0, N_ = 0;
  bool training_ = false;
  Rotary rotary_;
  std::vector<at::Tensor> x_;  // [L + 1] of [N, D]: what goes into each block, and what comes out of the last
  std::vector<Saved> saved_;
  std::vector<at::Tensor> dskip_;
  at::Tensor x1_, embed_norms_, bigram_, u_, act_, logits_, losses_;
  at::Tensor dlogits_, da_, dx_, dx_rounded_, dx0_, dy_, dqkv_, dbigram_, dv_exclusive_, partials_, pieces_;
};

template <class T>
at::Tensor PassesOf<T>::Find(const NamedTensors& tensors, const std::string& name) const {
  for (const auto& [own, tensor] : tensors)
    if (own == name) return tensor.detach();
  return {};
}

template <class T>
template <class Value>
Value* PassesOf<T>::PointerOf(const NamedTensors& tensors, const std::string& name) const {
  return Data<Value>(Find(tensors, name));
}

template <class T>
Matrix<T> PassesOf<T>::MatrixOf(const std::string& name, const at::Tensor& used, const std::string& scale, int64_t scale_stride) {
  const at::Tensor weight = Find(parameters_, name);
  Matrix<T> m{.name = name, .used = Data<T>(used), .gradient = Find(gradients_, name)};
  m.rows = {.rows = weight.size(0), .columns = weight.size(1), .weight = Data<float>(weight)};
  if (const std::optional<Grid> grid = TrainingGrid(name, weight, settings_)) {
    m.has_grid = true;
    m.rows.q_min = static_cast<float>(grid->q_min);
    m.rows.q_max = static_cast<float>(grid->q_max);
    m.rows.least = settings_.published_quirks ? static_cast<float>(1.0 / grid->q_max) : 0x1p-24f;
    m.rows.stored = !settings_.published_quirks;
    m.rows.exact_codes = *grid == kInt8;
  }
  if (!scale.empty()) {
    m.rows.scale = PointerOf<float>(parameters_, scale);
    m.rows.scale_stride = scale_stride;
    m.scale_gradient = PointerOf<float>(gradients_, scale);
  }
  return m;
}

template <class T>
PassesOf<T>::PassesOf(const Settings& settings, const NamedTensors& parameters, const NamedTensors& gradients, Machine& machine)
    : settings_(settings),
      parameters_(parameters),
      gradients_(gradients),
      machine_(machine),
      device_(machine.device()),
      V_(settings.vocab_size),
      L_(settings.num_layers),
      D_(settings.model_dim),
      H_(settings.num_heads),
      Hkv_(settings.num_kv_heads),
      d_(D_ / H_),
      F_(static_cast<int64_t>(settings.mlp_mult * D_)),
      bigram_dim_(settings.bigram_vocab_size > 0 ? settings.bigram_dim : 0),
      encoder_(L_ / 2),
      cap_(static_cast<float>(settings.logit_softcap)),
      negative_slope_(static_cast<float>(settings.mlp_negative_slope)) {
  const int64_t multiple = std::is_same_v<T, float> ? 4 : 8, largest = 256;
  if (device_.is_cuda() && (d_ % multiple != 0 || d_ > largest)) {
    throw UsageError(StringPrintf("MODEL_DIM=%ld and NUM_HEADS=%ld make heads of %ld; on a GPU in %s they must be a multiple of "
                                  "%ld up to %ld",
                                  D_, H_, d_, settings.precision.c_str(), multiple, largest));
  }
  sums_ = Empty({D_}, at::kFloat);
  tok_emb_ = Find(parameters_, "tok_emb.weight");
  tok_emb_gradient_ = Find(gradients_, "tok_emb.weight");
  skip_weights_ = PointerOf<float>(parameters_, "skip_weights");
  skip_weights_gradient_ = PointerOf<float>(gradients_, "skip_weights");
  if (settings.smear) {
    gate_ = PointerOf<float>(parameters_, "smear.gate");
    gate_gradient_ = PointerOf<float>(gradients_, "smear.gate");
  } else {
    closed_gate_ = Empty({D_}, at::kFloat).fill_(-std::numeric_limits<float>::infinity());  // its sigmoid is 0
    gate_ = Data<float>(closed_gate_);
  }
  if (bigram_dim_ > 0) {
    bigram_embed_ = Find(parameters_, "bigram.embed.weight");
    bigram_embed_gradient_ = Find(gradients_, "bigram.embed.weight");
    bigram_scale_ = PointerOf<float>(parameters_, "bigram.scale");
    bigram_scale_gradient_ = PointerOf<float>(gradients_, "bigram.scale");
    if (bigram_dim_ != D_) {
      bigram_proj_ = Empty({D_, bigram_dim_}, kElement);
      bigram_proj_of_ = MatrixOf("bigram.proj.weight", bigram_proj_, "bigram.scale", /*scale_stride=*/0);
      matrices_.push_back(&*bigram_proj_of_);
    }
  }
  if (settings.tie_embeddings) {
    output_ = tok_emb_;
    output_gradient_ = tok_emb_gradient_;
  } else {
    output_ = Empty({V_, D_}, kElement);
    lm_head_of_ = MatrixOf("lm_head.weight", output_);
    output_gradient_ = lm_head_of_->gradient;
    matrices_.push_back(&*lm_head_of_);
  }
  layers_.resize(L_);
  for (int64_t i = 0; i < L_; ++i) {
    const std::string block = StringPrintf("blocks.%ld.", i);
    const int64_t kv = Hkv_ * d_;
    Layer& layer = layers_[i];
    layer.resid_mix = PointerOf<float>(parameters_, block + "resid_mix");
    layer.resid_mix_gradient = PointerOf<float>(gradients_, block + "resid_mix");
    layer.q_gain = PointerOf<float>(parameters_, block + "attn.q_gain");
    layer.q_gain_gradient = PointerOf<float>(gradients_, block + "attn.q_gain");
    layer.qkv = Empty({D_ + 2 * kv, D_}, kElement);
    layer.attn_proj = Empty({D_, D_}, kElement);
    layer.mlp_fc = Empty({F_, D_}, kElement);
    layer.mlp_proj = Empty({D_, F_}, kElement);
    layer.c_q = MatrixOf(block + "attn.c_q.weight", layer.qkv.narrow(0, 0, D_));
    layer.c_k = MatrixOf(block + "attn.c_k.weight", layer.qkv.narrow(0, D_, kv));
    layer.c_v = MatrixOf(block + "attn.c_v.weight", layer.qkv.narrow(0, D_ + kv, kv));
    layer.attn_proj_of = MatrixOf(block + "attn.proj.weight", layer.attn_proj, block + "attn_scale");
    layer.mlp_fc_of = MatrixOf(block + "mlp.fc.weight", layer.mlp_fc);
    layer.mlp_proj_of = MatrixOf(block + "mlp.proj.weight", layer.mlp_proj, block + "mlp_scale");
    for (Matrix<T>* m : {&layer.c_q, &layer.c_k, &layer.c_v, &layer.attn_proj_of, &layer.mlp_fc_of, &layer.mlp_proj_of})
      matrices_.push_back(m);
    for (Matrix<T>* m : {&layer.c_q, &layer.c_k, &layer.c_v, &layer.mlp_fc_of})
      m->rows.constant = static_cast<float>(InputScale(settings, i));
    layer.exclusive = i >= L_ - settings.xsa_last_n;
    // The decoder takes the encoder's outputs back, the last one first.
    const int64_t decoder = i - encoder_;
    if (decoder >= 0 && decoder < encoder_) {
      layer.skip_from = encoder_ - 1 - decoder;
      layer.skip_row = decoder;
      layers_[layer.skip_from].skipped_to = true;
    }
  }
}

template <class T>
int64_t PassesOf<T>::Prepare(bool fake_quantise) {
  int64_t rounded = 0;
  for (Matrix<T>* m : matrices_) {
    m->rows.rounded = fake_quantise && m->has_grid;
    rounded += m->rows.rounded;
    Run(PrepareRows<T>{.matrix = m->rows, .used = m->used});
  }
  return rounded;
}

template <class T>
void PassesOf<T>::FixSteps(const FixedSteps& steps) {
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

template <class T>
void PassesOf<T>::FinishGradients() {
  for (Matrix<T>* m : matrices_) {
    if (m->rows.scale == nullptr && m->rows.constant == 1) continue;
    Run(FinishRows{.matrix = m->rows,
                   .gradient = Data<float>(m->gradient),
                   .scale_gradient = m->scale_gradient,
                   .shares = Data<float>(sums_)});
    if (m->rows.scale != nullptr && m->rows.scale_stride == 0) AddPartials(Data<float>(sums_), m->rows.rows, 1, 1, m->scale_gradient);
  }
}

template <class T>
void PassesOf<T>::Reserve(int64_t B, int64_t T_of, bool training) {
  if (B == B_ && T_of == T_ && training == training_) return;
  B_ = B;
  T_ = T_of;
  N_ = B * T_of;
  training_ = training;
  const int64_t qkv = (H_ + 2 * Hkv_) * d_, kv = Hkv_ * d_;
  // Each is given back before its successor is taken.
  const auto reserve = [&](at::Tensor& tensor, at::IntArrayRef shape, at::ScalarType dtype, bool needed = true) {
    tensor.reset();
    if (needed) tensor = Empty(shape, dtype);
  };
  Settings tables = settings_;
  if (!settings_.published_quirks) tables.precision = "float32";  // the published tables are bfloat16 (specification 3, row 21)
  rotary_ = RotaryTables(tables, T_);
  rotary_ = {rotary_.cos.to(device_, at::kFloat), rotary_.sin.to(device_, at::kFloat)};
  x_.resize(L_ + 1);
  for (at::Tensor& x : x_) reserve(x, {N_, D_}, at::kFloat);
  saved_.clear();
  for (int64_t i = 0; i < L_; ++i) {
    if (i > 0 && !training) {
      saved_.push_back(saved_[0]);
      continue;
    }
    Saved& saved = saved_.emplace_back();
    reserve(saved.qkv, {N_, qkv}, kElement);
    reserve(saved.qk, {N_, D_ + kv}, kElement);
    reserve(saved.xa, {N_, D_}, at::kFloat);
    reserve(saved.h, {N_, F_}, kElement);
  }
  const int64_t head_rows = std::min(kHeadRows, N_), slabs = SlabsOf(N_).slabs;
  reserve(x1_, {N_, D_}, at::kFloat);
  reserve(embed_norms_, {N_}, at::kFloat);
  reserve(bigram_, {N_, bigram_dim_}, kElement, bigram_dim_ > 0);
  reserve(u_, {N_, D_}, kElement);
  reserve(act_, {N_, F_}, kElement);
  reserve(logits_, {head_rows, V_}, at::kFloat);
  reserve(losses_, {N_}, at::kFloat);
  reserve(dlogits_, {head_rows, V_}, kElement, training);
  reserve(da_, {N_, F_}, kElement, training);
  reserve(dx_, {N_, D_}, at::kFloat, training);
  dx_rounded_.reset();
  if (training) dx_rounded_ = std::is_same_v<T, float> ? dx_ : Empty({N_, D_}, kElement);
  reserve(dx0_, {N_, D_}, at::kFloat, training);
  reserve(dy_, {N_, D_}, kElement, training);
  reserve(dqkv_, {N_, qkv}, kElement, training);
  reserve(dbigram_, {N_, bigram_dim_}, kElement, training && bigram_proj_.defined());
  reserve(dv_exclusive_, {N_, kv}, at::kFloat, training);
  reserve(partials_, {slabs, std::max(3 * D_, H_)}, at::kFloat, training);
  dskip_.resize(training ? encoder_ : 0);
  for (at::Tensor& dskip : dskip_) reserve(dskip, {N_, D_}, at::kFloat);
  const Inputs sizes(settings_, B_, T_, nullptr);
  reserve(pieces_, {std::max(sizes.tokens.partials() * D_, sizes.bigrams.partials() * bigram_dim_)}, at::kFloat, training);
}

template <class T>
void PassesOf<T>::FloatProduct(at::Tensor sum, const at::Tensor& a, const at::Tensor& b, double beta) {
  if (std::is_same_v<T, float>) {
    sum.addmm_(a, b, beta);
  } else if (sum.is_cuda()) {
    // bfloat16 operands and a float32 sum: an overload that LibTorch has since 2.11, for CUDA alone.
    at::addmm_out(sum, sum, a, b, at::kFloat, beta);
  } else {  // the CPU's products have one dtype
    sum.addmm_(a.to(at::kFloat), b.to(at::kFloat), beta);
  }
}

template <class T>
MixNormInput PassesOf<T>::BlockInput(int64_t i) const {
  const Layer& layer = layers_[i];
  MixNormInput in{.D = D_, .x = Data<float>(x_[i]), .x0 = Data<float>(x_[0]), .mix = layer.resid_mix};
  if (layer.skip_from >= 0) {
    in.skip = Data<float>(x_[layer.skip_from + 1]);
    in.skip_weight = skip_weights_ + layer.skip_row * D_;
  }
  return in;
}

template <class T>
Heads PassesOf<T>::HeadsOf() const {
  return {.T = T_, .H = H_, .Hkv = Hkv_, .d = d_, .cos = Data<float>(rotary_.cos), .sin = Data<float>(rotary_.sin)};
}

template <class T>
void PassesOf<T>::Embed(const Inputs& in) {
  const T* bigram = nullptr;
  if (bigram_dim_ > 0) {
    at::index_select_out(bigram_, bigram_embed_, 0, Integers(in.bigrams.row, {N_}));
    if (bigram_proj_.defined()) at::mm_out(u_, bigram_, bigram_proj_.t());  // its scale is in its weights
    bigram = Data<T>(bigram_proj_.defined() ? u_ : bigram_);
  }
  Run(EmbedForward<T>{.N = N_,
                      .D = D_,
                      .tok_emb = Data<T>(tok_emb_),
                      .ids = in.tokens.row,
                      .bigram = bigram,
                      .bigram_scale = bigram_proj_.defined() ? nullptr : bigram_scale_,
                      .x1 = Data<float>(x1_),
                      .inverse_norms = Data<float>(embed_norms_)});
  Run(SmearForward{.N = N_, .D = D_, .gate = gate_, .joined = in.joined, .x1 = Data<float>(x1_), .x0 = Data<float>(x_[0])});
}

// Up to the stream between attention and MLP, saved.xa.
template <class T>
void PassesOf<T>::Attention(int64_t i) {
  const Layer& layer = layers_[i];
  Saved& saved = saved_[i];
  Norm(BlockInput(i), u_, N_, saved.xa);
  at::mm_out(saved.qkv, u_, layer.qkv.t());
  Run(QkForward<T>{.N = N_, .heads = HeadsOf(), .gain = layer.q_gain, .qkv = Data<T>(saved.qkv), .qk = Data<T>(saved.qk)});
  saved.attended = Attend(Queries(saved), Keys(saved), Values(saved));
  at::Tensor y = Rows(saved.attended.y);
  if (layer.exclusive) {
    Run(XsaForward<T>{.N = N_, .heads = HeadsOf(), .qkv = Data<T>(saved.qkv), .y = Data<T>(y), .out = Data<T>(u_)});
    y = u_;
  }
  FloatProduct(saved.xa, y, layer.attn_proj.t());
}

// out = xa + the MLP of it, on xa's rows; all but `out` and `h` is scratch.
template <class T>
void PassesOf<T>::Mlp(int64_t i, const at::Tensor& xa, at::Tensor h, const at::Tensor& out) {
  const Layer& layer = layers_[i];
  const int64_t N = xa.size(0);
  at::Tensor act = act_.narrow(0, 0, N), u = u_.narrow(0, 0, N);
  Norm({.D = D_, .x = Data<float>(xa)}, u, N, out);
  at::mm_out(h, u, layer.mlp_fc.t());
  Run(Relu2Forward<T>{.N = N, .F = F_, .negative = negative_slope_, .h = Data<T>(h), .a = Data<T>(act)});
  FloatProduct(out, act, layer.mlp_proj.t());
}

// Final norm, logits and losses, and their gradients: into dx, and into the output layer's.
template <class T>
void PassesOf<T>::HeadWithGradients(const Inputs& in, float share) {
  const MixNormInput last{.D = D_, .x = Data<float>(x_[L_])};
  Norm(last, u_, N_);
  for (int64_t first = 0; first < N_; first += kHeadRows) {
    const int64_t rows = std::min(kHeadRows, N_ - first);
    const at::Tensor u = u_.narrow(0, first, rows), logits = logits_.narrow(0, 0, rows), dlogits = dlogits_.narrow(0, 0, rows);
    at::Tensor du = dy_.narrow(0, first, rows);
    FloatProduct(logits, u, output_.t(), /*beta=*/0);
    Run(CrossEntropy<T>{.N = rows,
                        .V = V_,
                        .cap = cap_,
                        .share = share,
                        .logits = Data<float>(logits),
                        .targets = in.targets + first,
                        .losses = Data<float>(losses_) + first,
                        .dlogits = Data<T>(dlogits)});
    at::mm_out(du, dlogits, output_);
    FloatProduct(output_gradient_, dlogits.t(), u);
  }
  NormBackward({.rows = SlabsOf(N_), .in = last, .du = Data<T>(dy_)});
}

// Completes and runs the way back through a norm: du is there, dx is made.
template <class T>
void PassesOf<T>::NormBackward(MixNormBackward<T> operation) {
  operation.dx = Data<float>(dx_);
  if (!std::is_same_v<T, float>) operation.dx_rounded = Data<T>(dx_rounded_);
  Run(operation);
}

// From dx, the gradient of the block's output, to that of its input.
template <class T>
void PassesOf<T>::BlockBackward(int64_t i) {
  const Layer& layer = layers_[i];
  Saved& saved = saved_[i];
  const Slabs slabs = SlabsOf(N_);
  const int64_t kv = Hkv_ * d_;
  // MLP
  const MixNormInput between{.D = D_, .x = Data<float>(saved.xa)};
  at::mm_out(da_, dx_rounded_, layer.mlp_proj);
  Run(Relu2Backward<T>{.N = N_, .F = F_, .negative = negative_slope_, .h = Data<T>(saved.h), .a = Data<T>(act_), .da = Data<T>(da_)});
  Norm(between, u_, N_);
  at::mm_out(dy_, da_, layer.mlp_fc);
  FloatProduct(layer.mlp_proj_of.gradient, dx_rounded_.t(), act_);
  FloatProduct(layer.mlp_fc_of.gradient, da_.t(), u_);
  NormBackward({.rows = slabs, .in = between, .du = Data<T>(dy_), .dmixed = Data<float>(dx_)});
  // attention
  at::mm_out(dy_, dx_rounded_, layer.attn_proj);
  at::Tensor y = Rows(saved.attended.y);
  if (layer.exclusive) {
    Run(XsaBackward<T>{.N = N_,
                       .heads = HeadsOf(),
                       .qkv = Data<T>(saved.qkv),
                       .y = Data<T>(y),
                       .out = Data<T>(u_),
                       .dout = Data<T>(dy_),
                       .dv = Data<float>(dv_exclusive_)});
    y = u_;
  }
  FloatProduct(layer.attn_proj_of.gradient, dx_rounded_.t(), y);
  const AttentionGradients gradients =
      AttendBackward(saved.attended, Queries(saved), Keys(saved), Values(saved), AsHeads(dy_));
  saved.attended = {};
  Run(QkBackward<T>{.rows = slabs,
                    .heads = HeadsOf(),
                    .gain = layer.q_gain,
                    .qkv = Data<T>(saved.qkv),
                    .dq = Data<T>(gradients.dq),
                    .dk = Data<T>(gradients.dk),
                    .dv = Data<T>(gradients.dv),
                    .dv_exclusive = layer.exclusive ? Data<float>(dv_exclusive_) : nullptr,
                    .dqkv = Data<T>(dqkv_),
                    .partials = Data<float>(partials_)});
  AddPartials(Data<float>(partials_), slabs.slabs, H_, H_, layer.q_gain_gradient);
  Norm(BlockInput(i), u_, N_);
  at::mm_out(dy_, dqkv_, layer.qkv);
  FloatProduct(layer.c_q.gradient, dqkv_.narrow(1, 0, D_).t(), u_);
  FloatProduct(layer.c_k.gradient, dqkv_.narrow(1, D_, kv).t(), u_);
  FloatProduct(layer.c_v.gradient, dqkv_.narrow(1, D_ + kv, kv).t(), u_);
  const bool skips = layer.skip_from >= 0;
  NormBackward({.rows = slabs,
                .in = BlockInput(i),
                .du = Data<T>(dy_),
                .dmixed = Data<float>(dx_),
                .dextra = i > 0 && layers_[i - 1].skipped_to ? Data<float>(dskip_[i - 1]) : nullptr,
                .dx0 = Data<float>(dx0_),
                .dskip = skips ? Data<float>(dskip_[layer.skip_from]) : nullptr,
                .partials = Data<float>(partials_)});
  AddPartials(Data<float>(partials_), slabs.slabs, 3 * D_, 2 * D_, layer.resid_mix_gradient);
  if (skips)
    AddPartials(Data<float>(partials_) + 2 * D_, slabs.slabs, 3 * D_, D_, skip_weights_gradient_ + layer.skip_row * D_);
}

template <class T>
void PassesOf<T>::Scatter(const TableInputs& table, const at::Tensor& x, const float* scale, const at::Tensor& gradient) {
  Run(ScatterPieces<T>{.pieces = table.pieces,
                       .width = x.size(1),
                       .piece = table.piece,
                       .order = table.order,
                       .x = Data<T>(x),
                       .scale = scale,
                       .table = Data<float>(gradient),
                       .partials = Data<float>(pieces_)});
  Run(JoinPieces{.joints = table.joints,
                 .width = x.size(1),
                 .joint = table.joint,
                 .partials = Data<float>(pieces_),
                 .table = Data<float>(gradient)});
}

template <class T>
void PassesOf<T>::EmbedBackward(const Inputs& in) {
  const bool projected = bigram_proj_.defined(), scaled = bigram_dim_ > 0 && !projected;
  const Slabs slabs = SlabsOf(N_);
  const at::Tensor& ds = dy_;
  Run(cuda::EmbedBackward<T>{.rows = slabs,
                             .D = D_,
                             .gate = gate_,
                             .joined = in.joined,
                             .x1 = Data<float>(x1_),
                             .inverse_norms = Data<float>(embed_norms_),
                             .dx0 = Data<float>(dx0_),
                             .dx = Data<float>(dx_),
                             .bigram = scaled ? Data<T>(bigram_) : nullptr,
                             .ds = Data<T>(ds),
                             .partials = Data<float>(partials_)});
  if (gate_gradient_ != nullptr) AddPartials(Data<float>(partials_), slabs.slabs, 2 * D_, D_, gate_gradient_);
  Scatter(in.tokens, ds, nullptr, tok_emb_gradient_);
  if (projected) {
    at::mm_out(dbigram_, ds, bigram_proj_);
    FloatProduct(bigram_proj_of_->gradient, ds.t(), bigram_);
    Scatter(in.bigrams, dbigram_, nullptr, bigram_embed_gradient_);
  } else if (scaled) {
    sums_.zero_();
    AddPartials(Data<float>(partials_) + D_, slabs.slabs, 2 * D_, D_, Data<float>(sums_));
    AddPartials(Data<float>(sums_), D_, 1, 1, bigram_scale_gradient_);
    Scatter(in.bigrams, ds, bigram_scale_, bigram_embed_gradient_);
  }
}

template <class T>
void PassesOf<T>::AccumulateGradients(const Inputs& in, float share, at::Tensor loss) {
  Embed(in);
  for (int64_t i = 0; i < L_; ++i) {
    Attention(i);
    Mlp(i, saved_[i].xa, saved_[i].h, x_[i + 1]);
  }
  HeadWithGradients(in, share);
  dx0_.zero_();
  for (int64_t i = L_ - 1; i >= 0; --i) BlockBackward(i);
  EmbedBackward(in);
  loss.add_(losses_.sum(at::kDouble));
}

template <class T>
at::Tensor PassesOf<T>::TokenLosses(const Inputs& in, int64_t first) {
  Embed(in);
  for (int64_t i = 0; i + 1 < L_; ++i) {
    Attention(i);
    Mlp(i, saved_[i].xa, saved_[i].h, x_[i + 1]);
  }
  Attention(L_ - 1);
  const int64_t scored = T_ - first, N = B_ * scored;
  const auto tail = [&](const at::Tensor& rows) {  // the scored rows, side by side
    return first == 0 ? rows : rows.view({B_, T_, -1}).narrow(1, first, scored).contiguous().view({N, -1});
  };
  const at::Tensor xa = tail(saved_[L_ - 1].xa), x = x_[L_].narrow(0, 0, N);
  Mlp(L_ - 1, xa, saved_[L_ - 1].h.narrow(0, 0, N), x);
  Norm({.D = D_, .x = Data<float>(x)}, u_, N);
  const at::Tensor targets = tail(Integers(in.targets, {N_, 1}));
  at::Tensor losses = Empty({B_, scored}, at::kFloat);
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

std::unique_ptr<Passes> MakePasses(const Settings& settings, const NamedTensors& parameters, const NamedTensors& gradients,
                                   Machine& machine) {
  if (settings.precision == "float32") return std::make_unique<PassesOf<float>>(settings, parameters, gradients, machine);
  return std::make_unique<PassesOf<BFloat16>>(settings, parameters, gradients, machine);
}

}  // namespace fairway::cuda
