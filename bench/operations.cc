// bench-operations: every fused operation (common/model/ops) beside its plain LibTorch composition (tests/common/model/plain.h),
// forward and backward, at the shapes that bench/race.py races whole steps at. Names are OPERATION/WAY/SHAPE/PRECISION/WHO.
//
// A rate counts the same work on both sides: the multiplications and additions of the products, or the bytes of what our operation
// reads and writes once. Weights are packed beforehand, as they are once per step. The output layer computes losses and gradients
// in one walk: its second way is both passes, on both sides.
#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/zeros.h>
#include <benchmark/benchmark.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "common/model/flat.h"
#include "common/model/ops/attention.h"
#include "common/model/ops/cross_entropy.h"
#include "common/model/ops/embed.h"
#include "common/model/ops/mix_norm.h"
#include "common/model/ops/product.h"
#include "common/model/ops/team.h"
#include "common/model/ops/xsa.h"
#include "common/settings/settings.h"
#include "tests/common/model/plain.h"

namespace fairway {
namespace {

struct Shape {
  const char* name;
  int64_t N, T, D, H, Hkv, V;
  int64_t d() const { return D / H; }
  int64_t F() const { return 3 * D; }
  int64_t heads() const { return H + 2 * Hkv; }
  QkShape qk(const at::Tensor& cos, const at::Tensor& sin, const at::Tensor& positions) const {
    return {.T = T, .H = H, .Hkv = Hkv, .d = d(), .rotated = d(), .cos = cos.const_data_ptr<float>(), .sin = sin.const_data_ptr<float>(),
            .positions = positions.const_data_ptr<int32_t>()};
  }
};
constexpr Shape kShapes[] = {{"record", 4096, 2048, 512, 8, 4, 1024}, {"small", 8192, 512, 128, 4, 2, 1024}};

// A piece of rows that go through an operation together, as in the model.
constexpr int64_t kPieceRows = 252;
template <class Work>
void EachPiece(Rows rows, Work work) {
  for (int64_t first = rows.first; first < rows.last; first += kPieceRows) work(Rows{first, std::min(first + kPieceRows, rows.last)});
}

struct Operation {
  double forward_work, backward_work;
  bool arithmetic;  // what that counts; else bytes
  std::function<void(const Team&)> forward, backward;
  std::function<at::Tensor()> plain;
  std::vector<at::Tensor> inputs;  // of the plain composition, that get gradients
  bool both = false;               // the second way is both passes
};

float* F(const at::Tensor& x) { return x.mutable_data_ptr<float>(); }
const int32_t* I(const at::Tensor& x) { return x.const_data_ptr<int32_t>(); }
at::Tensor Numbers(int64_t count, int64_t below) { return at::randint(0, below, {count}, at::kInt); }
at::Tensor Copy(const at::Tensor& x, at::ScalarType dtype) { return x.detach().to(dtype, false, /*copy=*/true).set_requires_grad(true); }

struct Kind {
  Precision precision;
  at::ScalarType dtype() const { return precision == Precision::kBFloat16 ? at::kBFloat16 : at::kFloat; }
  double bytes() const { return static_cast<double>(ElementBytes(precision)); }
  at::Tensor Values(at::IntArrayRef sizes) const { return at::randn(sizes).to(dtype()); }
};

// A panel matrix and its memory.
struct Packed {
  Packed(Kind kind, int64_t K, int64_t N)
      : memory(at::zeros({Panels::Words(kind.precision, K, N)}, at::kInt)),
        panels{.words = reinterpret_cast<Word*>(memory.mutable_data_ptr<int32_t>()), .K = K, .N = N, .precision = kind.precision} {}
  at::Tensor memory;
  Panels panels;
};
Packed Transposed(Kind kind, const at::Tensor& w) {
  Packed packed(kind, w.size(1), w.size(0));
  PackTransposed(ElementsOf(w), w.size(1), packed.panels, {0, w.size(0)});
  return packed;
}
Packed AsRows(Kind kind, const at::Tensor& w) {
  Packed packed(kind, w.size(0), w.size(1));
  PackRows(ElementsOf(w), w.size(1), packed.panels, {0, w.size(0)});
  return packed;
}
std::vector<float*> RowsOf(const at::Tensor& x) {
  std::vector<float*> rows;
  for (int64_t m = 0; m < x.size(0); ++m) rows.push_back(F(x) + m * x.size(1));
  return rows;
}
// out += dout^T in, this thread's share of it.
void AddWeightGradient(const Team& team, const Packed& dout, const Packed& in, const std::vector<float*>& out) {
  MultiplyPackedAddTo(dout.panels, in.panels, out.data(), team.Share(dout.panels.count()), {0, in.panels.count()});
}

Operation EmbedAndSmear(const Shape& s, Kind kind) {
  const int64_t N = s.N, D = s.D;
  const at::Tensor tok = kind.Values({s.V, D}), table = kind.Values({4096, D}), ids = Numbers(N, s.V), rows_of = Numbers(N, 4096);
  const at::Tensor gate = at::randn({D}), g = at::rand({D}), joined = at::ones({N}, at::kByte), bigram = kind.Values({N, D});
  const at::Tensor x1 = at::zeros({N, D}), x0 = at::zeros({N, D}), norms = at::ones({N}), dx0 = at::randn({N, D}), ds = at::zeros({N, D});
  const at::Tensor dtok = at::zeros({s.V, D}), dtable = at::zeros({4096, D}), sums = at::zeros({at::get_num_threads(), D + 16});
  const at::Tensor tok2 = Copy(tok, kind.dtype()), table2 = Copy(table, kind.dtype()), gate2 = Copy(gate, kind.dtype());
  const at::Tensor scale2 = Copy(at::ones({}), kind.dtype()), joins = joined.to(at::kBool).unsqueeze(1);
  const at::Tensor token = ids.to(at::kLong), bigram_row = rows_of.to(at::kLong);
  const double values = static_cast<double>(N * D);
  return {.forward_work = values * (2 * kind.bytes() + 4),
          .backward_work = values * (kind.bytes() + 4 * 4),
          .arithmetic = false,
          .forward =
              [=](const Team& team) {
                const Rows rows = team.Share(N);
                GatherRows(D, ElementsOf(table), I(rows_of), ElementsOf(bigram), D, rows);
                EmbedForward(D, ElementsOf(tok), I(ids), ElementsOf(bigram), 1, F(x1), F(norms), rows);
                team.Wait();
                SmearForward(D, F(g), joined.const_data_ptr<uint8_t>(), F(x1), F(x0), rows);
              },
          .backward =
              [=](const Team& team) {
                float* own = F(sums) + team.rank * (D + 16);
                EmbedBackward(D, F(g), joined.const_data_ptr<uint8_t>(), F(x1), F(norms), F(dx0), F(ds), {}, own, N, team.Share(N));
                DotRows(D, F(ds), ElementsOf(bigram), own + D, team.Share(N));
                team.Wait();
                ScatterAddRows(D, 1, Floats(F(ds)), D, I(ids), N, F(dtok), team.Share(D));
                ScatterAddRows(D, 1, Floats(F(ds)), D, I(rows_of), N, F(dtable), team.Share(D));
              },
          .plain = [=] { return plain::EmbedSmear(token, tok2, bigram_row, table2, scale2, gate2, joins); },
          .inputs = {tok2, table2, scale2, gate2}};
}

Operation MixAndNorm(const Shape& s, Kind kind) {
  const int64_t N = s.N, D = s.D;
  const at::Tensor x = at::randn({N, D}), x0 = at::randn({N, D}), mix = at::rand({2, D}), u = kind.Values({N, D}), du = kind.Values({N, D});
  const at::Tensor dx = at::randn({N, D}), dx0 = at::zeros({N, D}), dmix = at::zeros({at::get_num_threads(), 2, D});
  const at::Tensor x2 = Copy(x, kind.dtype()), x02 = Copy(x0, kind.dtype()), mix2 = Copy(mix, kind.dtype());
  const double values = static_cast<double>(N * D);
  return {.forward_work = values * (2 * 4 + kind.bytes()),
          .backward_work = values * (6 * 4 + kind.bytes()),
          .arithmetic = false,
          .forward =
              [=](const Team& team) {
                MixNormForward({.D = D, .x = F(x), .x0 = F(x0), .mix = F(mix)}, nullptr, ElementsOf(u), team.Share(N), Residual::kMixed);
              },
          .backward =
              [=](const Team& team) {
                MixNormBackward({.D = D, .x = F(x), .x0 = F(x0), .mix = F(mix)},
                                {.du = ElementsOf(du), .dresidual = F(dx), .dx0 = F(dx0), .dmix = F(dmix) + team.rank * 2 * D}, team.Share(N));
              },
          .plain = [=] { return plain::Rms(plain::Mix(x2, x02, mix2)); },
          .inputs = {x2, x02, mix2}};
}

Operation QueriesAndKeys(const Shape& s, Kind kind) {
  const int64_t N = s.N, heads = s.H + s.Hkv, d = s.d();
  const at::Tensor angle = at::randn({s.T, d / 2}), cos = angle.cos(), sin = angle.sin(), gain = at::ones({s.H});
  const at::Tensor positions = at::arange(s.T, at::kInt).repeat({N / s.T});
  const at::Tensor qkv = kind.Values({N, s.heads(), d}), dqkv = kind.Values({N, s.heads(), d});
  // Norms of 1 in the backward pass, which is in place: what is computed again and again neither grows nor vanishes.
  const at::Tensor norms = at::zeros({N, heads}), ones = at::ones({N, heads}), dgain = at::zeros({at::get_num_threads(), s.H + 16});
  const at::Tensor x = Copy(kind.Values({N / s.T, s.T, heads, d}), kind.dtype()), c = cos.to(kind.dtype()), n = sin.to(kind.dtype());
  const double values = static_cast<double>(N * heads * d);
  return {.forward_work = values * 2 * kind.bytes(),
          .backward_work = values * 3 * kind.bytes(),
          .arithmetic = false,
          .forward = [=](const Team& team) { QkForward(s.qk(cos, sin, positions), ElementsOf(qkv), F(norms), team.Share(N)); },
          .backward =
              [=](const Team& team) {
                QkBackward(s.qk(cos, sin, positions), ElementsOf(qkv), F(ones), F(gain), ElementsOf(dqkv), F(dgain) + team.rank * (s.H + 16),
                           team.Share(N));
              },
          .plain = [=] { return plain::Qk(x, c, n); },
          .inputs = {x}};
}

Operation Attention(const Shape& s, Kind kind) {
  const int64_t B = s.N / s.T, T = s.T, H = s.H, Hkv = s.Hkv, d = s.d();
  const at::Tensor qkv = kind.Values({B, T, s.heads(), d}), y = kind.Values({B, T, H, d}), dy = kind.Values({B, T, H, d});
  const at::Tensor dqkv = kind.Values(qkv.sizes()), lse = at::zeros({B, H, T}), gain = at::ones({H});
  const QkShape shape{.T = T, .H = H, .Hkv = Hkv, .d = d};
  const at::Tensor scratch = at::zeros({at::get_num_threads(), AttentionScratchBytes(shape)}, at::kByte);
  const auto part = [&](int64_t first, int64_t count) { return Copy(qkv.narrow(2, first, count).contiguous(), kind.dtype()); };
  const at::Tensor q = part(0, H), k = part(H, Hkv), v = part(H + Hkv, Hkv);
  const double product = static_cast<double>(B * H * T * T * d);  // 2 for the half that is seen
  const auto each = [=](const Team& team, auto work) {
    for (int64_t task = team.rank; task < B * Hkv; task += team.size)
      work(task / Hkv, task % Hkv, scratch.mutable_data_ptr<uint8_t>() + team.rank * scratch.size(1));
  };
  const auto forward = [=](const Team& team) {
    each(team, [&](int64_t b, int64_t kv, void* memory) {
      AttentionForward(shape, F(gain), ElementsOf(qkv), b * T, kv, 0, memory, ElementsOf(y), F(lse));
    });
  };
  RunTeam(at::get_num_threads(), forward);  // the backward pass needs what it leaves
  return {.forward_work = 2 * product,
          .backward_work = 5 * product,
          .arithmetic = true,
          .forward = forward,
          .backward =
              [=](const Team& team) {
                each(team, [&](int64_t b, int64_t kv, void* memory) {
                  AttentionBackward(shape, F(gain), ElementsOf(qkv), ElementsOf(y), F(lse), ElementsOf(dy), b * T, kv, false, memory,
                                    ElementsOf(dqkv));
                });
              },
          .plain = [=] { return plain::Attention(q, k, v); },
          .inputs = {q, k, v}};
}

Operation ExclusiveSelfAttention(const Shape& s, Kind kind) {
  const int64_t N = s.N, d = s.d();
  const at::Tensor qkv = kind.Values({N, s.heads(), d}), y = kind.Values({N, s.Hkv, s.H / s.Hkv, d});
  const at::Tensor out = y.clone(), dy = kind.Values(y.sizes());
  const at::Tensor dqkv = kind.Values(qkv.sizes()), y2 = Copy(y, kind.dtype()), v2 = Copy(kind.Values({N, s.Hkv, 1, d}), kind.dtype());
  const QkShape shape{.T = s.T, .H = s.H, .Hkv = s.Hkv, .d = d};
  const double values = static_cast<double>(N * s.H * d), of_v = static_cast<double>(N * s.Hkv * d);
  return {.forward_work = (2 * values + of_v) * kind.bytes(),
          .backward_work = (4 * values + 2 * of_v) * kind.bytes(),
          .arithmetic = false,
          .forward = [=](const Team& team) { XsaForward(shape, ElementsOf(qkv), ElementsOf(y), ElementsOf(out), team.Share(N)); },
          .backward =
              [=](const Team& team) {
                XsaBackward(shape, ElementsOf(qkv), ElementsOf(y), ElementsOf(out), ElementsOf(dy), ElementsOf(dqkv), team.Share(N));
              },
          .plain = [=, dtype = kind.dtype()] { return plain::Exclude(y2.to(at::kFloat), v2.to(at::kFloat)).to(dtype); },
          .inputs = {y2, v2}};
}

Operation Mlp(const Shape& s, Kind kind) {
  const int64_t N = s.N, D = s.D, hidden = s.F();
  const at::Tensor u = kind.Values({N, D}), dx = kind.Values({N, D});
  const at::Tensor fc = kind.Values({hidden, D}) * 0.05, proj = kind.Values({D, hidden}) * 0.05;
  const at::Tensor h = kind.Values({N, hidden}), act = kind.Values({N, hidden}), du = kind.Values({N, D}), x = at::zeros({N, D});
  const at::Tensor dfc = at::zeros({hidden, D}), dproj = at::zeros({D, hidden});
  const Packed fc_t = Transposed(kind, fc), fc_rows = AsRows(kind, fc), proj_t = Transposed(kind, proj), proj_rows = AsRows(kind, proj);
  const Packed dh_packed(kind, N, hidden), act_packed(kind, N, hidden), u_packed(kind, N, D), dx_packed(kind, N, D);
  const std::vector<float*> dfc_rows = RowsOf(dfc), dproj_rows = RowsOf(dproj);
  const at::Tensor u2 = Copy(u, kind.dtype()), fc2 = Copy(fc, kind.dtype()), proj2 = Copy(proj, kind.dtype());
  const double product = 2 * static_cast<double>(N * D * hidden);
  return {.forward_work = 2 * product,
          .backward_work = 4 * product,
          .arithmetic = true,
          .forward =
              [=](const Team& team) {
                EachPiece(team.Share(N, 2), [&](Rows rows) {
                  MultiplyRelu2({.a = ElementsOf(u), .a_stride = D, .b = fc_t.panels}, 0, ElementsOf(h), ElementsOf(act), hidden, rows);
                  MultiplyAddTo({.a = ElementsOf(act), .a_stride = hidden, .b = proj_t.panels}, F(x), D, rows);
                });
              },
          .backward =
              [=, keep = std::array{dfc, dproj}](const Team& team) {
                EachPiece(team.Share(N, 2), [&](Rows rows) {
                  MultiplyRelu2Backward({.a = ElementsOf(dx), .a_stride = D, .b = proj_rows.panels}, 0, ElementsOf(h), ElementsOf(act), hidden,
                                        dh_packed.panels, act_packed.panels, rows);
                  MultiplyTo({.a = ElementsOf(act), .a_stride = hidden, .b = fc_rows.panels}, ElementsOf(du), D, rows, {0, D});
                  PackRows(ElementsOf(u) + rows.first * D, D, u_packed.panels, rows);
                  PackRows(ElementsOf(dx) + rows.first * D, D, dx_packed.panels, rows);
                });
                team.Wait();
                AddWeightGradient(team, dh_packed, u_packed, dfc_rows);
                AddWeightGradient(team, dx_packed, act_packed, dproj_rows);
              },
          .plain = [=] { return plain::Mlp(u2, fc2, proj2, 0); },
          .inputs = {u2, fc2, proj2}};
}

Operation OutputLayer(const Shape& s, Kind kind) {
  const int64_t N = s.N, D = s.D, V = s.V;
  const at::Tensor u = kind.Values({N, D}), w = kind.Values({V, D}) * 0.05, du = kind.Values({N, D});
  const at::Tensor targets = Numbers(N, V), losses = at::zeros({N});
  const at::Tensor logits = at::zeros({at::get_num_threads(), kPieceRows * V}), dw = at::zeros({V, D});
  const Packed w_t = Transposed(kind, w), w_rows = AsRows(kind, w), dlogits(kind, N, V), u_packed(kind, N, D);
  const std::vector<float*> dw_rows = RowsOf(dw);
  const at::Tensor u2 = Copy(u, kind.dtype()), w2 = Copy(w, kind.dtype()), target = targets.to(at::kLong);
  const double product = 2 * static_cast<double>(N * D * V);
  const auto multiply = [=](const Team& team, Rows rows) {
    float* own = F(logits) + team.rank * kPieceRows * V;
    MultiplyTo({.a = ElementsOf(u) + rows.first * D, .a_stride = D, .b = w_t.panels}, Floats(own), V, {0, rows.count()}, {0, V});
    return own;
  };
  return {.forward_work = product,
          .backward_work = 3 * product,
          .arithmetic = true,
          .forward =
              [=](const Team& team) {
                EachPiece(team.Share(N, 2), [&](Rows rows) { CrossEntropyForward(V, 30, multiply(team, rows), I(targets), F(losses), rows); });
              },
          .backward =
              [=, keep = dw](const Team& team) {
                EachPiece(team.Share(N, 2), [&](Rows rows) {
                  float* own = multiply(team, rows);
                  const Elements out{own, kind.precision};
                  CrossEntropyBackward(V, 30, 1.0f / static_cast<float>(N), own, I(targets), F(losses), out, V, rows);
                  MultiplyTo({.a = out, .a_stride = V, .b = w_rows.panels}, ElementsOf(du) + rows.first * D, D, {0, rows.count()}, {0, D});
                  PackRows(out, V, dlogits.panels, rows);
                  PackRows(ElementsOf(u) + rows.first * D, D, u_packed.panels, rows);
                });
                team.Wait();
                AddWeightGradient(team, dlogits, u_packed, dw_rows);
              },
          .plain = [=] { return plain::CrossEntropy(at::linear(u2, w2).to(at::kFloat), target, 30); },
          .inputs = {u2, w2},
          .both = true};
}

Operation FakeQuantise(const Shape& s, Kind) {
  const int64_t rows = s.F(), columns = s.D;
  const at::Tensor w = at::randn({rows, columns}), out = at::zeros({rows, columns});
  const FakeGrid grid{.q_min = -32, .q_max = 31, .least = 0x1p-24f, .stored = true, .exact_codes = false};
  return {.forward_work = static_cast<double>(rows * columns) * 2 * 4,
          .backward_work = 0,
          .arithmetic = false,
          .forward = [=](const Team& team) { FakeQuantiseRows(grid, columns, F(w), F(out), team.Share(rows)); },
          .backward = {},
          .plain = [=] { return plain::FakeQuantise(w, grid); },
          .inputs = {}};
}

using Make = Operation (*)(const Shape&, Kind);

void Run(benchmark::State& state, Make make, const Shape& shape, Kind kind, bool back, bool ours) {
  const Operation operation = make(shape, kind);
  if (ours) {
    const auto& work = back ? operation.backward : operation.forward;
    for (auto _ : state) RunTeam(at::get_num_threads(), work);
  } else if (!back) {
    const c10::InferenceMode no_graph;
    for (auto _ : state) benchmark::DoNotOptimize(operation.plain());
  } else {
    at::Tensor out = operation.plain();
    const at::Tensor gradient = at::randn_like(out);
    for (auto _ : state) {
      if (operation.both) out = operation.plain();
      benchmark::DoNotOptimize(torch::autograd::grad({out}, operation.inputs, {gradient}, /*retain_graph=*/true));
    }
  }
  state.counters[operation.arithmetic ? "FLOP/s" : "bytes/s"] =
      benchmark::Counter(back ? operation.backward_work : operation.forward_work, benchmark::Counter::kIsIterationInvariantRate);
}

void Register(const std::string& name, Make make, bool with_backward = true, bool with_bfloat16 = true, const char* back = "backward") {
  for (const Shape& shape : kShapes)
    for (const bool backward : {false, true})
      for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16})
        for (const bool ours : {true, false}) {
          if ((backward && !with_backward) || (precision == Precision::kBFloat16 && !with_bfloat16)) continue;
          const std::string full = name + "/" + (backward ? back : "forward") + "/" + shape.name + "/" +
                                   (precision == Precision::kBFloat16 ? "bfloat16" : "float32") + "/" + (ours ? "ours" : "plain");
          benchmark::RegisterBenchmark(full.c_str(), Run, make, shape, Kind{precision}, backward, ours)
              ->UseRealTime()
              ->Unit(benchmark::kMillisecond);
        }
}

}  // namespace
}  // namespace fairway

int main(int argc, char** argv) {
  using namespace fairway;
  at::set_num_threads(Settings().ThreadCount());
  Register("embed_smear", EmbedAndSmear);
  Register("mix_norm", MixAndNorm);
  Register("qk", QueriesAndKeys);
  Register("attention", Attention);
  Register("xsa", ExclusiveSelfAttention);
  Register("mlp", Mlp);
  Register("output_layer", OutputLayer, true, true, "both");
  Register("fake_quantise", FakeQuantise, /*with_backward=*/false, /*with_bfloat16=*/false);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
