#include "common/model/fused.h"

#include <ATen/Parallel.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "common/base/text.h"
#include "common/model/ops/attention.h"
#include "common/model/ops/cross_entropy.h"
#include "common/model/ops/embed.h"
#include "common/model/ops/fake_quantise.h"
#include "common/model/ops/formulas.h"
#include "common/model/ops/mix_norm.h"
#include "common/model/ops/product.h"
#include "common/model/ops/qk.h"
#include "common/model/ops/team.h"
#include "common/model/ops/xsa.h"
#include "common/model/positions.h"
#include "common/quantise/steps.h"
#include "common/tokens/shard_format.h"

namespace fairway {
namespace {

constexpr int64_t kRowsPerThread = 1024;  // of a chunk: its activations stay in the outer caches
constexpr int64_t kPieceRows = 252;       // that go through a layer together: a piece stays in a core's own cache
constexpr int64_t kHeadRows = 252;        // rows of logits a thread holds at a time

// One block of memory for everything, aligned to cache lines, on large pages where the system gives them.
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { std::free(memory_); }

  // Makes room for `bytes`; what was there is lost where it grows.
  void Reserve(int64_t bytes) {
    if (bytes <= size_) return;
    std::free(memory_);
    memory_ = nullptr;
    size_ = 0;
    constexpr int64_t kPage = int64_t{2} << 20;
    const int64_t rounded = (bytes + kPage - 1) / kPage * kPage;
    memory_ = static_cast<char*>(std::aligned_alloc(kPage, rounded));
    if (memory_ == nullptr) throw std::bad_alloc();
    madvise(memory_, rounded, MADV_HUGEPAGE);
    size_ = bytes;
  }
  char* data() const { return memory_; }

 private:
  char* memory_ = nullptr;
  int64_t size_ = 0;
};

// Hands out pieces of a workspace; with no memory behind it, only counts.
class Planner {
 public:
  explicit Planner(char* memory) : memory_(memory) {}
  template <class T>
  T* Take(int64_t count) {
    char* piece = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return reinterpret_cast<T*>(piece);
  }
  Elements Take(int64_t count, Precision precision) {
    return {Take<char>(count * ElementBytes(precision)), precision};
  }
  Panels Take(int64_t K, int64_t N, Precision precision) {
    return {.words = Take<Word>(Panels::Words(precision, K, N)), .K = K, .N = N, .precision = precision};
  }
  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// The weight [rows, columns] of a linear layer, of one tensor or of several on top of each other, and what the products use in
// its place: packed for both ways, rounded to its training grid and multiplied by a scale a row where it has them.
struct Matrix {
  struct Part {
    std::string name;
    Elements weight;
    float* gradient;
    int64_t rows;
    std::optional<FakeGrid> grid;
  };
  std::vector<Part> parts;
  int64_t rows = 0, columns = 0;
  // of each row, scale_stride floats apart (0: one for all); null: no scale
  const float* scale = nullptr;
  float* scale_gradient = nullptr;
  int64_t scale_stride = 1;
  float constant = 1;                 // and of all rows, without a gradient
  Panels forward;                     // [columns, rows]: A W^T
  Panels backward;                    // [rows, columns]: dA = dOut W
  std::vector<float*> gradient_rows;  // where each row of the gradient lies

  bool scaled() const { return scale != nullptr || constant != 1; }
  float ScaleOf(int64_t row) const { return scale != nullptr ? scale[row * scale_stride] : constant; }
  const Part& part_of(int64_t& row) const {  // and the row's number in it
    size_t i = 0;
    for (; row >= parts[i].rows; ++i) row -= parts[i].rows;
    return parts[i];
  }
};

struct Layer {
  const float *resid_mix, *q_gain;
  float *resid_mix_gradient, *q_gain_gradient;
  Matrix qkv, attn_proj, mlp_fc, mlp_proj;
  bool exclusive;
  int64_t skip_from = -1;  // the encoder block whose output comes in, and its row of skip_weights
  int64_t skip_row = 0;
};

// Sizes that settings fix.
struct Shape {
  explicit Shape(const Settings& s)
      : precision(s.precision == "bfloat16" ? Precision::kBFloat16 : Precision::kFloat32),
        V(s.vocab_size),
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
  // From row to row where a row of `width` elements is a product's operand: whole words.
  int64_t Stride(int64_t width) const { return WordsFor(precision, width) * WordElements(precision); }
  Precision precision;
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
    Elements qkv, y, h;
    float *xa, *inverse_norms, *lse;
  };
  // One thread's rows of logits, which become their gradients, and both operands of the output layer's gradient.
  struct Head {
    float* logits;
    Panels dlogits, u;
  };
  int64_t B, T, N;
  std::vector<float*> x;     // [L + 1] of [N, D]: what goes into each block, and what comes out of the last
  std::vector<Saved> saved;  // [L]; all the same where no backward pass follows
  std::vector<Head> heads;   // of each thread
  std::vector<char*> scratch;
  std::vector<float*> dskip;
  float *x1, *embed_norms, *losses;
  Elements bigram, u, act;
  int32_t *ids, *targets, *bigram_rows;
  uint8_t* joined;
  // backward
  float *dx, *dx0, *dbigram;
  Elements dx_elements, dy, dh, dqkv;
  // operands of weight gradients: of the MLP, of attention's output, of its input, of the bigram projection
  Panels mlp_dx, mlp_act, mlp_dh, mlp_u, proj_dx, proj_y, qkv_d, qkv_u, bigram_d, bigram_in;
};

Activations Plan(const Shape& s, int64_t B, int64_t T, bool training, int threads, Planner& plan) {
  const int64_t N = B * T, F = s.Stride(s.F);
  const Precision precision = s.precision;
  Activations a{.B = B, .T = T, .N = N};
  for (int64_t i = 0; i <= s.L; ++i) a.x.push_back(plan.Take<float>(N * s.D));
  for (int64_t i = 0; i < s.L; ++i) {
    if (i > 0 && !training) {
      a.saved.push_back(a.saved[0]);
      continue;
    }
    a.saved.push_back({.qkv = plan.Take(N * s.qkv(), precision),
                       .y = plan.Take(N * s.D, precision),
                       .h = plan.Take(N * F, precision),
                       .xa = plan.Take<float>(N * s.D),
                       .inverse_norms = plan.Take<float>(N * (s.H + s.Hkv)),
                       .lse = plan.Take<float>(N * s.H)});
  }
  const int64_t scratch = AttentionScratchBytes({.T = T, .H = s.H, .Hkv = s.Hkv, .d = s.d, .cos = nullptr, .sin = nullptr});
  for (int i = 0; i < threads; ++i) {
    a.scratch.push_back(plan.Take<char>(scratch));
    Activations::Head head{.logits = plan.Take<float>(kHeadRows * s.Stride(s.V)), .dlogits = {}, .u = {}};
    if (training) {
      head.dlogits = plan.Take(kHeadRows, s.V, precision);
      head.u = plan.Take(kHeadRows, s.D, precision);
    }
    a.heads.push_back(head);
  }
  a.x1 = plan.Take<float>(N * s.D);
  a.embed_norms = plan.Take<float>(N);
  a.losses = plan.Take<float>(N);
  a.bigram = plan.Take(N * s.Stride(s.bigram_dim), precision);
  a.u = plan.Take(N * s.D, precision);
  a.act = plan.Take(N * F, precision);
  a.ids = plan.Take<int32_t>(N);
  a.targets = plan.Take<int32_t>(N);
  a.bigram_rows = plan.Take<int32_t>(N);
  a.joined = plan.Take<uint8_t>(N);
  if (!training) return a;
  for (int64_t i = 0; i < s.skips; ++i) a.dskip.push_back(plan.Take<float>(N * s.D));
  a.dx = plan.Take<float>(N * s.D);
  a.dx0 = plan.Take<float>(N * s.D);
  a.dbigram = plan.Take<float>(N * s.bigram_dim);
  // The stream's gradient as a product's operand: itself where elements are float32.
  a.dx_elements = precision == Precision::kFloat32 ? Floats(a.dx) : plan.Take(N * s.D, precision);
  a.dy = plan.Take(N * s.D, precision);
  a.dh = a.act;  // the forward pass is over
  a.dqkv = plan.Take(N * s.qkv(), precision);
  for (Panels* panels : {&a.mlp_dx, &a.mlp_u, &a.proj_dx, &a.proj_y, &a.qkv_u, &a.bigram_d}) *panels = plan.Take(N, s.D, precision);
  for (Panels* panels : {&a.mlp_act, &a.mlp_dh}) *panels = plan.Take(N, s.F, precision);
  a.qkv_d = plan.Take(N, s.qkv(), precision);
  a.bigram_in = plan.Take(N, s.bigram_dim, precision);
  return a;
}

Elements At(Elements rows, int64_t stride, Rows range) { return rows + range.first * stride; }

// Calls work(rows) for one piece of the rows after the other.
template <class Work>
void EachPiece(Rows rows, Work work) {
  for (int64_t first = rows.first; first < rows.last; first += kPieceRows)
    work(Rows{first, std::min(first + kPieceRows, rows.last)});
}

Rows All(int64_t n) { return {0, n}; }

}  // namespace

class FusedTransformer::Impl {
 public:
  Impl(const Settings& settings, NamedTensors parameters, NamedTensors gradients);

  int64_t Prepare(bool fake_quantise);
  void FixSteps(const FixedSteps& steps);
  // With `on_block` the gradients are finished with the last chunk.
  double AccumulateGradients(std::span<const uint16_t* const> sequences, int64_t T, double share, const OnBlock* on_block = nullptr);
  void FinishGradients();
  // Of these matrices alone.
  void FinishGradients(std::span<const Matrix* const> matrices);
  void TokenLosses(std::span<const uint16_t* const> sequences, int64_t T, int64_t first, float* losses);
  void ContinueLosses(const uint16_t* tokens, int64_t count, int64_t past, float* losses);

  StepProfile* profile = nullptr;

 private:
  // What a thread carries through a pass.
  struct Pass {
    const Team& team;
    StepClock clock;
    Rows mine;      // of the chunk's rows
    int64_t first;  // positions before this one are not scored
    const OnBlock* on_block = nullptr;  // of the last backward pass in a step, where somebody wants to hear of it
    void Wait() {
      team.Wait();
      clock.Done(StepProfile::kWait);
    }
  };

  std::vector<Matrix*> Matrices();
  void Begin(std::span<const uint16_t* const> sequences, int64_t T, bool training);
  void BeginWithPast(const uint16_t* tokens, int64_t count, int64_t past);
  MixNorm BlockInput(int64_t i) const;
  template <class Work>
  void EachScored(const Pass& pass, Work work) const;

  void Embed(Pass& pass);
  void Block(Pass& pass, int64_t i);
  void Forward(Pass& pass);
  void Score(Pass& pass);
  void HeadWithGradients(Pass& pass, float share);
  void BlockBackward(Pass& pass, int64_t i, Vectors& vectors);
  void Complete(const Pass& pass, int64_t block) const;
  void FinishMatrix(const Team& team, const Matrix& m, std::vector<float>& weight, float& scale_gradient) const;
  void EmbedBackward(Pass& pass, Vectors& vectors);
  void WeightGradient(Pass& pass, const Matrix& matrix, const Panels& dout, const Panels& in);
  void WeightRow(const Matrix& m, int64_t row, float* to) const;
  Elements StreamCopy() const;

  const Settings settings_;
  const NamedTensors parameters_, gradients_;
  const Shape shape_;
  const int threads_;
  const float negative_slope_;
  std::vector<Layer> layers_;
  Matrix head_;  // the output layer: the token table where they are tied
  std::optional<Matrix> bigram_proj_;
  Elements tok_emb_, bigram_embed_;
  const float *skip_weights_, *smear_gate_, *bigram_scale_ = nullptr;
  float *tok_emb_gradient_, *skip_weights_gradient_, *smear_gate_gradient_, *bigram_embed_gradient_ = nullptr,
                                                                             *bigram_scale_gradient_ = nullptr;
  bool fake_quantise_ = false;
  FixedSteps steps_;  // what the parts' grids point into
  std::vector<float> gate_;  // sigmoid(smear.gate); 0 where there is none
  Rotary rotary_;
  int64_t rotary_positions_ = 0;
  std::vector<Vectors> vectors_;  // of each thread
  Workspace packed_, workspace_;
  Activations a_{};
  QkShape heads_{};

  // The text that ContinueLosses goes on in.
  struct Text {
    int64_t position = 0;                  // of the next token
    int64_t rows = 0;                      // of each layer's memory that are in use
    std::vector<std::vector<char>> qkv;    // of each layer: elements [2 or more windows, (H + 2 Hkv) d], the last position last
    std::vector<float> before;             // x1 of the position before, [D]
    Workspace workspace;
    Rotary rotary;
  };
  Text text_;
  int64_t past_ = 0;  // positions before a sequence's first whose keys and values stand before its own
  const float* before_ = nullptr;  // x1 of the position before a sequence's first, where it is seen
};

FusedTransformer::Impl::Impl(const Settings& settings, NamedTensors parameters, NamedTensors gradients)
    : settings_(settings),
      parameters_(std::move(parameters)),
      gradients_(std::move(gradients)),
      shape_(settings),
      threads_(at::get_num_threads()),
      negative_slope_(static_cast<float>(settings.mlp_negative_slope)),
      gate_(settings.model_dim) {
  const auto find = [](const NamedTensors& tensors, const std::string& name) -> const at::Tensor* {
    for (const auto& [own, tensor] : tensors)
      if (own == name) return &tensor;
    return nullptr;
  };
  const auto memory = [&](const NamedTensors& tensors, const std::string& name, Precision precision) -> void* {
    const at::Tensor* tensor = find(tensors, name);
    if (tensor == nullptr) return nullptr;
    if (tensor->scalar_type() != (precision == Precision::kBFloat16 ? at::kBFloat16 : at::kFloat) || !tensor->is_contiguous())
      throw std::invalid_argument(name + " is of another dtype, or not contiguous");
    return tensor->data_ptr();
  };
  const auto value = [&](const std::string& name) {
    return static_cast<float*>(memory(parameters_, name, Precision::kFloat32));
  };
  const auto table = [&](const std::string& name) {
    return Elements{memory(parameters_, name, shape_.precision), shape_.precision};
  };
  const auto gradient = [&](const std::string& name) {
    return static_cast<float*>(memory(gradients_, name, Precision::kFloat32));
  };
  const auto add_part = [&](Matrix& m, const std::string& name, Elements weight) {
    const at::Tensor& tensor = *find(parameters_, name);
    Matrix::Part part{.name = name, .weight = weight, .gradient = gradient(name), .rows = tensor.size(0), .grid = std::nullopt};
    m.columns = tensor.size(1);
    m.rows += part.rows;
    if (part.gradient != nullptr)
      for (int64_t row = 0; row < part.rows; ++row) m.gradient_rows.push_back(part.gradient + row * m.columns);
    m.parts.push_back(std::move(part));
  };
  const auto matrix = [&](const std::vector<std::string>& names, const std::string& scale = "", int64_t scale_stride = 1) {
    Matrix m;
    for (const std::string& name : names) {
      add_part(m, name, Floats(value(name)));
      if (const std::optional<Grid> grid = TrainingGrid(name, *find(parameters_, name), settings)) {
        m.parts.back().grid = FakeGrid{.q_min = static_cast<float>(grid->q_min),
                                       .q_max = static_cast<float>(grid->q_max),
                                       .least = settings.published_quirks ? static_cast<float>(1.0 / grid->q_max) : 0x1p-24f,
                                       .stored = !settings.published_quirks,
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
  tok_emb_ = table("tok_emb.weight");
  tok_emb_gradient_ = gradient("tok_emb.weight");
  skip_weights_ = value("skip_weights");
  skip_weights_gradient_ = gradient("skip_weights");
  smear_gate_ = value("smear.gate");
  smear_gate_gradient_ = gradient("smear.gate");
  if (shape_.bigram_dim > 0) {
    bigram_embed_ = table("bigram.embed.weight");
    bigram_embed_gradient_ = gradient("bigram.embed.weight");
    bigram_scale_ = value("bigram.scale");
    bigram_scale_gradient_ = gradient("bigram.scale");
    if (shape_.bigram_dim != shape_.D) bigram_proj_ = matrix({"bigram.proj.weight"}, "bigram.scale", /*scale_stride=*/0);
  }
  if (settings.tie_embeddings) add_part(head_, "tok_emb.weight", tok_emb_);
  else head_ = matrix({"lm_head.weight"});
  for (int64_t i = 0; i < shape_.L; ++i) {
    const std::string block = StringPrintf("blocks.%ld.", i);
    layers_.push_back({.resid_mix = value(block + "resid_mix"),
                       .q_gain = value(block + "attn.q_gain"),
                       .resid_mix_gradient = gradient(block + "resid_mix"),
                       .q_gain_gradient = gradient(block + "attn.q_gain"),
                       .qkv = matrix({block + "attn.c_q.weight", block + "attn.c_k.weight", block + "attn.c_v.weight"}),
                       .attn_proj = matrix({block + "attn.proj.weight"}, block + "attn_scale"),
                       .mlp_fc = matrix({block + "mlp.fc.weight"}),
                       .mlp_proj = matrix({block + "mlp.proj.weight"}, block + "mlp_scale"),
                       .exclusive = i >= shape_.L - settings.xsa_last_n});
    layers_[i].qkv.constant = layers_[i].mlp_fc.constant = static_cast<float>(InputScale(settings, i));
    // The decoder takes the encoder's outputs back, the last one first.
    const int64_t decoder = i - shape_.encoder;
    if (decoder >= 0 && decoder < shape_.encoder) {
      layers_[i].skip_from = shape_.encoder - 1 - decoder;
      layers_[i].skip_row = decoder;
    }
  }
  for (int i = 0; i < threads_; ++i) vectors_.emplace_back(shape_);
  const auto plan = [&](char* all) {
    Planner planner(all);
    for (Matrix* m : Matrices()) {
      m->forward = planner.Take(m->columns, m->rows, shape_.precision);
      if (!gradients_.empty()) m->backward = planner.Take(m->rows, m->columns, shape_.precision);
    }
    return planner.used();
  };
  packed_.Reserve(plan(nullptr));
  plan(packed_.data());
  Prepare(/*fake_quantise=*/false);
}

std::vector<Matrix*> FusedTransformer::Impl::Matrices() {
  std::vector<Matrix*> all;
  for (Layer& layer : layers_)
    for (Matrix* m : {&layer.qkv, &layer.attn_proj, &layer.mlp_fc, &layer.mlp_proj}) all.push_back(m);
  if (bigram_proj_) all.push_back(&*bigram_proj_);
  all.push_back(&head_);
  return all;
}

void FusedTransformer::Impl::FixSteps(const FixedSteps& steps) {
  steps_ = steps;
  for (Matrix* m : Matrices()) {
    for (Matrix::Part& part : m->parts) {
      const auto own = steps_.find(part.name);
      part.grid.reset();
      if (own != steps_.end())
        part.grid = FakeGrid{.q_min = -kLargestCode,
                             .q_max = kLargestCode,
                             .steps = own->second.rows.const_data_ptr<float>(),
                             .factors = own->second.columns.const_data_ptr<float>()};
    }
  }
}

int64_t FusedTransformer::Impl::Prepare(bool fake_quantise) {
  fake_quantise_ = fake_quantise;
  int64_t rounded = 0;
  struct Task {
    const Matrix* matrix;
    Rows rows;
  };
  std::vector<Task> tasks;
  for (const Matrix* m : Matrices()) {
    for (const Matrix::Part& part : m->parts) rounded += fake_quantise && part.grid;
    for (int64_t row = 0; row < m->rows; row += kPanel) tasks.push_back({m, {row, std::min(row + kPanel, m->rows)}});
  }
  for (int64_t j = 0; j < shape_.D; ++j) gate_[j] = smear_gate_ != nullptr ? formula::Sigmoid(smear_gate_[j]) : 0;
  RunTeam(threads_, [&](const Team& team) {
    StepClock clock(team.rank == 0 ? profile : nullptr);
    std::vector<float> block;
    const Rows mine = team.Share(static_cast<int64_t>(tasks.size()));
    for (int64_t i = mine.first; i < mine.last; ++i) {
      const Matrix& m = *tasks[i].matrix;
      const Rows rows = tasks[i].rows;
      block.resize(kPanel * m.columns);
      for (int64_t row = rows.first; row < rows.last; ++row) {
        float* to = block.data() + (row - rows.first) * m.columns;
        WeightRow(m, row, to);
        if (!m.scaled()) continue;
        const float scale = m.ScaleOf(row);
        for (int64_t j = 0; j < m.columns; ++j) to[j] *= scale;
      }
      PackTransposed(Floats(block.data()), m.columns, m.forward, rows);
      if (m.backward.words != nullptr) PackRows(Floats(block.data()), m.columns, m.backward, rows);
    }
    clock.Done(StepProfile::kWeights);
  });
  return rounded;
}

// A row of the weight as float32, on its training grid where that is on.
void FusedTransformer::Impl::WeightRow(const Matrix& m, int64_t row, float* to) const {
  const Matrix::Part& part = m.part_of(row);
  const Elements from = part.weight + row * m.columns;
  if (from.precision == Precision::kBFloat16) {
    const auto* elements = static_cast<const BFloat16*>(from.data);
    for (int64_t j = 0; j < m.columns; ++j) to[j] = formula::FromBFloat16(elements[j].bits);
  } else if (fake_quantise_ && part.grid) {
    FakeGrid grid = *part.grid;
    if (grid.steps != nullptr) grid.steps += row;
    FakeQuantiseRows(grid, m.columns, from.floats(), to, {0, 1});
  } else {
    std::memcpy(to, from.data, m.columns * sizeof(float));
  }
}

// From the gradient of the scaled weight to that of the weight and of its scale; this thread does its share of the rows. Where
// all rows have one scale, its gradient is added to `scale_gradient`.
void FusedTransformer::Impl::FinishMatrix(const Team& team, const Matrix& m, std::vector<float>& weight, float& scale_gradient) const {
  weight.resize(m.columns);
  const Rows rows = team.Share(m.rows);
  for (int64_t row = rows.first; row < rows.last; ++row) {
    WeightRow(m, row, weight.data());
    float* gradient = m.gradient_rows[row];
    const float scale = m.ScaleOf(row);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < m.columns; ++j) {
      sum += weight[j] * gradient[j];
      gradient[j] *= scale;
    }
    if (m.scale == nullptr) continue;
    if (m.scale_stride == 0) scale_gradient += sum;
    else m.scale_gradient[row] += sum;
  }
}

void FusedTransformer::Impl::FinishGradients(std::span<const Matrix* const> matrices) {
  std::vector<float> of_bigram(threads_);
  RunTeam(threads_, [&](const Team& team) {
    StepClock clock(team.rank == 0 ? profile : nullptr);
    std::vector<float> weight;
    for (const Matrix* m : matrices)
      if (m->scaled()) FinishMatrix(team, *m, weight, of_bigram[team.rank]);
    clock.Done(StepProfile::kWeights);
  });
  if (bigram_proj_)
    for (float part : of_bigram) *bigram_scale_gradient_ += part;
}

void FusedTransformer::Impl::Begin(std::span<const uint16_t* const> sequences, int64_t T, bool training) {
  const int64_t B = static_cast<int64_t>(sequences.size());
  Planner count(nullptr);
  Plan(shape_, B, T, training, threads_, count);
  workspace_.Reserve(count.used());
  Planner plan(workspace_.data());
  a_ = Plan(shape_, B, T, training, threads_, plan);
  // What stands behind an odd row is multiplied by 0, and must be a number.
  if (shape_.Stride(shape_.F) != shape_.F) std::memset(a_.act.data, 0, a_.N * shape_.Stride(shape_.F) * ElementBytes(shape_.precision));
  if (rotary_positions_ != T) {
    // Products may take bfloat16; angles are float32 all the same, but for published_quirks (specification 3, row 21).
    Settings tables = settings_;
    if (!settings_.published_quirks) tables.precision = "float32";
    const Rotary rotary = RotaryTables(tables, T);
    rotary_ = {rotary.cos.to(at::kFloat), rotary.sin.to(at::kFloat)};
    rotary_positions_ = T;
  }
  heads_ = {.T = T, .H = shape_.H, .Hkv = shape_.Hkv, .d = shape_.d, .cos = rotary_.cos.const_data_ptr<float>(),
            .sin = rotary_.sin.const_data_ptr<float>()};
  EachPosition(settings_, sequences, T, [&](int64_t n, const Position& position) {
    a_.ids[n] = position.id;
    a_.targets[n] = position.target;
    a_.joined[n] = position.joined;
    if (shape_.bigram_rows > 0) a_.bigram_rows[n] = position.bigram_row;
  });
}

// Calls work(rows) for this thread's rows that are scored, piece by piece.
template <class Work>
void FusedTransformer::Impl::EachScored(const Pass& pass, Work work) const {
  if (pass.first == 0) return EachPiece(pass.mine, work);
  for (int64_t b = pass.mine.first / a_.T; b * a_.T < pass.mine.last; ++b)
    EachPiece({std::max(pass.mine.first, b * a_.T + pass.first), std::min(pass.mine.last, (b + 1) * a_.T)}, work);
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
  const int64_t D = shape_.D, width = shape_.bigram_dim, stride = shape_.Stride(width);
  const Rows mine = pass.mine;
  Elements bigram;
  float scale = 1;
  if (width > 0) {
    GatherRows(width, bigram_embed_, a_.bigram_rows, a_.bigram, stride, mine);
    if (bigram_proj_) {  // its scale is in its weights
      MultiplyTo({.a = a_.bigram, .a_stride = stride, .b = bigram_proj_->forward}, a_.u, D, mine, All(D));
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
  if (mine.first == 0 && before_ != nullptr)
    for (int64_t j = 0; j < D; ++j) a_.x[0][j] = formula::Smear(gate_[j], a_.x1[j], before_[j]);
  pass.clock.Done(StepProfile::kEmbed);
}

void FusedTransformer::Impl::Block(Pass& pass, int64_t i) {
  const int64_t D = shape_.D, S = shape_.qkv(), F = shape_.Stride(shape_.F);
  const Layer& layer = layers_[i];
  const Activations::Saved& saved = a_.saved[i];
  const Product qkv{.a = a_.u, .a_stride = D, .b = layer.qkv.forward};
  const int64_t keys_from = pass.first > 0 ? D / kPanel * kPanel : 0;
  EachPiece(pass.mine, [&](Rows rows) {
    MixNormForward(BlockInput(i), saved.xa, a_.u, rows);
    pass.clock.Done(StepProfile::kNorm);
    MultiplyTo(qkv, saved.qkv, S, rows, {keys_from, S});
    pass.clock.Done(StepProfile::kLinear);
  });
  if (keys_from > 0) {
    EachScored(pass, [&](Rows rows) { MultiplyTo(qkv, saved.qkv, S, rows, All(keys_from)); });
    pass.clock.Done(StepProfile::kLinear);
  }
  QkForward(heads_, saved.qkv, saved.inverse_norms, pass.mine);
  pass.clock.Done(StepProfile::kQk);
  pass.Wait();
  QkShape seen = heads_;
  seen.T += past_;
  for (int64_t task = pass.team.rank; task < a_.B * shape_.Hkv; task += pass.team.size)
    AttentionForward(seen, layer.q_gain, saved.qkv + -past_ * S, task / shape_.Hkv, task % shape_.Hkv, past_ + pass.first,
                     a_.scratch[pass.team.rank], saved.y + -past_ * D, saved.lse);
  pass.clock.Done(StepProfile::kAttention);
  pass.Wait();
  EachScored(pass, [&](Rows rows) {
    Elements y = saved.y;
    if (layer.exclusive) {
      XsaForward(heads_, saved.qkv, saved.y, a_.u, rows);
      y = a_.u;
      pass.clock.Done(StepProfile::kXsa);
    }
    MultiplyAddTo({.a = y, .a_stride = D, .b = layer.attn_proj.forward}, saved.xa, D, rows);
    pass.clock.Done(StepProfile::kLinear);
    // The stream goes on in the next block's input, to which the MLP's product is added.
    MixNormForward({.D = D, .x = saved.xa}, a_.x[i + 1], a_.u, rows);
    pass.clock.Done(StepProfile::kNorm);
    MultiplyRelu2({.a = a_.u, .a_stride = D, .b = layer.mlp_fc.forward}, negative_slope_, saved.h, a_.act, F, rows);
    MultiplyAddTo({.a = a_.act, .a_stride = F, .b = layer.mlp_proj.forward}, a_.x[i + 1], D, rows);
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
  float* logits = a_.heads[pass.team.rank].logits;
  EachScored(pass, [&](Rows rows) {
    MixNormForward({.D = D, .x = a_.x[shape_.L]}, nullptr, a_.u, rows);
    MultiplyTo({.a = a_.u + rows.first * D, .a_stride = D, .b = head_.forward}, Floats(logits), V, All(rows.count()), All(V));
    CrossEntropyForward(V, static_cast<float>(settings_.logit_softcap), logits, a_.targets, a_.losses, rows);
  });
  pass.clock.Done(StepProfile::kHead);
}

// Final norm, logits and losses, and their gradients: into the stream's, and into the output layer's, of which each thread
// adds its part from all threads' rows.
void FusedTransformer::Impl::HeadWithGradients(Pass& pass, float share) {
  const int64_t D = shape_.D, V = shape_.V, stride = shape_.Stride(V);
  MixNormForward({.D = D, .x = a_.x[shape_.L]}, nullptr, a_.u, pass.mine);
  const auto rows_of = [&](int rank, int64_t round) {
    const Rows all = pass.team.ShareOf(rank, a_.N, 2);
    return Rows{std::min(all.first + round * kHeadRows, all.last), std::min(all.first + (round + 1) * kHeadRows, all.last)};
  };
  const auto operands_of = [&](int rank, int64_t round) {
    Activations::Head head = a_.heads[rank];
    head.dlogits.K = head.u.K = rows_of(rank, round).count();
    return head;
  };
  int64_t largest = 0;
  for (int rank = 0; rank < pass.team.size; ++rank) largest = std::max(largest, pass.team.ShareOf(rank, a_.N, 2).count());
  for (int64_t round = 0; round * kHeadRows < largest; ++round) {
    const Rows rows = rows_of(pass.team.rank, round), own = All(rows.count());
    const Activations::Head head = operands_of(pass.team.rank, round);
    const Elements dlogits{head.logits, shape_.precision};
    MultiplyTo({.a = At(a_.u, D, rows), .a_stride = D, .b = head_.forward}, Floats(head.logits), V, own, All(V));
    CrossEntropyBackward(V, static_cast<float>(settings_.logit_softcap), share, head.logits, a_.targets, a_.losses, dlogits,
                         stride, rows);
    MultiplyTo({.a = dlogits, .a_stride = stride, .b = head_.backward}, At(a_.dy, D, rows), D, own, All(D));
    PackRows(dlogits, stride, head.dlogits, own);
    PackRows(At(a_.u, D, rows), D, head.u, own);
    pass.clock.Done(StepProfile::kHead);
    pass.Wait();
    for (int rank = 0; rank < pass.team.size; ++rank) {
      const Activations::Head others = operands_of(rank, round);
      if (others.u.K > 0) WeightGradient(pass, head_, others.dlogits, others.u);
    }
    pass.clock.Done(StepProfile::kHead);
    pass.Wait();
  }
  std::fill_n(a_.dx + pass.mine.first * D, pass.mine.count() * D, 0.0f);
  std::fill_n(a_.dx0 + pass.mine.first * D, pass.mine.count() * D, 0.0f);
  MixNormBackward({.D = D, .x = a_.x[shape_.L]}, {.du = a_.dy, .dmixed = a_.dx, .dx = StreamCopy()}, pass.mine);
  pass.clock.Done(StepProfile::kHead);
}

// Where the stream's gradient is written as elements: nowhere where it is made of them.
Elements FusedTransformer::Impl::StreamCopy() const {
  return shape_.precision == Precision::kFloat32 ? Elements{} : a_.dx_elements;
}

// The matrix's gradient += dout^T in; this thread does its share of the panels.
void FusedTransformer::Impl::WeightGradient(Pass& pass, const Matrix& matrix, const Panels& dout, const Panels& in) {
  const int64_t across = dout.count();
  const Rows tasks = pass.team.Share(across * in.count());
  for (int64_t q = tasks.first / across; q * across < tasks.last; ++q) {
    const Rows down{std::max(tasks.first - q * across, int64_t{0}), std::min(tasks.last - q * across, across)};
    MultiplyPackedAddTo(dout, in, matrix.gradient_rows.data(), down, {q, q + 1});
  }
}

// All threads have left the backward pass of `block` behind.
void FusedTransformer::Impl::Complete(const Pass& pass, int64_t block) const {
  if (pass.on_block != nullptr && pass.team.rank == 0) (*pass.on_block)(block);
}

void FusedTransformer::Impl::BlockBackward(Pass& pass, int64_t i, Vectors& vectors) {
  const int64_t D = shape_.D, S = shape_.qkv(), F = shape_.Stride(shape_.F);
  const Layer& layer = layers_[i];
  const Activations::Saved& saved = a_.saved[i];
  const MixNorm middle{.D = D, .x = saved.xa};
  EachPiece(pass.mine, [&](Rows rows) {
    MultiplyRelu2Backward({.a = a_.dx_elements, .a_stride = D, .b = layer.mlp_proj.backward}, negative_slope_, saved.h, a_.dh, F,
                          a_.mlp_dh, a_.mlp_act, rows);
    MultiplyTo({.a = a_.dh, .a_stride = F, .b = layer.mlp_fc.backward}, a_.dy, D, rows, All(D));
    pass.clock.Done(StepProfile::kLinear);
    MixNormForward(middle, nullptr, a_.u, rows);
    PackRows(At(a_.u, D, rows), D, a_.mlp_u, rows);
    PackRows(At(a_.dx_elements, D, rows), D, a_.mlp_dx, rows);
    MixNormBackward(middle, {.du = a_.dy, .dmixed = a_.dx, .dx = StreamCopy()}, rows);
    pass.clock.Done(StepProfile::kNorm);
    MultiplyTo({.a = a_.dx_elements, .a_stride = D, .b = layer.attn_proj.backward}, a_.dy, D, rows, All(D));
    pass.clock.Done(StepProfile::kLinear);
    Elements y = saved.y;
    if (layer.exclusive) {
      XsaBackward(heads_, saved.qkv, saved.y, a_.u, a_.dy, a_.dqkv, rows);
      y = a_.u;
      pass.clock.Done(StepProfile::kXsa);
    }
    PackRows(At(a_.dx_elements, D, rows), D, a_.proj_dx, rows);
    PackRows(At(y, D, rows), D, a_.proj_y, rows);
    pass.clock.Done(StepProfile::kNorm);
  });
  pass.Wait();
  if (i + 1 < shape_.L) Complete(pass, i + 1);
  for (int64_t task = pass.team.rank; task < a_.B * shape_.Hkv; task += pass.team.size)
    AttentionBackward(heads_, layer.q_gain, saved.qkv, saved.y, saved.lse, a_.dy, task / shape_.Hkv, task % shape_.Hkv,
                      layer.exclusive, a_.scratch[pass.team.rank], a_.dqkv);
  pass.clock.Done(StepProfile::kAttention);
  WeightGradient(pass, layer.mlp_proj, a_.mlp_dx, a_.mlp_act);
  WeightGradient(pass, layer.mlp_fc, a_.mlp_dh, a_.mlp_u);
  WeightGradient(pass, layer.attn_proj, a_.proj_dx, a_.proj_y);
  pass.clock.Done(StepProfile::kGradients);
  pass.Wait();
  MixNormGradients out{.du = a_.dy, .dmixed = a_.dx, .dx = StreamCopy(), .dx0 = a_.dx0, .dmix = vectors.mix.data() + i * 2 * D};
  if (layer.skip_from >= 0) {
    out.dskip = a_.dskip[layer.skip_from];
    out.dskip_weight = vectors.skip_weights.data() + layer.skip_row * D;
  }
  // What the block below has given to the decoder comes back beside what it has given to this one.
  if (i > 0 && i - 1 < shape_.skips) out.extra = a_.dskip[i - 1];
  EachPiece(pass.mine, [&](Rows rows) {
    QkBackward(heads_, saved.qkv, saved.inverse_norms, layer.q_gain, a_.dqkv, vectors.gain.data() + i * shape_.H, rows);
    pass.clock.Done(StepProfile::kQk);
    MultiplyTo({.a = a_.dqkv, .a_stride = S, .b = layer.qkv.backward}, a_.dy, D, rows, All(D));
    pass.clock.Done(StepProfile::kLinear);
    MixNormForward(BlockInput(i), nullptr, a_.u, rows);
    PackRows(At(a_.u, D, rows), D, a_.qkv_u, rows);
    PackRows(At(a_.dqkv, S, rows), S, a_.qkv_d, rows);
    MixNormBackward(BlockInput(i), out, rows);
    pass.clock.Done(StepProfile::kNorm);
  });
  pass.Wait();
  // The other threads may go on: nothing that this reads is written before they wait again.
  WeightGradient(pass, layer.qkv, a_.qkv_d, a_.qkv_u);
  pass.clock.Done(StepProfile::kGradients);
  if (pass.on_block == nullptr) return;
  std::vector<float> weight;
  float none = 0;  // these have a scale a row
  for (const Matrix* m : {&layer.attn_proj, &layer.mlp_proj}) FinishMatrix(pass.team, *m, weight, none);
  pass.clock.Done(StepProfile::kWeights);
}

void FusedTransformer::Impl::EmbedBackward(Pass& pass, Vectors& vectors) {
  const int64_t D = shape_.D, width = shape_.bigram_dim;
  const Rows mine = pass.mine;
  for (int64_t j = mine.first * D; j < mine.last * D; ++j) a_.dx0[j] += a_.dx[j];
  pass.Wait();
  Complete(pass, 0);
  float* ds = a_.dx;
  fairway::EmbedBackward(D, gate_.data(), a_.joined, a_.x1, a_.embed_norms, a_.dx0, ds, StreamCopy(), vectors.gate.data(), a_.N,
                         mine);
  const float* dbigram = ds;
  if (bigram_proj_) {
    const int64_t stride = shape_.Stride(width);
    dbigram = a_.dbigram;
    MultiplyTo({.a = a_.dx_elements, .a_stride = D, .b = bigram_proj_->backward}, Floats(a_.dbigram), width, mine, All(width));
    PackRows(At(a_.dx_elements, D, mine), D, a_.bigram_d, mine);
    PackRows(At(a_.bigram, stride, mine), stride, a_.bigram_in, mine);
  } else if (width > 0) {
    DotRows(width, ds, a_.bigram, &vectors.bigram_scale, mine);
  }
  pass.Wait();
  ScatterAddRows(D, 1, ds, a_.ids, a_.N, tok_emb_gradient_, pass.team.Share(D));
  if (width > 0) {
    if (bigram_proj_) WeightGradient(pass, *bigram_proj_, a_.bigram_d, a_.bigram_in);
    const float scale = bigram_proj_ ? 1 : *bigram_scale_;
    ScatterAddRows(width, scale, dbigram, a_.bigram_rows, a_.N, bigram_embed_gradient_, pass.team.Share(width));
  }
  pass.clock.Done(StepProfile::kEmbed);
}

void FusedTransformer::Impl::FinishGradients() {
  const std::vector<Matrix*> all = Matrices();
  FinishGradients(std::vector<const Matrix*>(all.begin(), all.end()));
}

double FusedTransformer::Impl::AccumulateGradients(std::span<const uint16_t* const> sequences, int64_t T, double share,
                                                   const OnBlock* on_block) {
  const int64_t all = static_cast<int64_t>(sequences.size()), at_a_time = SequencesAtATime(settings_, threads_, all, T);
  const float share_of_one = static_cast<float>(share / static_cast<double>(all * T));
  double loss = 0;
  for (Vectors& vectors : vectors_) vectors.Clear();
  for (int64_t first = 0; first < all; first += at_a_time) {
    Begin(sequences.subspan(first, std::min(at_a_time, all - first)), T, /*training=*/true);
    const bool last = first + at_a_time >= all;
    RunTeam(threads_, [&](const Team& team) {
      Pass pass{.team = team, .clock = StepClock(team.rank == 0 ? profile : nullptr), .mine = team.Share(a_.N, 2), .first = 0,
                .on_block = last ? on_block : nullptr};
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
    if (smear_gate_ != nullptr) add(vectors.gate.data(), shape_.D, smear_gate_gradient_);
    if (shape_.bigram_dim > 0 && !bigram_proj_) *bigram_scale_gradient_ += vectors.bigram_scale;
  }
  if (on_block != nullptr && bigram_proj_) FinishGradients(std::vector<const Matrix*>{&*bigram_proj_});
  return loss / static_cast<double>(all * T);
}

void FusedTransformer::Impl::TokenLosses(std::span<const uint16_t* const> sequences, int64_t T, int64_t first, float* losses) {
  const int64_t all = static_cast<int64_t>(sequences.size()), at_a_time = SequencesAtATime(settings_, threads_, all, T);
  for (int64_t done = 0; done < all; done += at_a_time) {
    Begin(sequences.subspan(done, std::min(at_a_time, all - done)), T, /*training=*/false);
    RunTeam(threads_, [&](const Team& team) {
      Pass pass{.team = team, .clock = StepClock(team.rank == 0 ? profile : nullptr), .mine = team.Share(a_.N, 2), .first = first};
      Forward(pass);
      Score(pass);
    });
    for (int64_t b = 0; b < a_.B; ++b) losses = std::copy_n(a_.losses + b * T + first, T - first, losses);
  }
}

int64_t FusedTransformer::SequencesAtATime(const Settings& s, int64_t threads, int64_t all, int64_t T) {
  if (s.micro_batch_seqs > 0) return std::min(s.micro_batch_seqs, all);
  // Attention is dealt out by sequence and key/value head.
  const int64_t rows = (threads * kRowsPerThread + T - 1) / T, heads = (threads + s.num_kv_heads - 1) / s.num_kv_heads;
  return std::min(std::max(rows, heads), all);
}

// A chunk of one sequence whose keys and values are computed behind those of the text so far.
void FusedTransformer::Impl::BeginWithPast(const uint16_t* tokens, int64_t count, int64_t past) {
  const int64_t S = shape_.qkv(), D = shape_.D, row_bytes = S * ElementBytes(shape_.precision);
  Begin({&tokens, 1}, count, /*training=*/false);
  if (past == 0) text_.position = text_.rows = 0;
  // Room for two windows, so that rows move to the front once a window, not once a call.
  text_.qkv.resize(shape_.L);
  const int64_t room = static_cast<int64_t>(text_.qkv[0].size()) / row_bytes;
  const bool move = text_.rows + count > room;
  if (move) {
    for (std::vector<char>& qkv : text_.qkv) {
      if (past > 0) std::memmove(qkv.data(), qkv.data() + (text_.rows - past) * row_bytes, past * row_bytes);
      if (past + count > room) qkv.resize(2 * (past + count) * row_bytes);
    }
    text_.rows = past;
  }
  const QkShape seen{.T = past + count, .H = shape_.H, .Hkv = shape_.Hkv, .d = shape_.d, .cos = nullptr, .sin = nullptr};
  Elements y;
  float* lse = nullptr;
  const auto plan = [&](char* memory) {
    Planner planner(memory);
    y = planner.Take(seen.T * D, shape_.precision);
    lse = planner.Take<float>(seen.T * shape_.H);
    for (char*& scratch : a_.scratch) scratch = planner.Take<char>(AttentionScratchBytes(seen));
    return planner.used();
  };
  text_.workspace.Reserve(plan(nullptr));
  plan(text_.workspace.data());
  for (int64_t i = 0; i < shape_.L; ++i) {
    a_.saved[i].qkv = {text_.qkv[i].data() + text_.rows * row_bytes, shape_.precision};
    a_.saved[i].y = y + past * D;
    a_.saved[i].lse = lse;
  }
  if (past > 0) {
    Settings tables = settings_;
    tables.precision = "float32";
    text_.rotary = RotaryTables(tables, count, text_.position);
    heads_.cos = text_.rotary.cos.const_data_ptr<float>();
    heads_.sin = text_.rotary.sin.const_data_ptr<float>();
    if (!(settings_.reset_at_bos && tokens[0] == kBos)) {
      before_ = text_.before.data();
      const int32_t rows = static_cast<int32_t>(shape_.bigram_rows);
      if (rows > 0) a_.bigram_rows[0] = formula::BigramRow(tokens[0], tokens[-1], rows);
    }
  }
  past_ = past;
}

void FusedTransformer::Impl::ContinueLosses(const uint16_t* tokens, int64_t count, int64_t past, float* losses) {
  BeginWithPast(tokens, count, past);
  RunTeam(threads_, [&](const Team& team) {
    Pass pass{.team = team, .clock = StepClock(team.rank == 0 ? profile : nullptr), .mine = team.Share(a_.N, 2), .first = 0};
    Forward(pass);
    Score(pass);
  });
  std::copy_n(a_.losses, count, losses);
  text_.before.assign(a_.x1 + (count - 1) * shape_.D, a_.x1 + count * shape_.D);
  text_.position += count;
  text_.rows += count;
  past_ = 0;
  before_ = nullptr;
}

int64_t FusedTransformer::WorkspaceBytes(const Settings& settings, int64_t sequences, int64_t T, bool training) {
  Planner count(nullptr);
  Plan(Shape(settings), sequences, T, training, settings.ThreadCount(), count);
  return count.used();
}

FusedTransformer::FusedTransformer(const Settings& settings, NamedTensors parameters, NamedTensors gradients)
    : impl_(std::make_unique<Impl>(settings, std::move(parameters), std::move(gradients))) {}
FusedTransformer::~FusedTransformer() = default;
int64_t FusedTransformer::Prepare(bool fake_quantise) {
  losses_.clear();
  return impl_->Prepare(fake_quantise);
}
void FusedTransformer::FixSteps(const FixedSteps& steps) { impl_->FixSteps(steps); }
void FusedTransformer::AccumulateGradients(std::span<const uint16_t* const> sequences, int64_t T, double share) {
  losses_.push_back(static_cast<float>(impl_->AccumulateGradients(sequences, T, share)));
}
void FusedTransformer::FinishGradients() { impl_->FinishGradients(); }
void FusedTransformer::AccumulateLastGradients(std::span<const uint16_t* const> sequences, int64_t T, double share,
                                               const OnBlock& on_block) {
  losses_.push_back(static_cast<float>(impl_->AccumulateGradients(sequences, T, share, &on_block)));
}
void FusedTransformer::TokenLosses(std::span<const uint16_t* const> sequences, int64_t T, int64_t first, float* losses) {
  impl_->TokenLosses(sequences, T, first, losses);
}
void FusedTransformer::ContinueLosses(const uint16_t* tokens, int64_t count, int64_t past, float* losses) {
  impl_->ContinueLosses(tokens, count, past, losses);
}
void FusedTransformer::SetProfile(StepProfile* profile) { impl_->profile = profile; }

}  // namespace fairway
