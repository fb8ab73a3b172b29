#include "common/model/fused.h"

#include <ATen/Parallel.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "common/base/text.h"
#include "common/model/ops/attention.h"
#include "common/model/ops/cross_entropy.h"
#include "common/model/ops/embed.h"
#include "common/model/ops/fake_quantise.h"
#include "common/model/ops/formulas.h"
#include "common/model/ops/mix_norm.h"
#include "common/model/ops/qk.h"
#include "common/model/ops/relu2.h"
#include "common/model/ops/team.h"
#include "common/model/ops/xsa.h"
#include "common/tokens/shard_format.h"

// The matrix library inside LibTorch: Fortran's interface, column after column. Called by one thread of a team it uses that
// thread alone.
extern "C" void sgemm_(const char* transpose_a, const char* transpose_b, const int* m, const int* n, const int* k,
                       const float* alpha, const float* a, const int* lda, const float* b, const int* ldb, const float* beta,
                       float* c, const int* ldc);

namespace fairway {
namespace {

constexpr int64_t kRowsPerThread = 1024;  // of a chunk: activations of a layer stay in the outer caches
constexpr int64_t kHeadRows = 512;        // rows of logits a thread holds at a time

enum class Sum { kSet, kAdd };

// C [m, n] = (or +=) A B, rows ld… floats apart. A is [m, k], or [k, m] where `transpose_a`; B likewise.
void Gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
          int64_t ldb, Sum sum, float* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  const float one = 1, beta = sum == Sum::kAdd ? 1 : 0;
  const int im = static_cast<int>(m), in = static_cast<int>(n), ik = static_cast<int>(k), ia = static_cast<int>(lda),
            ib = static_cast<int>(ldb), ic = static_cast<int>(ldc);
  sgemm_(transpose_b ? "T" : "N", transpose_a ? "T" : "N", &in, &im, &ik, &one, b, &ib, a, &ia, &beta, c, &ic);
}

// One block of memory for everything, aligned to cache lines, on large pages where the system gives them.
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { std::free(memory_); }

  // Makes room for `floats`; what was there is lost where it grows.
  void Reserve(int64_t floats) {
    if (floats <= size_) return;
    std::free(memory_);
    constexpr size_t kPage = size_t{2} << 20;
    const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + kPage - 1) / kPage * kPage;
    memory_ = static_cast<float*>(std::aligned_alloc(kPage, bytes));
    if (memory_ == nullptr) throw std::bad_alloc();
    madvise(memory_, bytes, MADV_HUGEPAGE);
    size_ = floats;
  }
  float* data() const { return memory_; }

 private:
  float* memory_ = nullptr;
  int64_t size_ = 0;
};

// A linear layer's weight [rows, columns] and what the products use in its place: itself, or a copy that is rounded to its
// training grid, multiplied by a scale a row, or both.
struct Matrix {
  const float* weight = nullptr;
  float* gradient = nullptr;
  int64_t rows = 0, columns = 0;
  std::optional<FakeGrid> grid;
  // of each row, scale_stride floats apart (0: one for all); null: no scale
  const float* scale = nullptr;
  float* scale_gradient = nullptr;
  int64_t scale_stride = 1;
  std::vector<float> copy;
  const float* used = nullptr;
  bool rounded = false;
};

struct Layer {
  const float *resid_mix, *q_gain;
  float *resid_mix_gradient, *q_gain_gradient;
  Matrix c_q, c_k, c_v, attn_proj, mlp_fc, mlp_proj;
  bool exclusive;
  int64_t skip_from = -1;  // the encoder block whose output comes in, and its row of skip_weights
  int64_t skip_row = 0;
  bool skipped_to = false;  // whether a decoder block takes this one's output
};

// Sizes that settings fix.
struct Shape {
  explicit Shape(const Settings& s)
      : V(s.vocab_size),
        L(s.num_layers),
        D(s.model_dim),
        H(s.num_heads),
        Hkv(s.num_kv_heads),
        d(D / H),
        F(static_cast<int64_t>(s.mlp_mult * D)),
        bigram_rows(s.bigram_vocab_size),
        bigram_dim(s.bigram_vocab_size > 0 ? s.bigram_dim : 0),
        encoder(s.num_layers / 2),
        skips(std::min(encoder, L - encoder)) {}
  int64_t qkv() const { return (H + 2 * Hkv) * d; }
  int64_t V, L, D, H, Hkv, d, F, bigram_rows, bigram_dim, encoder, skips;
};

// Gradients of vectors and scalars add up a thread at a time; this is one thread's share.
struct Vectors {
  explicit Vectors(const Shape& s)
      : mix(s.L * 2 * s.D), gain(s.L * s.H), skip_weights(s.skips * s.D), gate(s.D) {}
  void Clear() {
    for (std::vector<float>* all : {&mix, &gain, &skip_weights, &gate}) std::fill(all->begin(), all->end(), 0.0f);
    bigram_scale = 0;
  }
  std::vector<float> mix, gain, skip_weights, gate;
  float bigram_scale = 0;
};

// A chunk's activations: N = B T rows.
struct Activations {
  struct Saved {
    float *qkv, *inverse_norms, *lse, *y, *xa, *h;
  };
  int64_t B, T, N;
  std::vector<float*> x;     // [L + 1] of [N, D]: what goes into each block, and what comes out of the last
  std::vector<Saved> saved;  // [L]; all the same where no backward pass follows
  std::vector<float*> dskip;
  float *x1, *embed_norms, *bigram, *losses;
  float *u, *u2, *act, *da, *dx, *dx0, *dy, *dqkv, *logits, *scratch;
  int32_t *ids, *targets, *bigram_rows;
  uint8_t* joined;
};

// Hands out pieces of a workspace; with no memory behind it, only counts.
class Planner {
 public:
  explicit Planner(float* memory) : memory_(memory) {}
  float* Take(int64_t floats) {
    float* piece = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (floats + 15) / 16 * 16;
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  float* memory_;
  int64_t used_ = 0;
};

Activations Plan(const Shape& s, int64_t B, int64_t T, bool training, int threads, Planner& plan) {
  const int64_t N = B * T;
  Activations a{.B = B, .T = T, .N = N};
  for (int64_t i = 0; i <= s.L; ++i) a.x.push_back(plan.Take(N * s.D));
  for (int64_t i = 0; i < s.L; ++i) {
    if (i > 0 && !training) {
      a.saved.push_back(a.saved[0]);
      continue;
    }
    a.saved.push_back({.qkv = plan.Take(N * s.qkv()),
                       .inverse_norms = plan.Take(N * (s.H + s.Hkv)),
                       .lse = plan.Take(N * s.H),
                       .y = plan.Take(N * s.D),
                       .xa = plan.Take(N * s.D),
                       .h = plan.Take(N * s.F)});
  }
  a.x1 = plan.Take(N * s.D);
  a.embed_norms = plan.Take(N);
  a.bigram = plan.Take(N * s.bigram_dim);
  a.losses = plan.Take(N);
  a.u = plan.Take(N * s.D);
  a.act = plan.Take(N * std::max({s.F, s.D, s.bigram_dim}));
  a.logits = plan.Take(threads * kHeadRows * s.V);
  a.scratch = plan.Take(threads * AttentionScratch({.T = T, .H = s.H, .Hkv = s.Hkv, .d = s.d, .cos = nullptr, .sin = nullptr}));
  a.ids = reinterpret_cast<int32_t*>(plan.Take(N));
  a.targets = reinterpret_cast<int32_t*>(plan.Take(N));
  a.bigram_rows = reinterpret_cast<int32_t*>(plan.Take(N));
  a.joined = reinterpret_cast<uint8_t*>(plan.Take((N + 3) / 4));
  if (!training) return a;
  for (int64_t i = 0; i < s.skips; ++i) a.dskip.push_back(plan.Take(N * s.D));
  a.u2 = plan.Take(N * s.D);
  a.da = plan.Take(N * s.F);
  a.dx = plan.Take(N * s.D);
  a.dx0 = plan.Take(N * s.D);
  a.dy = plan.Take(N * s.D);
  a.dqkv = plan.Take(N * s.qkv());
  return a;
}

float* At(float* rows, int64_t width, Rows range) { return rows + range.first * width; }

}  // namespace

const char* StepProfile::Name(Operation operation) {
  constexpr const char* kNames[] = {"embed", "norm", "linear", "qk", "attention", "xsa", "relu2", "head", "weights", "wait"};
  return kNames[operation];
}

class FusedTransformer::Impl {
 public:
  Impl(const Settings& settings, NamedTensors parameters, NamedTensors gradients);

  int64_t Prepare(bool fake_quantise);
  double AccumulateGradients(std::span<const uint16_t* const> sequences, int64_t T, double share);
  void FinishGradients();
  void TokenLosses(std::span<const uint16_t* const> sequences, int64_t T, int64_t first, float* losses);

  StepProfile* profile = nullptr;

 private:
  using Op = StepProfile::Operation;
  // Times the first thread's operations one after the other.
  class Clock {
   public:
    Clock(StepProfile* profile, const Team& team) : profile_(team.rank == 0 ? profile : nullptr) {
      if (profile_ != nullptr) last_ = std::chrono::steady_clock::now();
    }
    // What was done since the last call was `operation`.
    void Done(Op operation) {
      if (profile_ == nullptr) return;
      const auto now = std::chrono::steady_clock::now();
      profile_->seconds[operation] += std::chrono::duration<double>(now - last_).count();
      last_ = now;
    }

   private:
    StepProfile* profile_;
    std::chrono::steady_clock::time_point last_;
  };
  // What a thread carries through a pass.
  struct Pass {
    const Team& team;
    Clock clock;
    Rows mine;       // of the chunk's rows
    int64_t first;   // positions before this one are not scored
    void Wait() {
      team.Wait();
      clock.Done(StepProfile::kWait);
    }
  };

  int64_t SequencesAtATime(int64_t all, int64_t T) const;
  void Begin(std::span<const uint16_t* const> sequences, int64_t T, bool training);
  MixNorm BlockInput(int64_t i) const;
  template <class Work>
  void EachScored(const Pass& pass, Work work) const;
  std::vector<Matrix*> Matrices();

  void Embed(Pass& pass);
  void Block(Pass& pass, int64_t i);
  void Forward(Pass& pass);
  void Score(Pass& pass);
  void HeadWithGradients(Pass& pass, float share);
  void BlockBackward(Pass& pass, int64_t i, Vectors& vectors);
  void EmbedBackward(Pass& pass, Vectors& vectors);
  void WeightGradient(Pass& pass, Matrix& matrix, const float* dout, int64_t dout_stride, const float* in);

  const Settings settings_;
  const NamedTensors parameters_, gradients_;
  const Shape shape_;
  const int threads_;
  std::vector<Layer> layers_;
  const float *tok_emb_, *skip_weights_, *smear_gate_, *bigram_embed_ = nullptr, *bigram_scale_ = nullptr;
  float *tok_emb_gradient_, *skip_weights_gradient_, *smear_gate_gradient_, *bigram_embed_gradient_ = nullptr,
                                                                             *bigram_scale_gradient_ = nullptr;
  std::optional<Matrix> bigram_proj_, lm_head_;
  std::vector<float> gate_;  // sigmoid(smear.gate)
  Rotary rotary_;
  int64_t rotary_positions_ = 0;
  std::vector<Vectors> vectors_;  // of each thread
  Workspace workspace_;
  Activations a_{};
  QkShape heads_{};
};

FusedTransformer::Impl::Impl(const Settings& settings, NamedTensors parameters, NamedTensors gradients)
    : settings_(settings),
      parameters_(std::move(parameters)),
      gradients_(std::move(gradients)),
      shape_(settings),
      threads_(at::get_num_threads()),
      gate_(settings.model_dim) {
  const auto find = [](const NamedTensors& tensors, const std::string& name) -> float* {
    for (const auto& [own, tensor] : tensors) {
      if (own != name) continue;
      if (tensor.scalar_type() != at::kFloat || !tensor.is_contiguous())
        throw std::invalid_argument(name + " is not contiguous float32");
      return tensor.data_ptr<float>();
    }
    return nullptr;
  };
  const auto value = [&](const std::string& name) { return find(parameters_, name); };
  const auto gradient = [&](const std::string& name) { return find(gradients_, name); };
  const auto matrix = [&](const std::string& name, const std::string& scale = "", int64_t scale_stride = 1) {
    Matrix m{.weight = value(name), .gradient = gradient(name)};
    for (const auto& [own, tensor] : parameters_) {
      if (own != name) continue;
      m.rows = tensor.size(0);
      m.columns = tensor.size(1);
      if (const std::optional<Grid> grid = TrainingGrid(name, tensor, settings)) {
        m.grid = FakeGrid{.q_min = static_cast<float>(grid->q_min),
                          .q_max = static_cast<float>(grid->q_max),
                          .least = settings.compat ? static_cast<float>(1.0 / grid->q_max) : 0x1p-24f,
                          .stored = !settings.compat,
                          .exact_codes = *grid == kInt8};
      }
    }
    if (!scale.empty()) {
      m.scale = value(scale);
      m.scale_gradient = gradient(scale);
      m.scale_stride = scale_stride;
    }
    return m;
  };
  tok_emb_ = value("tok_emb.weight");
  tok_emb_gradient_ = gradient("tok_emb.weight");
  skip_weights_ = value("skip_weights");
  skip_weights_gradient_ = gradient("skip_weights");
  smear_gate_ = value("smear.gate");
  smear_gate_gradient_ = gradient("smear.gate");
  if (shape_.bigram_dim > 0) {
    bigram_embed_ = value("bigram.embed.weight");
    bigram_embed_gradient_ = gradient("bigram.embed.weight");
    bigram_scale_ = value("bigram.scale");
    bigram_scale_gradient_ = gradient("bigram.scale");
    if (shape_.bigram_dim != shape_.D) bigram_proj_ = matrix("bigram.proj.weight", "bigram.scale", /*scale_stride=*/0);
  }
  if (!settings.tie_embeddings) lm_head_ = matrix("lm_head.weight");
  for (int64_t i = 0; i < shape_.L; ++i) {
    const std::string block = StringPrintf("blocks.%ld.", i);
    layers_.push_back({.resid_mix = value(block + "resid_mix"),
                       .q_gain = value(block + "attn.q_gain"),
                       .resid_mix_gradient = gradient(block + "resid_mix"),
                       .q_gain_gradient = gradient(block + "attn.q_gain"),
                       .c_q = matrix(block + "attn.c_q.weight"),
                       .c_k = matrix(block + "attn.c_k.weight"),
                       .c_v = matrix(block + "attn.c_v.weight"),
                       .attn_proj = matrix(block + "attn.proj.weight", block + "attn_scale"),
                       .mlp_fc = matrix(block + "mlp.fc.weight"),
                       .mlp_proj = matrix(block + "mlp.proj.weight", block + "mlp_scale"),
                       .exclusive = i >= shape_.L - settings.xsa_last_n});
    // The decoder takes the encoder's outputs back, the last one first.
    const int64_t decoder = i - shape_.encoder;
    if (decoder >= 0 && decoder < shape_.encoder) {
      layers_[i].skip_from = shape_.encoder - 1 - decoder;
      layers_[i].skip_row = decoder;
      layers_[layers_[i].skip_from].skipped_to = true;
    }
  }
  for (int i = 0; i < threads_; ++i) vectors_.emplace_back(shape_);
  Prepare(/*fake_quantise=*/false);
}

std::vector<Matrix*> FusedTransformer::Impl::Matrices() {
  std::vector<Matrix*> all;
  for (Layer& layer : layers_)
    for (Matrix* m : {&layer.c_q, &layer.c_k, &layer.c_v, &layer.attn_proj, &layer.mlp_fc, &layer.mlp_proj}) all.push_back(m);
  if (bigram_proj_) all.push_back(&*bigram_proj_);
  if (lm_head_) all.push_back(&*lm_head_);
  return all;
}

int64_t FusedTransformer::Impl::Prepare(bool fake_quantise) {
  int64_t rounded = 0;
  const std::vector<Matrix*> all = Matrices();
  for (Matrix* m : all) {
    m->rounded = fake_quantise && m->grid.has_value();
    rounded += m->rounded;
    if (m->rounded || m->scale != nullptr) {
      m->copy.resize(m->rows * m->columns);
      m->used = m->copy.data();
    } else {
      m->used = m->weight;
    }
  }
  for (int64_t j = 0; j < shape_.D; ++j) gate_[j] = formula::Sigmoid(smear_gate_[j]);
  RunTeam(threads_, [&](const Team& team) {
    Clock clock(profile, team);
    for (Matrix* m : all) {
      if (m->used == m->weight) continue;
      const Rows rows = team.Share(m->rows);
      float* to = m->copy.data();
      if (m->rounded) FakeQuantiseRows(*m->grid, m->columns, m->weight, to, rows);
      const float* from = m->rounded ? to : m->weight;
      if (m->scale == nullptr) continue;
      for (int64_t row = rows.first; row < rows.last; ++row)
        for (int64_t j = row * m->columns; j < (row + 1) * m->columns; ++j) to[j] = m->scale[row * m->scale_stride] * from[j];
    }
    clock.Done(StepProfile::kWeights);
  });
  return rounded;
}

void FusedTransformer::Impl::FinishGradients() {
  std::vector<Matrix*> scaled;
  for (Matrix* m : Matrices())
    if (m->scale != nullptr) scaled.push_back(m);
  std::vector<std::vector<float>> scalar_parts(threads_, std::vector<float>(scaled.size()));
  RunTeam(threads_, [&](const Team& team) {
    Clock clock(profile, team);
    std::vector<float> row_weight;
    for (size_t i = 0; i < scaled.size(); ++i) {
      Matrix& m = *scaled[i];
      row_weight.resize(m.columns);
      const Rows rows = team.Share(m.rows);
      for (int64_t row = rows.first; row < rows.last; ++row) {
        const float* weight = m.weight + row * m.columns;
        if (m.rounded) {
          FakeQuantiseRows(*m.grid, m.columns, weight, row_weight.data(), {0, 1});
          weight = row_weight.data();
        }
        float* gradient = m.gradient + row * m.columns;
        const float scale = m.scale[row * m.scale_stride];
        float sum = 0;
        for (int64_t j = 0; j < m.columns; ++j) {
          sum += weight[j] * gradient[j];
          gradient[j] *= scale;
        }
        if (m.scale_stride == 0) scalar_parts[team.rank][i] += sum;
        else m.scale_gradient[row] += sum;
      }
    }
    clock.Done(StepProfile::kWeights);
  });
  for (size_t i = 0; i < scaled.size(); ++i)
    if (scaled[i]->scale_stride == 0)
      for (const std::vector<float>& part : scalar_parts) *scaled[i]->scale_gradient += part[i];
}

int64_t FusedTransformer::Impl::SequencesAtATime(int64_t all, int64_t T) const {
  if (settings_.micro_batch_seqs > 0) return std::min(settings_.micro_batch_seqs, all);
  // Attention is dealt out by sequence and key/value head.
  const int64_t rows = (threads_ * kRowsPerThread + T - 1) / T, heads = (threads_ + shape_.Hkv - 1) / shape_.Hkv;
  return std::min(std::max(rows, heads), all);
}

void FusedTransformer::Impl::Begin(std::span<const uint16_t* const> sequences, int64_t T, bool training) {
  const int64_t B = static_cast<int64_t>(sequences.size());
  Planner count(nullptr);
  Plan(shape_, B, T, training, threads_, count);
  workspace_.Reserve(count.used());
  Planner plan(workspace_.data());
  a_ = Plan(shape_, B, T, training, threads_, plan);
  if (rotary_positions_ != T) {
    rotary_ = RotaryTables(settings_, T);
    rotary_positions_ = T;
  }
  heads_ = {.T = T, .H = shape_.H, .Hkv = shape_.Hkv, .d = shape_.d, .cos = rotary_.cos.const_data_ptr<float>(),
            .sin = rotary_.sin.const_data_ptr<float>()};
  const int32_t rows = static_cast<int32_t>(shape_.bigram_rows);
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t t = 0; t < T; ++t) {
      const int64_t n = b * T + t;
      const uint16_t* tokens = sequences[b] + t;
      a_.ids[n] = tokens[0];
      a_.targets[n] = tokens[1];
      a_.joined[n] = t > 0 && !(settings_.reset_at_bos && tokens[0] == kBos);
      if (rows > 0) a_.bigram_rows[n] = a_.joined[n] ? formula::BigramRow(tokens[0], tokens[-1], rows) : rows - 1;
    }
  }
}

// Calls work(rows) for this thread's rows that are scored: one call where all are.
template <class Work>
void FusedTransformer::Impl::EachScored(const Pass& pass, Work work) const {
  if (pass.first == 0) return work(pass.mine);
  for (int64_t b = pass.mine.first / a_.T; b * a_.T < pass.mine.last; ++b) {
    const Rows rows{std::max(pass.mine.first, b * a_.T + pass.first), std::min(pass.mine.last, (b + 1) * a_.T)};
    if (rows.count() > 0) work(rows);
  }
}

MixNorm FusedTransformer::Impl::BlockInput(int64_t i) const {
  const Layer& layer = layers_[i];
  MixNorm in{.D = shape_.D, .x = a_.x[i], .x0 = a_.x[0], .mix = layer.resid_mix};
  if (layer.skip_from >= 0) {
    in.skip = a_.x[layer.skip_from + 1];
    in.skip_weight = skip_weights_ + layer.skip_row * shape_.D;
  }
  return in;
}

void FusedTransformer::Impl::Embed(Pass& pass) {
  const int64_t D = shape_.D;
  const Rows mine = pass.mine;
  const float* bigram = nullptr;
  float scale = 1;
  if (shape_.bigram_dim > 0) {
    GatherRows(shape_.bigram_dim, bigram_embed_, a_.bigram_rows, a_.bigram, mine);
    if (bigram_proj_) {  // its scale is in its weights
      Gemm(false, true, mine.count(), D, shape_.bigram_dim, At(a_.bigram, shape_.bigram_dim, mine), shape_.bigram_dim,
           bigram_proj_->used, shape_.bigram_dim, Sum::kSet, At(a_.u, D, mine), D);
      bigram = a_.u;
    } else {
      bigram = a_.bigram;
      scale = *bigram_scale_;
    }
  }
  EmbedForward(D, tok_emb_, a_.ids, bigram, scale, a_.x1, a_.embed_norms, mine);
  pass.clock.Done(StepProfile::kEmbed);
  pass.Wait();
  SmearForward(D, gate_.data(), a_.joined, a_.x1, a_.x[0], mine);
  pass.clock.Done(StepProfile::kEmbed);
}

void FusedTransformer::Impl::Block(Pass& pass, int64_t i) {
  const int64_t D = shape_.D, F = shape_.F, S = shape_.qkv(), kv = shape_.Hkv * shape_.d;
  Layer& layer = layers_[i];
  const Activations::Saved& saved = a_.saved[i];
  MixNormForward(BlockInput(i), saved.xa, a_.u, pass.mine);
  pass.clock.Done(StepProfile::kNorm);
  const auto project = [&](const Matrix& m, int64_t column) {
    return [&, column](Rows rows) {
      Gemm(false, true, rows.count(), m.rows, D, At(a_.u, D, rows), D, m.used, D, Sum::kSet, At(saved.qkv, S, rows) + column, S);
    };
  };
  if (layer.c_k.used == layer.c_q.used + D * D && layer.c_v.used == layer.c_k.used + kv * D && pass.first == 0) {
    Gemm(false, true, pass.mine.count(), S, D, At(a_.u, D, pass.mine), D, layer.c_q.used, D, Sum::kSet,
         At(saved.qkv, S, pass.mine), S);
  } else {
    EachScored(pass, project(layer.c_q, 0));
    project(layer.c_k, D)(pass.mine);
    project(layer.c_v, D + kv)(pass.mine);
  }
  pass.clock.Done(StepProfile::kLinear);
  QkForward(heads_, saved.qkv, saved.inverse_norms, pass.mine);
  pass.clock.Done(StepProfile::kQk);
  pass.Wait();
  float* scratch = a_.scratch + pass.team.rank * AttentionScratch(heads_);
  for (int64_t task = pass.team.rank; task < a_.B * shape_.Hkv; task += pass.team.size)
    AttentionForward(heads_, layer.q_gain, saved.qkv, task / shape_.Hkv, task % shape_.Hkv, pass.first, scratch, saved.y, saved.lse);
  pass.clock.Done(StepProfile::kAttention);
  pass.Wait();
  EachScored(pass, [&](Rows rows) {
    const float* y = saved.y;
    if (layer.exclusive) {
      XsaForward(heads_, saved.qkv, saved.y, a_.u, rows);
      y = a_.u;
      pass.clock.Done(StepProfile::kXsa);
    }
    Gemm(false, true, rows.count(), D, D, y + rows.first * D, D, layer.attn_proj.used, D, Sum::kAdd, At(saved.xa, D, rows), D);
    pass.clock.Done(StepProfile::kLinear);
    // The stream goes on in the next block's input, to which the MLP's product is added.
    MixNormForward({.D = D, .x = saved.xa}, a_.x[i + 1], a_.u, rows);
    pass.clock.Done(StepProfile::kNorm);
    Gemm(false, true, rows.count(), F, D, At(a_.u, D, rows), D, layer.mlp_fc.used, D, Sum::kSet, At(saved.h, F, rows), F);
    pass.clock.Done(StepProfile::kLinear);
    Relu2Forward(F, saved.h, a_.act, rows);
    pass.clock.Done(StepProfile::kRelu2);
    Gemm(false, true, rows.count(), D, F, At(a_.act, F, rows), F, layer.mlp_proj.used, F, Sum::kAdd, At(a_.x[i + 1], D, rows), D);
    pass.clock.Done(StepProfile::kLinear);
  });
}

void FusedTransformer::Impl::Forward(Pass& pass) {
  const int64_t first = pass.first;
  Embed(pass);
  for (int64_t i = 0; i < shape_.L; ++i) {
    pass.first = i + 1 == shape_.L ? first : 0;
    Block(pass, i);
  }
}

void FusedTransformer::Impl::Score(Pass& pass) {
  const int64_t D = shape_.D, V = shape_.V;
  float* logits = a_.logits + pass.team.rank * kHeadRows * V;
  const float* table = lm_head_ ? lm_head_->used : tok_emb_;
  EachScored(pass, [&](Rows scored) {
    MixNormForward({.D = D, .x = a_.x[shape_.L]}, nullptr, a_.u, scored);
    for (int64_t first = scored.first; first < scored.last; first += kHeadRows) {
      const Rows rows{first, std::min(first + kHeadRows, scored.last)};
      Gemm(false, true, rows.count(), V, D, At(a_.u, D, rows), D, table, D, Sum::kSet, logits, V);
      CrossEntropyForward(V, static_cast<float>(settings_.logit_softcap), logits, a_.targets, a_.losses, rows);
    }
  });
  pass.clock.Done(StepProfile::kHead);
}

// Final norm, logits and losses, and their gradients: into dx, and into the output layer's. The logits of all threads stand
// side by side while each thread adds its rows of the output layer's gradient.
void FusedTransformer::Impl::HeadWithGradients(Pass& pass, float share) {
  const int64_t D = shape_.D, V = shape_.V, N = a_.N;
  const float* table = lm_head_ ? lm_head_->used : tok_emb_;
  float* table_gradient = lm_head_ ? lm_head_->gradient : tok_emb_gradient_;
  MixNormForward({.D = D, .x = a_.x[shape_.L]}, nullptr, a_.u, pass.mine);
  const int64_t largest = (N + pass.team.size - 1) / pass.team.size, rounds = (largest + kHeadRows - 1) / kHeadRows;
  const auto rows_of = [&](int rank, int64_t round) {
    const Rows all = pass.team.ShareOf(rank, N);
    return Rows{std::min(all.first + round * kHeadRows, all.last), std::min(all.first + (round + 1) * kHeadRows, all.last)};
  };
  const Rows columns = pass.team.Share(V);
  for (int64_t round = 0; round < rounds; ++round) {
    const Rows rows = rows_of(pass.team.rank, round);
    float* logits = a_.logits + pass.team.rank * kHeadRows * V;
    Gemm(false, true, rows.count(), V, D, At(a_.u, D, rows), D, table, D, Sum::kSet, logits, V);
    CrossEntropyBackward(V, static_cast<float>(settings_.logit_softcap), share, logits, a_.targets, a_.losses, rows);
    Gemm(false, false, rows.count(), D, V, logits, V, table, D, Sum::kSet, At(a_.dy, D, rows), D);
    pass.clock.Done(StepProfile::kHead);
    pass.Wait();
    for (int rank = 0; rank < pass.team.size; ++rank) {
      const Rows others = rows_of(rank, round);
      if (others.count() == 0) continue;
      Gemm(true, false, columns.count(), D, others.count(), a_.logits + rank * kHeadRows * V + columns.first, V,
           At(a_.u, D, others), D, Sum::kAdd, table_gradient + columns.first * D, D);
    }
    pass.clock.Done(StepProfile::kHead);
    pass.Wait();
  }
  std::fill(At(a_.dx, D, pass.mine), a_.dx + pass.mine.last * D, 0.0f);
  MixNormBackward({.D = D, .x = a_.x[shape_.L]}, {.du = a_.dy, .dmixed = a_.dx}, pass.mine);
  std::fill(At(a_.dx0, D, pass.mine), a_.dx0 + pass.mine.last * D, 0.0f);
  pass.clock.Done(StepProfile::kHead);
}

// gradient [rows, columns] += dout^T in over all rows of the chunk; this thread does its share of the matrix's rows.
void FusedTransformer::Impl::WeightGradient(Pass& pass, Matrix& matrix, const float* dout, int64_t dout_stride, const float* in) {
  const Rows rows = pass.team.Share(matrix.rows);
  Gemm(true, false, rows.count(), matrix.columns, a_.N, dout + rows.first, dout_stride, in, matrix.columns, Sum::kAdd,
       matrix.gradient + rows.first * matrix.columns, matrix.columns);
}

void FusedTransformer::Impl::BlockBackward(Pass& pass, int64_t i, Vectors& vectors) {
  const int64_t D = shape_.D, F = shape_.F, S = shape_.qkv(), kv = shape_.Hkv * shape_.d;
  const Rows mine = pass.mine;
  Layer& layer = layers_[i];
  const Activations::Saved& saved = a_.saved[i];
  if (layer.skipped_to) {
    const float* from = a_.dskip[i];
    for (int64_t j = mine.first * D; j < mine.last * D; ++j) a_.dx[j] += from[j];
  }
  // MLP
  Gemm(false, false, mine.count(), F, D, At(a_.dx, D, mine), D, layer.mlp_proj.used, F, Sum::kSet, At(a_.da, F, mine), F);
  pass.clock.Done(StepProfile::kLinear);
  Relu2Backward(F, saved.h, a_.act, a_.da, mine);
  pass.clock.Done(StepProfile::kRelu2);
  MixNormForward({.D = D, .x = saved.xa}, nullptr, a_.u, mine);
  pass.clock.Done(StepProfile::kNorm);
  Gemm(false, false, mine.count(), D, F, At(a_.da, F, mine), F, layer.mlp_fc.used, D, Sum::kSet, At(a_.dy, D, mine), D);
  pass.clock.Done(StepProfile::kLinear);
  pass.Wait();
  WeightGradient(pass, layer.mlp_proj, a_.dx, D, a_.act);
  WeightGradient(pass, layer.mlp_fc, a_.da, F, a_.u);
  pass.clock.Done(StepProfile::kLinear);
  pass.Wait();
  MixNormBackward({.D = D, .x = saved.xa}, {.du = a_.dy, .dmixed = a_.dx}, mine);
  pass.clock.Done(StepProfile::kNorm);
  // attention
  Gemm(false, false, mine.count(), D, D, At(a_.dx, D, mine), D, layer.attn_proj.used, D, Sum::kSet, At(a_.dy, D, mine), D);
  pass.clock.Done(StepProfile::kLinear);
  const float* y = saved.y;
  if (layer.exclusive) {
    XsaBackward(heads_, saved.qkv, saved.y, a_.u, a_.dy, a_.dqkv, mine);
    y = a_.u;
    pass.clock.Done(StepProfile::kXsa);
  }
  pass.Wait();
  WeightGradient(pass, layer.attn_proj, a_.dx, D, y);
  pass.clock.Done(StepProfile::kLinear);
  float* scratch = a_.scratch + pass.team.rank * AttentionScratch(heads_);
  for (int64_t task = pass.team.rank; task < a_.B * shape_.Hkv; task += pass.team.size)
    AttentionBackward(heads_, layer.q_gain, saved.qkv, saved.y, saved.lse, a_.dy, task / shape_.Hkv, task % shape_.Hkv,
                      layer.exclusive, scratch, a_.dqkv);
  pass.clock.Done(StepProfile::kAttention);
  pass.Wait();
  QkBackward(heads_, saved.qkv, saved.inverse_norms, layer.q_gain, a_.dqkv, vectors.gain.data() + i * shape_.H, mine);
  pass.clock.Done(StepProfile::kQk);
  MixNormForward(BlockInput(i), nullptr, a_.u2, mine);
  pass.clock.Done(StepProfile::kNorm);
  const auto back = [&](const Matrix& m, int64_t column, int64_t width, Sum sum) {
    Gemm(false, false, mine.count(), D, width, At(a_.dqkv, S, mine) + column, S, m.used, D, sum, At(a_.dy, D, mine), D);
  };
  if (layer.c_k.used == layer.c_q.used + D * D && layer.c_v.used == layer.c_k.used + kv * D) {
    back(layer.c_q, 0, S, Sum::kSet);
  } else {
    back(layer.c_q, 0, D, Sum::kSet);
    back(layer.c_k, D, kv, Sum::kAdd);
    back(layer.c_v, D + kv, kv, Sum::kAdd);
  }
  pass.clock.Done(StepProfile::kLinear);
  pass.Wait();
  WeightGradient(pass, layer.c_q, a_.dqkv, S, a_.u2);
  WeightGradient(pass, layer.c_k, a_.dqkv + D, S, a_.u2);
  WeightGradient(pass, layer.c_v, a_.dqkv + D + kv, S, a_.u2);
  pass.clock.Done(StepProfile::kLinear);
  MixNormGradients out{.du = a_.dy, .dmixed = a_.dx, .dx0 = a_.dx0, .dmix = vectors.mix.data() + i * 2 * D};
  if (layer.skip_from >= 0) {
    out.dskip = a_.dskip[layer.skip_from];
    out.dskip_weight = vectors.skip_weights.data() + layer.skip_row * D;
  }
  MixNormBackward(BlockInput(i), out, mine);
  pass.clock.Done(StepProfile::kNorm);
}

void FusedTransformer::Impl::EmbedBackward(Pass& pass, Vectors& vectors) {
  const int64_t D = shape_.D, width = shape_.bigram_dim;
  const Rows mine = pass.mine;
  for (int64_t j = mine.first * D; j < mine.last * D; ++j) a_.dx0[j] += a_.dx[j];
  pass.Wait();
  float* ds = a_.dy;
  fairway::EmbedBackward(D, gate_.data(), a_.joined, a_.x1, a_.embed_norms, a_.dx0, ds, vectors.gate.data(), a_.N, mine);
  const float* dbigram = ds;
  if (bigram_proj_) {
    dbigram = a_.act;
    Gemm(false, false, mine.count(), width, D, At(ds, D, mine), D, bigram_proj_->used, width, Sum::kSet, At(a_.act, width, mine),
         width);
  } else if (width > 0) {
    for (int64_t j = mine.first * D; j < mine.last * D; ++j) vectors.bigram_scale += ds[j] * a_.bigram[j];
  }
  pass.Wait();
  ScatterAddRows(D, 1, ds, a_.ids, a_.N, tok_emb_gradient_, pass.team.Share(D));
  if (width > 0) {
    if (bigram_proj_) WeightGradient(pass, *bigram_proj_, ds, D, a_.bigram);
    const float scale = bigram_proj_ ? 1 : *bigram_scale_;
    ScatterAddRows(width, scale, dbigram, a_.bigram_rows, a_.N, bigram_embed_gradient_, pass.team.Share(width));
  }
  pass.clock.Done(StepProfile::kEmbed);
}

double FusedTransformer::Impl::AccumulateGradients(std::span<const uint16_t* const> sequences, int64_t T, double share) {
  const int64_t all = static_cast<int64_t>(sequences.size()), at_a_time = SequencesAtATime(all, T);
  const float share_of_one = static_cast<float>(share / static_cast<double>(all * T));
  double loss = 0;
  for (Vectors& vectors : vectors_) vectors.Clear();
  for (int64_t first = 0; first < all; first += at_a_time) {
    Begin(sequences.subspan(first, std::min(at_a_time, all - first)), T, /*training=*/true);
    RunTeam(threads_, [&](const Team& team) {
      Pass pass{.team = team, .clock = Clock(profile, team), .mine = team.Share(a_.N), .first = 0};
      Vectors& vectors = vectors_[team.rank];
      Forward(pass);
      HeadWithGradients(pass, share_of_one);
      for (int64_t i = shape_.L - 1; i >= 0; --i) BlockBackward(pass, i, vectors);
      EmbedBackward(pass, vectors);
    });
    for (int64_t n = 0; n < a_.N; ++n) loss += a_.losses[n];
  }
  // In the threads' order, so that one number of threads gives one result.
  const auto add = [](const float* from, int64_t count, float* to) {
    for (int64_t j = 0; j < count; ++j) to[j] += from[j];
  };
  for (const Vectors& vectors : vectors_) {
    for (int64_t i = 0; i < shape_.L; ++i) {
      add(vectors.mix.data() + i * 2 * shape_.D, 2 * shape_.D, layers_[i].resid_mix_gradient);
      add(vectors.gain.data() + i * shape_.H, shape_.H, layers_[i].q_gain_gradient);
    }
    add(vectors.skip_weights.data(), shape_.skips * shape_.D, skip_weights_gradient_);
    add(vectors.gate.data(), shape_.D, smear_gate_gradient_);
    if (shape_.bigram_dim > 0 && !bigram_proj_) *bigram_scale_gradient_ += vectors.bigram_scale;
  }
  return loss / static_cast<double>(all * T);
}

void FusedTransformer::Impl::TokenLosses(std::span<const uint16_t* const> sequences, int64_t T, int64_t first, float* losses) {
  const int64_t all = static_cast<int64_t>(sequences.size()), at_a_time = SequencesAtATime(all, T);
  for (int64_t done = 0; done < all; done += at_a_time) {
    Begin(sequences.subspan(done, std::min(at_a_time, all - done)), T, /*training=*/false);
    RunTeam(threads_, [&](const Team& team) {
      Pass pass{.team = team, .clock = Clock(profile, team), .mine = team.Share(a_.N), .first = first};
      Forward(pass);
      Score(pass);
    });
    for (int64_t b = 0; b < a_.B; ++b) losses = std::copy_n(a_.losses + b * T + first, T - first, losses);
  }
}

bool FusedTransformer::Covers(const Settings& settings) { return settings.precision == "float32"; }

int64_t FusedTransformer::WorkspaceBytes(const Settings& settings, int64_t sequences, int64_t T, bool training) {
  Planner count(nullptr);
  Plan(Shape(settings), sequences, T, training, settings.ThreadCount(), count);
  return count.used() * static_cast<int64_t>(sizeof(float));
}

FusedTransformer::FusedTransformer(const Settings& settings, NamedTensors parameters, NamedTensors gradients)
    : impl_(std::make_unique<Impl>(settings, std::move(parameters), std::move(gradients))) {}
FusedTransformer::~FusedTransformer() = default;
int64_t FusedTransformer::Prepare(bool fake_quantise) { return impl_->Prepare(fake_quantise); }
double FusedTransformer::AccumulateGradients(std::span<const uint16_t* const> sequences, int64_t T, double share) {
  return impl_->AccumulateGradients(sequences, T, share);
}
void FusedTransformer::FinishGradients() { impl_->FinishGradients(); }
void FusedTransformer::TokenLosses(std::span<const uint16_t* const> sequences, int64_t T, int64_t first, float* losses) {
  impl_->TokenLosses(sequences, T, first, losses);
}
void FusedTransformer::SetProfile(StepProfile* profile) { impl_->profile = profile; }

}  // namespace fairway
