// Each fused operation (common/model/ops) on its own, in every build of its kernels that this processor runs: values and gradients
// against the plain composition (plain.h) and its gradients in float64, which computes with the same inputs, rounded to bfloat16
// where the kernel's are.
//
// A result is a sum of terms, and its *magnitude* the sum of their absolute values: the same formula with every subtraction an
// addition and every factor's magnitude in the factor's place. Each test says which terms those are. A result that was rounded to
// bfloat16, or made from others that were, is within 2 units in the last place that bfloat16 has at the magnitude; where all is
// float32 (in either precision), within the stated number of those that float32 has there. Where no term is, the result is 0.
//
// Rows come in pieces, some of which begin in the middle; what a kernel is to fill is NaN before.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/frexp.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ldexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include "common/model/flat.h"
#include "common/model/ops/attention.h"
#include "common/model/ops/attention_gate.h"
#include "common/model/ops/cross_entropy.h"
#include "common/model/ops/embed.h"
#include "common/model/ops/formulas.h"
#include "common/model/ops/lanes.h"
#include "common/model/ops/mix_norm.h"
#include "common/model/ops/product.h"
#include "common/model/ops/smear_gate.h"
#include "common/model/ops/xsa.h"
#include "tests/common/model/plain.h"

namespace fairway {
namespace {

#define EACH_KERNEL(X, build)                                                                                                        \
  X(build, GatherRows) X(build, AddGatheredRows) X(build, ScatterAddRows) X(build, DotRows) X(build, EmbedForward) X(build, SmearForward) X(build, EmbedBackward) \
  X(build, MixNormForward) X(build, MixNormBackward) X(build, QkForward) X(build, QkBackward) X(build, AttentionForward)             \
  X(build, AttentionBackward) X(build, XsaForward) X(build, XsaBackward) X(build, PackTransposed) X(build, PackRows)                 \
  X(build, MultiplyTo) X(build, MultiplyAddTo) X(build, MultiplyRelu2) X(build, MultiplyRelu2Backward) X(build, MultiplyPackedAddTo) \
  X(build, CrossEntropyForward) X(build, CrossEntropyBackward) X(build, FakeQuantiseRows) X(build, AttentionGates)                   \
  X(build, GateHeads) X(build, GateHeadsBackward) X(build, AttentionGatesBackward) X(build, SmearGateForward)                        \
  X(build, SmearGateBackward) X(build, SmearGateInputs) X(build, LanesForward) X(build, LanesBackward)
#define AS_MEMBER(build, name) decltype(&build::name) name;
#define AS_VALUE(build, name) &build::name,
#define KERNELS_OF(build) Kernels{#build, EACH_KERNEL(AS_VALUE, build)}

struct Kernels {
  std::string build;
  EACH_KERNEL(AS_MEMBER, baseline)
};
void PrintTo(const Kernels& kernels, std::ostream* out) { *out << kernels.build; }

// From this processor's best on: each build's instructions are the next one's and more.
std::vector<Kernels> Builds() {
  const std::vector<Kernels> all = {
#if defined(__x86_64__)
      KERNELS_OF(x86_64_v4_bf16), KERNELS_OF(x86_64_v4), KERNELS_OF(x86_64_v3),
#elif defined(__aarch64__)
      KERNELS_OF(armv8_bf16),
#endif
      KERNELS_OF(baseline)};
  auto best = all.begin();
  while (best->QkForward != QkForward) ++best;
  return {best, all.end()};
}

// Units in the last place of numbers of `digits` binary digits.
struct Bound {
  int digits;
  double units;
};

void ExpectWithin(const std::string& what, const Bound& bound, const at::Tensor& actual, const at::Tensor& expected,
                  const at::Tensor& magnitude) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  ASSERT_EQ(actual.sizes(), magnitude.sizes()) << what;
  const at::Tensor unit = at::ldexp(at::ones_like(magnitude), std::get<1>(at::frexp(magnitude.detach())) - bound.digits);
  const at::Tensor allowed = at::where(magnitude > 0, bound.units * unit, at::zeros({}, at::kDouble)).flatten();
  const at::Tensor is = actual.detach().to(at::kDouble).flatten(), should = expected.detach().flatten();
  const at::Tensor wrong = (is - should).abs().le(allowed).logical_not();
  if (!wrong.any().item<bool>()) return;
  const at::Tensor first = wrong.nonzero()[0][0];
  ADD_FAILURE() << what << ": " << wrong.sum().item<int64_t>() << " of " << wrong.numel() << ", first at " << first.item<int64_t>()
                << ": " << is[first].item<double>() << " and not " << should[first].item<double>() << ", apart by "
                << bound.units * ((is - should).abs() / allowed)[first].item<double>() << " units of the last place";
}

// A copy that records gradients.
at::Tensor Leaf(const at::Tensor& x) { return x.detach().to(at::kDouble).set_requires_grad(true); }
at::Tensor Magnitude(const at::Tensor& x) { return x.detach().to(at::kDouble).abs(); }
at::Tensor MeanOf(const at::Tensor& x) { return x.mean(-1, /*keepdim=*/true); }
// What an RMS norm of x multiplies it by.
at::Tensor InverseNorms(const at::Tensor& x) { return (MeanOf(x.detach() * x.detach()) + 0x1p-23).rsqrt(); }
// Magnitude of an RMS norm's input gradient: r (du + u mean(du u)).
at::Tensor NormGradient(const at::Tensor& r, const at::Tensor& du, const at::Tensor& u) { return r * (du + u * MeanOf(du * u)); }

// Pieces of n rows, cut at even ones, out of order.
template <class Work>
void InPieces(int64_t n, Work work) {
  const int64_t a = n / 3 / 2 * 2, b = 2 * n / 3 / 2 * 2;
  for (const Rows& rows : {Rows{b, n}, Rows{0, a}, Rows{a, b}})
    if (rows.count() > 0) work(rows);
}

class OperationsTest : public testing::TestWithParam<std::tuple<Kernels, Precision>> {
 protected:
  // Where a result is rounded to elements, or made from such.
  Bound Rounded(double float_units) const { return precision == Precision::kBFloat16 ? Bound{8, 2} : Single(float_units); }
  static Bound Single(double units) { return {24, units}; }

  at::Tensor Floats(at::IntArrayRef sizes) { return at::randn(sizes, generator_, at::kFloat); }
  at::Tensor Values(at::IntArrayRef sizes) { return Floats(sizes).to(dtype); }
  static at::Tensor Unset(at::IntArrayRef sizes, at::ScalarType dtype = at::kFloat) {
    return at::full(sizes, std::numeric_limits<double>::quiet_NaN(), dtype);
  }
  at::Tensor UnsetElements(at::IntArrayRef sizes) const { return Unset(sizes, dtype); }
  at::Tensor Numbers(int64_t count, int64_t below) { return at::randint(0, below, {count}, generator_, at::kInt); }

  // From row to row of a product's operand, and such an operand: [rows, stride], 0 behind the columns.
  int64_t Stride(int64_t columns) const { return WordsFor(precision, columns) * WordElements(precision); }
  at::Tensor Operand(const at::Tensor& x) const {
    const at::Tensor padded = at::zeros({x.size(0), Stride(x.size(1))}, dtype);
    padded.narrow(1, 0, x.size(1)).copy_(x);
    return padded;
  }
  // Memory of a panel matrix [K, N]; all its bits are set before it is packed.
  Panels NewPanels(int64_t K, int64_t N) {
    panels_.push_back(at::full({Panels::Words(precision, K, N)}, -1, at::kInt));
    return {.words = reinterpret_cast<Word*>(panels_.back().mutable_data_ptr<int32_t>()), .K = K, .N = N, .precision = precision};
  }

  const Kernels& kernels = std::get<0>(GetParam());
  const Precision precision = std::get<1>(GetParam());
  const at::ScalarType dtype = precision == Precision::kBFloat16 ? at::kBFloat16 : at::kFloat;

 private:
  at::Generator generator_ = at::make_generator<at::CPUGeneratorImpl>(7);
  std::vector<at::Tensor> panels_;
};
INSTANTIATE_TEST_SUITE_P(Builds, OperationsTest,
                         testing::Combine(testing::ValuesIn(Builds()), testing::Values(Precision::kFloat32, Precision::kBFloat16)),
                         [](const auto& info) {
                           const bool halves = std::get<1>(info.param) == Precision::kBFloat16;
                           return std::get<0>(info.param).build + (halves ? "_bfloat16" : "_float32");
                         });

float* F(const at::Tensor& x) { return x.mutable_data_ptr<float>(); }

// Terms: of the sum, token and scaled bigram; of smeared rows, both; of their gradients, this row's and the next one's; of the
// norm's gradient, the row's and its projection. Everything but ds as elements is float32.
TEST_P(OperationsTest, EmbedAndSmear) {
  const int64_t N = 23, V = 11, bigrams = 7;
  for (const int64_t D : {33, 128}) {
    for (const bool with_bigrams : {false, true}) {
      SCOPED_TRACE(with_bigrams);
      const at::Tensor tok_emb = Values({V, D}), table = with_bigrams ? Values({bigrams, D}) : at::Tensor(), gate = Floats({D});
      const at::Tensor ids = Numbers(N, V), rows_of = Numbers(N, bigrams), joined = Numbers(N, 4).gt(0).to(at::kByte);
      const at::Tensor dx0 = Floats({N, D});
      joined[0] = 0;
      joined[7] = 0;
      const float scale = -0.7f;

      const at::Tensor g = at::zeros({D});
      for (int64_t j = 0; j < D; ++j) F(g)[j] = formula::Sigmoid(F(gate)[j]);
      const at::Tensor x1 = Unset({N, D}), x0 = Unset({N, D}), norms = Unset({N}), ds = Unset({N, D}), ds_elements = UnsetElements({N, D});
      const at::Tensor gathered = UnsetElements({N, D}), wide = UnsetElements({N, D + 3});
      const at::Tensor dgate = Floats({D}), dtok = Floats({V, D}), dtable = Floats({bigrams, D});
      const at::Tensor dgate_before = Magnitude(dgate), dtok_before = Leaf(dtok), dtable_before = Leaf(dtable), start = Leaf(dgate);
      float dscale = 0;
      Elements bigram;
      InPieces(N, [&](Rows rows) {
        if (!with_bigrams) return;
        kernels.GatherRows(D, ElementsOf(table), rows_of.const_data_ptr<int32_t>(), ElementsOf(gathered), D, rows);
        kernels.GatherRows(D, ElementsOf(table), rows_of.const_data_ptr<int32_t>(), ElementsOf(wide), D + 3, rows);
        bigram = ElementsOf(gathered);
      });
      InPieces(N, [&](Rows rows) {
        kernels.EmbedForward(D, ElementsOf(tok_emb), ids.const_data_ptr<int32_t>(), bigram, scale, F(x1), F(norms), rows);
      });
      InPieces(N, [&](Rows rows) { kernels.SmearForward(D, F(g), joined.const_data_ptr<uint8_t>(), F(x1), F(x0), rows); });
      InPieces(N, [&](Rows rows) {
        kernels.EmbedBackward(D, F(g), joined.const_data_ptr<uint8_t>(), F(x1), F(norms), F(dx0), F(ds), ElementsOf(ds_elements), F(dgate),
                              N, rows);
        if (with_bigrams) kernels.DotRows(D, F(ds), bigram, &dscale, rows);
      });
      InPieces(D, [&](Rows columns) {
        kernels.ScatterAddRows(D, 1, ElementsOf(ds), D, ids.const_data_ptr<int32_t>(), N, F(dtok), columns);
        if (with_bigrams) kernels.ScatterAddRows(D, scale, ElementsOf(ds), D, rows_of.const_data_ptr<int32_t>(), N, F(dtable), columns);
      });

      const at::Tensor tok64 = Leaf(tok_emb), table64 = with_bigrams ? Leaf(table) : at::Tensor(), gate64 = Leaf(gate);
      const at::Tensor scale64 = at::full({}, scale, at::kDouble).set_requires_grad(true);
      const at::Tensor token = ids.to(at::kLong), bigram_row = rows_of.to(at::kLong), joins = joined.to(at::kBool).unsqueeze(1);
      const at::Tensor out = plain::EmbedSmear(token, tok64, bigram_row, table64, scale64, gate64, joins);
      (out * dx0).sum().backward();

      const auto rows = [](const at::Tensor& from, const at::Tensor& index) { return from.index_select(0, index); };
      at::Tensor sum = rows(tok64.detach(), token), s = sum.abs();
      if (with_bigrams) {
        const at::Tensor added = scale64.detach() * rows(table64.detach(), bigram_row);
        sum = sum + added;
        s = s + added.abs();
      }
      const at::Tensor r = InverseNorms(sum), m1 = r * s, open = at::sigmoid(gate64.detach()), before = plain::Before(m1, joins);
      ExpectWithin("x0", Single(8), x0, out, (1 - open) * m1 + open * before);
      const at::Tensor d = Magnitude(dx0), joined_next = at::cat({joins.narrow(0, 1, N - 1), joins.narrow(0, 0, 1)});
      const at::Tensor next = at::cat({d.narrow(0, 1, N - 1), d.narrow(0, 0, 1)}).masked_fill(joined_next.logical_not(), 0);
      const at::Tensor m = NormGradient(r, (1 - open) * d + open * next, m1);
      ExpectWithin("dgate", Single(8), dgate, start + gate64.grad(), dgate_before + (d * (before + m1)).sum(0) * open * (1 - open));
      ExpectWithin("dtok_emb", Single(8), dtok, dtok_before + tok64.grad(), dtok_before.abs().index_add(0, token, m));
      EXPECT_TRUE(ds_elements.equal(ds.to(dtype)));
      if (!with_bigrams) continue;
      EXPECT_TRUE(gathered.equal(rows(table, bigram_row)));
      EXPECT_TRUE(wide.equal(at::cat({gathered, at::zeros({N, 3}, dtype)}, 1)));
      ExpectWithin("dtable", Single(8), dtable, dtable_before + table64.grad(),
                   dtable_before.abs().index_add(0, bigram_row, m * std::abs(scale)));
      ExpectWithin("dscale", Single(8), at::full({}, dscale), scale64.grad(), (m * rows(table64.detach(), bigram_row).abs()).sum());
    }
  }
}

// One term to a sum, rounded to an element; of a table's gradient, what rows are looked up.
TEST_P(OperationsTest, RowsOfATable) {
  const int64_t N = 23, V = 11;
  for (const int64_t width : {33, 128}) {
    const int64_t stride = width + 6;
    const at::Tensor table = Values({V, width}), ids = Numbers(N, V), start = Values({N, stride}), sum = start.clone(), dtable = Floats({V, width});
    const at::Tensor token = ids.to(at::kLong), dtable_before = Magnitude(dtable), dtable64 = dtable.to(at::kDouble);
    InPieces(N, [&](Rows rows) {
      kernels.AddGatheredRows(width, ElementsOf(table), ids.const_data_ptr<int32_t>(), ElementsOf(sum) + 6, stride, rows);
    });
    const auto own = [&](const at::Tensor& rows) { return rows.narrow(1, 6, width); };
    const at::Tensor added = table.index_select(0, token);
    EXPECT_TRUE(own(sum).equal((own(start).to(at::kFloat) + added.to(at::kFloat)).to(dtype)));
    EXPECT_TRUE(sum.narrow(1, 0, 6).equal(start.narrow(1, 0, 6)));
    InPieces(width, [&](Rows columns) {
      kernels.ScatterAddRows(width, 0.5f, ElementsOf(start) + 6, stride, ids.const_data_ptr<int32_t>(), N, F(dtable), columns);
    });
    const at::Tensor from = own(start).to(at::kDouble) * 0.5;
    ExpectWithin("dtable", Single(2), dtable, dtable64.index_add(0, token, from), dtable_before.index_add(0, token, from.abs()));
  }
}

// Terms: of the smeared row, the embedding and the gated one before; of gradients, those of the norm, this row's and the next
// one's, and what the gate's logit passes on; of the gate's, all rows'. An exponential turns units of its argument, the logit's,
// into its own. Everything is float32.
TEST_P(OperationsTest, EmbedAndSmearGate) {
  const int64_t N = 23, V = 11;
  for (const auto& [D, window] : std::vector<std::array<int64_t, 2>>{{33, 5}, {128, 12}}) {
    for (const bool with_before : {false, true}) {
      SCOPED_TRACE(std::to_string(D) + (with_before ? ", behind another row" : ""));
      const at::Tensor tok_emb = Values({V, D}), ids = Numbers(N, V), joined = Numbers(N, 4).gt(0).to(at::kByte);
      const at::Tensor w = Floats({window}), first = Floats({D}), dx0 = Floats({N, D});
      joined[0] = 1;
      joined[7] = 0;
      const float lambda = -0.7f;

      const at::Tensor e = Unset({N, D}), x0 = Unset({N, D}), gates = Unset({N}), norms = Unset({N}), ds = dx0.clone();
      const at::Tensor dlogits = Unset({N}), de = Unset({N, D}), dw = Floats({window}), dlambda = Floats({1});
      const at::Tensor dw_before = Leaf(dw), dlambda_before = Leaf(dlambda);
      InPieces(N, [&](Rows rows) {
        kernels.EmbedForward(D, ElementsOf(tok_emb), ids.const_data_ptr<int32_t>(), {}, 1, F(e), /*inverse_norms=*/nullptr, rows);
      });
      EXPECT_TRUE(e.equal(tok_emb.index_select(0, ids.to(at::kLong)).to(at::kFloat)));
      const SmearGate smear{.D = D, .window = window, .w = F(w), .lambda = lambda, .e = F(e), .before = with_before ? F(first) : nullptr,
                            .joined = joined.const_data_ptr<uint8_t>()};
      InPieces(N, [&](Rows rows) { kernels.SmearGateForward(smear, F(x0), F(gates), F(norms), rows); });
      InPieces(N, [&](Rows rows) {
        kernels.SmearGateBackward(smear, F(x0), F(gates), F(norms), F(ds), F(dlogits), F(dw), F(dlambda), rows);
      });
      InPieces(N, [&](Rows rows) { kernels.SmearGateInputs(smear, F(gates), F(ds), F(dlogits), F(de), N, rows); });

      const at::Tensor joins = joined.to(at::kBool).unsqueeze(1).clone();
      if (!with_before) joins[0] = false;
      const at::Tensor e64 = Leaf(e), w64 = Leaf(w.unsqueeze(0)), lambda64 = at::full({}, lambda, at::kDouble).set_requires_grad(true);
      const auto before_of = [&](const at::Tensor& rows, const at::Tensor& row0) {
        return at::cat({row0.to(at::kDouble).unsqueeze(0), rows.narrow(0, 0, N - 1)}).masked_fill(joins.logical_not(), 0);
      };
      const at::Tensor logits = plain::GateLogits(e64, w64), s = plain::SmearByGate(e64, before_of(e64, first), logits, lambda64);
      logits.retain_grad();
      s.retain_grad();
      const at::Tensor expected = plain::Rms(s);
      (expected * dx0).sum().backward();

      const at::Tensor join = joins.to(at::kDouble), g = at::sigmoid(logits.detach()) * join;
      const at::Tensor m_logit = 1 + plain::GateLogits(Magnitude(e), Magnitude(w).unsqueeze(0)), m_g = g * m_logit;
      const at::Tensor before = before_of(Magnitude(e), Magnitude(first)), m_s = Magnitude(e) + std::abs(lambda) * m_g * before;
      const at::Tensor r = InverseNorms(s), m_ds = NormGradient(r, Magnitude(dx0), r * m_s);
      const at::Tensor m_dc = (m_ds * before).sum(-1, true), m_dlogit = m_dc * std::abs(lambda) * m_g * (1 + g);
      const at::Tensor next = at::cat({std::abs(lambda) * (m_g * m_ds).narrow(0, 1, N - 1), at::zeros({1, D}, at::kDouble)});
      ExpectWithin("gates", Single(8), gates.unsqueeze(1), g, m_g);
      ExpectWithin("inverse norms", Single(8), norms.unsqueeze(1), r, r * MeanOf(r * r * m_s * m_s));
      ExpectWithin("x0", Single(8), x0, expected, r * m_s);
      ExpectWithin("ds", Single(8), ds, s.grad(), m_ds);
      ExpectWithin("dlogits", Single(8), dlogits.unsqueeze(1), logits.grad(), m_dlogit);
      ExpectWithin("dlambda", Single(8), dlambda, dlambda_before + lambda64.grad(), dlambda_before.abs() + (m_dc * m_g).sum());
      ExpectWithin("dw", Single(8), dw, dw_before + w64.grad().squeeze(0),
                   dw_before.abs() + (m_dlogit * Magnitude(e).narrow(1, 0, window)).sum(0));
      const at::Tensor m_de = m_ds + next;
      m_de.narrow(1, 0, window).add_(m_dlogit * Magnitude(w));
      ExpectWithin("de", Single(8), de, e64.grad(), m_de);
    }
  }
}

// Terms: x, weighted skip and x0, each times its factor; of gradients, the residual path's, du's and its projection, and
// what was there to add to. A gate's lerp goes from the nearer end. Only u and dx as elements are rounded.
TEST_P(OperationsTest, MixAndNorm) {
  const int64_t N = 19;
  struct Case {
    int64_t D;
    bool mix = false, skip = false, gate = false, extra = false, lane = false, carried = false;
    Residual carries = Residual::kMixed;
  };
  for (const Case& c : std::vector<Case>{{.D = 33},
                                         {.D = 33, .mix = true, .extra = true, .carried = true},
                                         {.D = 64, .mix = true, .skip = true, .carried = true},
                                         {.D = 130, .mix = true, .skip = true, .extra = true},
                                         {.D = 64, .mix = true, .skip = true, .gate = true, .carried = true},
                                         {.D = 33, .mix = true, .lane = true, .carried = true, .carries = Residual::kInput},
                                         {.D = 33, .mix = true, .skip = true, .carried = true, .carries = Residual::kInput},
                                         {.D = 130, .mix = true, .skip = true, .gate = true, .extra = true, .lane = true, .carried = true,
                                          .carries = Residual::kInput}}) {
    const bool input = c.carries == Residual::kInput;
    SCOPED_TRACE(std::to_string(c.D) + (c.skip ? ", skip" : "") + (c.gate ? ", gate" : "") + (input ? ", carries its input" : ""));
    const int64_t D = c.D;
    const at::Tensor x = Floats({N, D}), x0 = Floats({N, D}), mix = Floats({2, D}), skip = Floats({N, D}), weight = Floats({D});
    const at::Tensor du = Values({N, D}), dcarried = Floats({N, D}), extra = Floats({N, D}), lane = Floats({N, D}), gate = Floats({D});
    const at::Tensor carried = Unset({N, D}), u = UnsetElements({N, D}), dx = dcarried.clone(), dx_elements = UnsetElements({N, D});
    const at::Tensor dx0 = Floats({N, D}), dmix = Floats({2, D}), dskip = Unset({N, D}), dweight = Floats({D}), dgate = Floats({D});
    const at::Tensor dx0_before = Leaf(dx0), dmix_before = Leaf(dmix), dweight_before = Leaf(dweight), dgate_before = Leaf(dgate);
    const at::Tensor open = at::zeros({D});
    for (int64_t j = 0; j < D; ++j) F(open)[j] = formula::Sigmoid(F(gate)[j]);
    MixNorm in{.D = D, .x = F(x)};
    MixNormGradients out{.du = ElementsOf(du), .dresidual = F(dx), .carries = c.carries, .dx = ElementsOf(dx_elements)};
    if (c.mix) in.x0 = F(x0), in.mix = F(mix), out.dx0 = F(dx0), out.dmix = F(dmix);
    if (c.skip) in.skip = F(skip), in.skip_weight = F(weight), out.dskip = F(dskip), out.dskip_weight = F(dweight);
    if (c.gate) in.skip_gate = F(open), out.dskip_gate = F(dgate);
    if (c.extra) out.extra = F(extra);
    if (c.lane) out.extra_lane = F(lane);
    InPieces(N, [&](Rows rows) { kernels.MixNormForward(in, c.carried ? F(carried) : nullptr, ElementsOf(u), rows, c.carries); });
    InPieces(N, [&](Rows rows) { kernels.MixNormBackward(in, out, rows); });

    const at::Tensor x64 = Leaf(x), x064 = c.mix ? Leaf(x0) : at::Tensor(), mix64 = Leaf(mix);
    const at::Tensor skip64 = c.skip ? Leaf(skip) : at::Tensor(), weight64 = Leaf(weight), gate64 = c.gate ? Leaf(gate) : at::Tensor();
    const at::Tensor xin = plain::AddSkip(x64, skip64, weight64, gate64), xm = plain::Mix(xin, x064, mix64), normed = plain::Rms(xm);
    (normed * du + (input ? xin : xm) * dcarried).sum().backward();

    const at::Tensor none = at::zeros({}, at::kDouble), one = none + 1, factor = c.mix ? Magnitude(mix)[0] : one;
    const at::Tensor g = c.gate ? at::sigmoid(gate.to(at::kDouble)) : one, shut = c.gate ? 1 + g : one;
    const at::Tensor m_x = Magnitude(x), m_skip = c.skip ? Magnitude(weight) * Magnitude(skip) : none;
    const at::Tensor m_in = c.gate ? at::where(g < 0.5, m_skip + g * (m_x + m_skip), m_x + shut * (m_x + m_skip)) : m_x + m_skip;
    const at::Tensor m = factor * m_in + (c.mix ? Magnitude(mix)[1] * Magnitude(x0) : none), r = InverseNorms(xm);
    if (c.carried) ExpectWithin("carried", Single(c.gate ? 8 : 2), carried, input ? xin : xm, input ? m_in : m);
    ExpectWithin("u", Rounded(8), u, normed, r * m);  // 4 are too few where squares are summed one by one, as under sanitizers
    const at::Tensor of_norm = NormGradient(r, Magnitude(du), r * m), dm = input ? of_norm : Magnitude(dcarried) + of_norm;
    const at::Tensor din = input ? Magnitude(dcarried) + factor * dm : factor * dm;
    const at::Tensor more = (c.extra ? extra.to(at::kDouble) : none) + (c.lane ? lane.to(at::kDouble) : none);
    const at::Tensor m_more = (c.extra ? Magnitude(extra) : none) + (c.lane ? Magnitude(lane) : none);
    ExpectWithin("dx", Single(8), dx, x64.grad() + more, g * din + m_more);
    EXPECT_TRUE(dx_elements.equal(dx.to(dtype)));
    if (c.mix) {
      ExpectWithin("dx0", Single(8), dx0, dx0_before + x064.grad(), dx0_before.abs() + Magnitude(mix)[1] * dm);
      ExpectWithin("dmix", Single(8), dmix, dmix_before + mix64.grad(),
                   dmix_before.abs() + at::cat({(dm * m_in).sum(0, true), (dm * Magnitude(x0)).sum(0, true)}));
    }
    if (c.skip) {
      ExpectWithin("dskip", Single(8), dskip, skip64.grad(), Magnitude(weight) * shut * din);
      ExpectWithin("dskip_weight", Single(8), dweight, dweight_before + weight64.grad(),
                   dweight_before.abs() + (shut * din * Magnitude(skip)).sum(0));
    }
    if (c.gate)
      ExpectWithin("dskip_gate", Single(8), dgate, dgate_before + gate64.grad(),
                   dgate_before.abs() + (din * (m_x + m_skip) * g * shut).sum(0));
  }
}

// Terms: a lane, attention's output and the MLP's, each times its factor; of the factors' gradients, those of all elements.
TEST_P(OperationsTest, TwoLanes) {
  const int64_t N = 19;
  for (const int64_t D : {33, 128}) {
    SCOPED_TRACE(D);
    const at::Tensor resid = Floats({2}), post = Floats({2, 2}), a = Values({N, D}), m = Values({N, D});
    const std::array lanes{Floats({N, D}), Floats({N, D})}, dout{Floats({N, D}), Floats({N, D})};
    const std::array out{Unset({N, D}), Unset({N, D})}, d{dout[0].clone(), dout[1].clone()};
    const at::Tensor da = UnsetElements({N, D}), dm = UnsetElements({N, D});
    const at::Tensor dresid = Floats({2}).to(at::kDouble), dpost = Floats({2, 2}).to(at::kDouble);
    const at::Tensor dresid_before = dresid.clone(), dpost_before = dpost.clone();
    const Lanes in{.D = D, .resid = F(resid), .post = F(post), .lane0 = F(lanes[0]), .lane1 = F(lanes[1]), .a = ElementsOf(a), .m = ElementsOf(m)};
    InPieces(N, [&](Rows rows) { kernels.LanesForward(in, F(out[0]), F(out[1]), rows); });
    InPieces(N, [&](Rows rows) {
      kernels.LanesBackward(in, F(d[0]), F(d[1]), ElementsOf(da), ElementsOf(dm), dresid.mutable_data_ptr<double>(),
                            dpost.mutable_data_ptr<double>(), rows);
    });

    const at::Tensor resid64 = Leaf(resid), post64 = Leaf(post), a64 = Leaf(a), m64 = Leaf(m);
    const std::array lanes64{Leaf(lanes[0]), Leaf(lanes[1])};
    std::array<at::Tensor, 2> expected;
    for (int k = 0; k < 2; ++k) expected[k] = plain::Lane(resid64[k], lanes64[k], post64[0][k], a64, post64[1][k], m64);
    (expected[0] * dout[0] + expected[1] * dout[1]).sum().backward();

    const at::Tensor r = Magnitude(resid), p = Magnitude(post), m_a = Magnitude(a), m_m = Magnitude(m);
    for (int k = 0; k < 2; ++k) {
      SCOPED_TRACE(k);
      const at::Tensor m_d = Magnitude(dout[k]);
      ExpectWithin("out", Single(4), out[k], expected[k], r[k] * Magnitude(lanes[k]) + p[0][k] * m_a + p[1][k] * m_m);
      ExpectWithin("dlane", Single(1), d[k], lanes64[k].grad(), r[k] * m_d);
      ExpectWithin("dresid", Single(8), dresid[k], dresid_before[k] + resid64.grad()[k], dresid_before[k].abs() + (m_d * Magnitude(lanes[k])).sum());
      ExpectWithin("dpost of a", Single(8), dpost[0][k], dpost_before[0][k] + post64.grad()[0][k], dpost_before[0][k].abs() + (m_d * m_a).sum());
      ExpectWithin("dpost of m", Single(8), dpost[1][k], dpost_before[1][k] + post64.grad()[1][k], dpost_before[1][k].abs() + (m_d * m_m).sum());
    }
    const auto through = [&](int source) { return p[source][0] * Magnitude(dout[0]) + p[source][1] * Magnitude(dout[1]); };
    ExpectWithin("da", Rounded(4), da, a64.grad(), through(0));
    ExpectWithin("dm", Rounded(4), dm, m64.grad(), through(1));
  }
}

// Terms: of a gated output, one; of a logit's gradient, the head's products; of the weights', all rows'; of du, what was there and
// every head's. Gates and logits are float32, with an exponential's units as above.
TEST_P(OperationsTest, AttentionGates) {
  const int64_t N = 19;
  for (const auto& [H, d, window] : std::vector<std::array<int64_t, 3>>{{4, 6, 5}, {3, 11, 12}, {2, 64, 12}}) {
    SCOPED_TRACE(d);
    const int64_t D = H * d;
    const at::Tensor u = Values({N, D}), w = Floats({H, window}), y = Values({N, H, d}), dout = Values({N, H, d});
    const at::Tensor gates = Unset({N, H}), out = UnsetElements({N, H, d}), dlogits = Unset({N, H}), du = Values({N, D}), dw = Floats({H, window});
    const at::Tensor in_place = y.clone(), again = y.clone(), dy = dout.clone(), du_before = Leaf(du), dw_before = Leaf(dw);
    const AttentionGate gate{.D = D, .H = H, .d = d, .window = window, .scale = 0.7f, .w = F(w)};
    InPieces(N, [&](Rows rows) { kernels.AttentionGates(gate, ElementsOf(u), F(gates), rows); });
    InPieces(N, [&](Rows rows) {
      kernels.GateHeads(gate, F(gates), ElementsOf(y), ElementsOf(out), rows);
      kernels.GateHeads(gate, F(gates), ElementsOf(in_place), ElementsOf(in_place), rows);
    });
    InPieces(N, [&](Rows rows) { kernels.GateHeadsBackward(gate, F(gates), ElementsOf(again), ElementsOf(dy), F(dlogits), rows); });
    InPieces(N, [&](Rows rows) { kernels.AttentionGatesBackward(gate, F(dlogits), ElementsOf(u), ElementsOf(du), F(dw), rows); });

    const at::Tensor u64 = Leaf(u), w64 = Leaf(w), y64 = Leaf(y), logits = plain::GateLogits(u64, w64);
    logits.retain_grad();
    const double scale = gate.scale;
    const at::Tensor expected = at::sigmoid(scale * logits).unsqueeze(-1) * y64;
    (expected * dout).sum().backward();

    const at::Tensor g = at::sigmoid(scale * logits.detach()), read = Magnitude(u).narrow(1, 0, window);
    const at::Tensor m_g = g * (1 + scale * plain::GateLogits(Magnitude(u), Magnitude(w))), m_heads = m_g.unsqueeze(-1);
    const at::Tensor m_dlogit = (Magnitude(y) * Magnitude(dout)).sum(-1) * m_g * (1 + g) * scale;
    ExpectWithin("gates", Single(8), gates, g, m_g);
    ExpectWithin("out", Rounded(8), out, expected, m_heads * Magnitude(y));
    EXPECT_TRUE(in_place.equal(out) && again.equal(out));
    ExpectWithin("dy", Rounded(8), dy, y64.grad(), m_heads * Magnitude(dout));
    ExpectWithin("dlogits", Single(8), dlogits, logits.grad(), m_dlogit);
    ExpectWithin("dw", Single(8), dw, dw_before + w64.grad(), dw_before.abs() + at::matmul(m_dlogit.t(), read));
    const at::Tensor m_du = du_before.detach().abs();
    m_du.narrow(1, 0, window).add_(at::matmul(m_dlogit, Magnitude(w)));
    ExpectWithin("du", Rounded(8), du, du_before + u64.grad(), m_du);
  }
}

// Terms: both halves' share in a rotated element, the element itself behind those; of gradients, dq^ and its projection, each from
// both halves; of the gain's, those of all rows. Values and everything made from the rounded q^ and k^ are bfloat16's.
TEST_P(OperationsTest, QueriesAndKeys) {
  const int64_t B = 3;
  for (const auto& [T, H, Hkv, d, turns] :
       std::vector<std::array<int64_t, 5>>{{7, 4, 2, 6, 6}, {5, 3, 1, 10, 10}, {9, 2, 2, 64, 64}, {7, 4, 2, 6, 2}, {9, 2, 2, 64, 16}}) {
    SCOPED_TRACE(std::to_string(turns) + " of " + std::to_string(d));
    const int64_t N = B * T, heads = H + Hkv, all = heads + Hkv, half = turns / 2;
    const at::Tensor angle = 10 * Floats({T, half}), cos = angle.cos(), sin = angle.sin();
    const at::Tensor qkv = Values({B, T, all, d}), dqkv = Values({B, T, all, d}), gain = Floats({H}), dgain = Floats({H});
    const at::Tensor out = qkv.clone(), dout = dqkv.clone(), norms = Unset({N, heads}), dgain_before = Leaf(dgain);
    const at::Tensor positions = at::arange(T, at::kInt).repeat({B});
    const QkShape shape{.T = T, .H = H, .Hkv = Hkv, .d = d, .rotated = turns, .cos = F(cos), .sin = F(sin),
                        .positions = positions.const_data_ptr<int32_t>()};
    InPieces(N, [&](Rows rows) { kernels.QkForward(shape, ElementsOf(out), F(norms), rows); });
    InPieces(N, [&](Rows rows) { kernels.QkBackward(shape, ElementsOf(out), F(norms), F(gain), ElementsOf(dout), F(dgain), rows); });

    const auto turned = [&](const at::Tensor& x) { return x.narrow(2, 0, heads); };
    const auto values = [&](const at::Tensor& x) { return x.narrow(2, heads, Hkv); };
    const at::Tensor x = Leaf(turned(qkv)), gain64 = Leaf(gain), c = cos.to(at::kDouble), s = sin.to(at::kDouble);
    const at::Tensor hat = plain::Qk(x, c, s), gains = at::cat({gain64, at::ones({Hkv}, at::kDouble)}).unsqueeze(1);
    (gains * hat * turned(dqkv)).sum().backward();

    const at::Tensor r = InverseNorms(x);
    const auto rotated = [&](const at::Tensor& m) {  // of magnitudes; the backward pass differs in signs alone
      const at::Tensor m1 = m.narrow(-1, 0, half), m2 = m.narrow(-1, half, half), rest = m.narrow(-1, 2 * half, m.size(-1) - 2 * half);
      const at::Tensor cosine = c.abs().unsqueeze(1), sine = s.abs().unsqueeze(1);
      return at::cat({m1 * cosine + m2 * sine, m2 * cosine + m1 * sine, rest}, -1);
    };
    const at::Tensor m = rotated(r * Magnitude(x)), dm = gains.detach().abs() * Magnitude(turned(dqkv));
    ExpectWithin("q^, k^", Rounded(4), turned(out), hat, m);
    ExpectWithin("inverse norms", Single(4), norms.view({B, T, heads, 1}), r, r);
    ExpectWithin("dq, dk", Rounded(8), turned(dout), x.grad(), rotated(NormGradient(r, dm, m)));
    ExpectWithin("dgain", Rounded(8), dgain, dgain_before + gain64.grad(),
                 dgain_before.abs() + (Magnitude(turned(dqkv)) * m).narrow(2, 0, H).sum({0, 1, 3}));
    EXPECT_TRUE(values(out).equal(values(qkv)) && values(dout).equal(values(dqkv)));
  }
}

// Terms: of y, P_ij v_j; of dS_ij, P_ij times those of dy_i . v_j and of dy_i . y_i; of dq^, dk^ and dv, those times k^, q^ and
// P_ij dy_i, over all heads of the group, and the dv that was there. The log-sum-exp is float32: its scores' products, the largest
// score and the sum's logarithm. An exponential turns units of its argument, the scores', into its own: float32's bounds are wider
// by that.
TEST_P(OperationsTest, Attention) {
  struct Case {
    int64_t B, T, H, Hkv, d;
  };
  for (const Case& c : std::vector<Case>{{1, 1, 1, 1, 2}, {2, 7, 4, 2, 6}, {1, 150, 4, 2, 10}, {1, 291, 3, 1, 24}, {2, 129, 2, 2, 66}}) {
    SCOPED_TRACE(c.T);
    const auto [B, T, H, Hkv, d] = c;
    const int64_t group = H / Hkv;
    const at::Tensor qkv = Values({B, T, H + 2 * Hkv, d}), dy = Values({B, T, H, d}), gain = Floats({H});
    const QkShape shape{.T = T, .H = H, .Hkv = Hkv, .d = d};
    const at::Tensor scratch = at::full({AttentionScratchBytes(shape)}, 255, at::kByte);
    const auto each = [&](auto work) {
      for (int64_t b = B - 1; b >= 0; --b)
        for (int64_t kv = 0; kv < Hkv; ++kv) work(b, kv);
    };
    const auto heads = [&, H = H, Hkv = Hkv](const at::Tensor& x) {  // queries, keys, values
      return std::array{x.narrow(2, 0, H), x.narrow(2, H, Hkv), x.narrow(2, H + Hkv, Hkv)};
    };
    const auto [q, k, v] = heads(qkv);
    const at::Tensor scaled = Leaf(q.to(at::kDouble) * gain.to(at::kDouble).view({H, 1})), k64 = Leaf(k), v64 = Leaf(v);
    const at::Tensor expected = plain::Attention(scaled, k64, v64);
    (expected * dy).sum().backward();

    // [B, H, T, d] from here on, and P [B, H, T, T].
    const auto by_head = [](const at::Tensor& x) { return x.detach().to(at::kDouble).transpose(1, 2); };
    const auto for_queries = [&](const at::Tensor& x) { return by_head(x).repeat_interleave(group, 1); };
    const auto summed = [&, B = B, T = T, Hkv = Hkv, d = d](const at::Tensor& x) {
      return x.view({B, Hkv, group, T, d}).sum(2).transpose(1, 2);
    };
    const double root = 1 / std::sqrt(static_cast<double>(d));
    const at::Tensor later = at::ones({T, T}, at::kBool).triu(1);
    const at::Tensor keys = for_queries(k), scores = (at::matmul(by_head(scaled), keys.mT()) * root).masked_fill(later, -INFINITY);
    const at::Tensor P = at::softmax(scores, -1), largest = scores.amax(-1), lse64 = scores.logsumexp(-1);
    const at::Tensor m_scores = (at::matmul(by_head(scaled).abs(), keys.abs().mT()) * root).masked_fill(later, 0).amax(-1);
    const at::Tensor m_v = for_queries(v).abs(), m_y = at::matmul(P, m_v), m_dy = by_head(dy).abs();

    const at::Tensor y = UnsetElements({B, T, H, d}), lse = Unset({B, H, T});
    for (const int64_t first : {T - 1, T / 2, int64_t{0}}) {
      SCOPED_TRACE(first);
      y.fill_(NAN);
      lse.fill_(NAN);
      each([&](int64_t b, int64_t kv) {
        kernels.AttentionForward(shape, F(gain), ElementsOf(qkv), b * T, kv, first, scratch.mutable_data_ptr(), ElementsOf(y), F(lse));
      });
      const auto scored = [&, T = T](const at::Tensor& x, int64_t axis) { return x.narrow(axis, first, T - first); };
      EXPECT_TRUE(y.narrow(1, 0, first).isnan().all().item<bool>() && lse.narrow(2, 0, first).isnan().all().item<bool>());
      ExpectWithin("y", Rounded(32), scored(y, 1), scored(expected, 1), scored(m_y.transpose(1, 2), 1));
      ExpectWithin("log-sum-exp", Single(8), scored(lse, 2), scored(lse64, 2),
                   scored(m_scores + largest.abs() + (lse64 - largest).abs(), 2));
    }
    for (const bool add_dv : {false, true}) {
      SCOPED_TRACE(add_dv);
      const at::Tensor dqkv = add_dv ? Values(qkv.sizes()) : UnsetElements(qkv.sizes());
      const at::Tensor before = add_dv ? Leaf(heads(dqkv)[2]) : at::zeros({}, at::kDouble);
      each([&](int64_t b, int64_t kv) {
        kernels.AttentionBackward(shape, F(gain), ElementsOf(qkv), ElementsOf(y), F(lse), ElementsOf(dy), b * T, kv, add_dv,
                                  scratch.mutable_data_ptr(), ElementsOf(dqkv));
      });
      const auto [dq, dk, dv] = heads(dqkv);
      const at::Tensor m_ds = P * (at::matmul(m_dy, m_v.mT()) + (m_dy * m_y).sum(-1, true));
      ExpectWithin("dq^", Rounded(32), dq, scaled.grad(), (root * at::matmul(m_ds, keys.abs())).transpose(1, 2));
      ExpectWithin("dk^", Rounded(32), dk, k64.grad(), summed(root * at::matmul(m_ds.mT(), by_head(scaled).abs())));
      ExpectWithin("dv", Rounded(32), dv, v64.grad() + before, summed(at::matmul(P.mT(), m_dy)) + before.abs());
    }
  }
}

// Terms: y and what is taken off it, (y . n) n product by product; of dn, over the heads of the group, c g and (g . n) y; of dv, dn
// and its own projection. Values of next to no length, and of none, are among them.
TEST_P(OperationsTest, ExclusiveSelfAttention) {
  const int64_t N = 11;
  for (const auto& [H, Hkv, d] : std::vector<std::array<int64_t, 3>>{{4, 2, 6}, {3, 1, 10}, {2, 2, 33}, {4, 1, 64}}) {
    SCOPED_TRACE(d);
    const at::Tensor qkv = Values({N, H + 2 * Hkv, d}), y = Values({N, Hkv, H / Hkv, d}), dout = Values(y.sizes());
    const at::Tensor v = qkv.narrow(1, H + Hkv, Hkv);
    v[2].zero_();
    v[5].mul_(1e-15);
    const at::Tensor out = UnsetElements(y.sizes()), again = UnsetElements(y.sizes()), dy = dout.clone(), dqkv = UnsetElements(qkv.sizes());
    const QkShape shape{.T = N, .H = H, .Hkv = Hkv, .d = d};
    InPieces(N, [&](Rows rows) { kernels.XsaForward(shape, ElementsOf(qkv), ElementsOf(y), ElementsOf(out), rows); });
    InPieces(N, [&](Rows rows) {
      kernels.XsaBackward(shape, ElementsOf(qkv), ElementsOf(y), ElementsOf(again), ElementsOf(dy), ElementsOf(dqkv), rows);
    });

    const at::Tensor y64 = Leaf(y), v64 = Leaf(v.unsqueeze(2)), expected = plain::Exclude(y64, v64);
    (expected * dout).sum().backward();
    const at::Tensor inverse = at::linalg_vector_norm(v64.detach(), 2, {-1}, true).clamp_min(1e-12).reciprocal();
    const at::Tensor n = v64.detach().abs() * inverse, m = Magnitude(y), g = Magnitude(dout);
    const auto along = [&](const at::Tensor& x) { return (x * n).sum(-1, true); };
    const at::Tensor dn = (along(m) * g + along(g) * m).sum(2, true);
    ExpectWithin("out", Rounded(8), out, expected, m + along(m) * n);
    EXPECT_TRUE(again.equal(out));
    ExpectWithin("dy", Rounded(8), dy, y64.grad(), g + along(g) * n);
    ExpectWithin("dv", Rounded(8), dqkv.narrow(1, H + Hkv, Hkv), v64.grad().squeeze(2), ((dn + along(dn) * n) * inverse).squeeze(2));
    EXPECT_TRUE(dqkv.narrow(1, 0, H + Hkv).isnan().all().item<bool>());
  }
}

// Terms: the products that make up each element; act's are h's squared, dh's are da's times twice h's. A product of operands that
// have not been rounded on the way, into float32, is float32's.
TEST_P(OperationsTest, ProductsAndSquaredRelu) {
  struct Case {
    int64_t N, D, width;
    float negative;
  };
  for (const auto& [N, D, width, negative] : {Case{1, 2, 3, 0}, Case{29, 35, 77, 0.5}, Case{131, 96, 200, 0}, Case{131, 96, 200, 0.5}}) {
    SCOPED_TRACE(std::to_string(width) + ", slope " + std::to_string(negative));
    const int64_t hidden = width, stride = Stride(hidden), d_stride = Stride(D);
    const at::Tensor u = Operand(Values({N, D})), dout = Operand(Values({N, D}));
    // Weights come as float32 to be packed.
    const at::Tensor fc = Values({hidden, D}).to(at::kFloat), proj = Values({D, hidden}).to(at::kFloat);
    const at::Tensor x = Floats({N, D}), x_before = Leaf(x);
    const Panels fc_t = NewPanels(D, hidden), fc_rows = NewPanels(hidden, D);
    const Panels proj_t = NewPanels(hidden, D), proj_rows = NewPanels(D, hidden);
    for (int64_t row = 0; row < hidden; row += kPanel) {
      const int64_t last = std::min(row + kPanel, hidden);
      kernels.PackTransposed(ElementsOf(fc) + row * D, D, fc_t, {row, last});
      kernels.PackRows(ElementsOf(fc) + row * D, D, fc_rows, {row, last});
    }
    for (int64_t row = 0; row < D; row += kPanel) {
      const int64_t last = std::min(row + kPanel, D);
      kernels.PackTransposed(ElementsOf(proj) + row * hidden, hidden, proj_t, {row, last});
      kernels.PackRows(ElementsOf(proj) + row * hidden, hidden, proj_rows, {row, last});
    }
    const at::Tensor h = at::zeros({N, stride}, dtype), act = at::zeros({N, stride}, dtype), dh = at::zeros({N, stride}, dtype);
    const at::Tensor plain_h = Unset({N, hidden}), du = UnsetElements({N, D});
    const Panels act_packed = NewPanels(N, hidden), dh_packed = NewPanels(N, hidden);
    const Panels u_packed = NewPanels(N, D), dout_packed = NewPanels(N, D);
    const Product to_hidden{.a = ElementsOf(u), .a_stride = d_stride, .b = fc_t};
    InPieces(N, [&](Rows rows) {
      InPieces(fc_t.count(), [&](Rows panels) {
        kernels.MultiplyTo(to_hidden, ElementsOf(plain_h), hidden, rows, {panels.first * kPanel, std::min(panels.last * kPanel, hidden)});
      });
      kernels.MultiplyRelu2(to_hidden, negative, ElementsOf(h), ElementsOf(act), stride, rows);
      kernels.MultiplyAddTo({.a = ElementsOf(act), .a_stride = stride, .b = proj_t}, F(x), D, rows);
    });
    InPieces(N, [&](Rows rows) {
      kernels.MultiplyRelu2Backward({.a = ElementsOf(dout), .a_stride = d_stride, .b = proj_rows}, negative, ElementsOf(h),
                                    ElementsOf(dh), stride, dh_packed, act_packed, rows);
      kernels.MultiplyTo({.a = ElementsOf(dh), .a_stride = stride, .b = fc_rows}, ElementsOf(du), D, rows, {0, D});
      kernels.PackRows(ElementsOf(u) + rows.first * d_stride, d_stride, u_packed, rows);
      kernels.PackRows(ElementsOf(dout) + rows.first * d_stride, d_stride, dout_packed, rows);
    });
    const at::Tensor dfc = Floats({hidden, D}), dproj = Floats({D, hidden}), dfc_before = Leaf(dfc), dproj_before = Leaf(dproj);
    const auto multiply = [&](const Panels& a, const Panels& b, const at::Tensor& out) {
      std::vector<float*> rows;
      for (int64_t m = 0; m < a.N; ++m) rows.push_back(F(out) + m * b.N);
      InPieces(a.count(), [&](Rows a_panels) {
        InPieces(b.count(), [&](Rows b_panels) { kernels.MultiplyPackedAddTo(a, b, rows.data(), a_panels, b_panels); });
      });
    };
    multiply(dh_packed, u_packed, dfc);
    multiply(dout_packed, act_packed, dproj);

    const auto real = [&, D = D](const at::Tensor& operand) { return operand.narrow(1, 0, D); };
    const at::Tensor u64 = Leaf(real(u)), fc64 = Leaf(fc), proj64 = Leaf(proj), d64 = real(dout).to(at::kDouble);
    const at::Tensor h64 = at::linear(u64, fc64), expected = plain::Mlp(u64, fc64, proj64, negative);
    (expected * d64).sum().backward();
    const at::Tensor m_h = at::matmul(Magnitude(u64), Magnitude(fc).t()), m_act = m_h * m_h;
    const at::Tensor m_dh = 2 * m_h * at::matmul(d64.abs(), Magnitude(proj));
    ExpectWithin("product", Single(8), plain_h, h64, m_h);
    ExpectWithin("h", Rounded(8), h.narrow(1, 0, hidden), h64, m_h);
    const at::Tensor relu = at::leaky_relu(h64, negative);
    ExpectWithin("act", Rounded(16), act.narrow(1, 0, hidden), relu * relu, m_act);
    ExpectWithin("x", Rounded(16), x, x_before + expected, x_before.abs() + at::matmul(m_act, Magnitude(proj).t()));
    ExpectWithin("du", Rounded(16), du, u64.grad(), at::matmul(m_dh, Magnitude(fc)));
    ExpectWithin("dfc", Rounded(16), dfc, dfc_before + fc64.grad(), dfc_before.abs() + at::matmul(m_dh.t(), Magnitude(u64)));
    ExpectWithin("dproj", Rounded(16), dproj, dproj_before + proj64.grad(), dproj_before.abs() + at::matmul(d64.abs().t(), m_act));
    for (const at::Tensor& padded : {h, act, dh}) EXPECT_TRUE(padded.narrow(1, hidden, stride - hidden).eq(0).all().item<bool>());
  }
}

// Terms: of a loss, the largest capped logit, the sum's logarithm and the target's; of dlogit, probability and target, each times both
// terms of the softcap's slope. An exponential's argument has units of its own (as in attention): capped logits go up to 30, and their
// differences to 60.
TEST_P(OperationsTest, CrossEntropy) {
  const int64_t N = 11;
  for (const int64_t V : {3, 77, 1024}) {
    for (const float cap : {30.0f, 2.0f}) {
      SCOPED_TRACE(V);
      const float share = 0.03f;
      const int64_t stride = Stride(V);
      const at::Tensor logits = 20 * Floats({N, V}), targets = Numbers(N, V), losses = Unset({N}), again = Unset({N});
      const at::Tensor dlogits = UnsetElements({N, V});
      InPieces(N, [&](Rows rows) {
        const at::Tensor some = logits.narrow(0, rows.first, rows.count()).clone();
        kernels.CrossEntropyForward(V, cap, F(some), targets.const_data_ptr<int32_t>(), F(losses), rows);
        // The gradients lie where the logits were.
        const at::Tensor both = at::zeros({rows.count() * stride}, at::kFloat);
        both.narrow(0, 0, rows.count() * V).copy_(logits.narrow(0, rows.first, rows.count()).flatten());
        const Elements here{F(both), precision};
        kernels.CrossEntropyBackward(V, cap, share, F(both), targets.const_data_ptr<int32_t>(), F(again), here, stride, rows);
        const at::Tensor made = both.view(dtype).narrow(0, 0, rows.count() * stride).view({rows.count(), stride});
        dlogits.narrow(0, rows.first, rows.count()).copy_(made.narrow(1, 0, V));
        EXPECT_TRUE(made.narrow(1, V, stride - V).eq(0).all().item<bool>());
      });

      const at::Tensor logits64 = Leaf(logits), target = targets.to(at::kLong);
      const at::Tensor expected = plain::CrossEntropy(logits64, target, cap);
      (expected.sum() * static_cast<double>(share)).backward();
      const at::Tensor z = cap * at::tanh(logits64.detach() / cap), largest = z.amax(1);
      const at::Tensor one = at::zeros_like(z).scatter(1, target.unsqueeze(1), 1);
      const at::Tensor m = largest.abs() + (z.logsumexp(1) - largest).abs() + z.abs().gather(1, target.unsqueeze(1)).squeeze(1);
      ExpectWithin("losses", Single(8), losses, expected, m);
      EXPECT_TRUE(again.equal(losses));
      ExpectWithin("dlogits", Rounded(64), dlogits, logits64.grad(), share * (at::softmax(z, 1) + one) * (1 + (z / cap).square()));
    }
  }
}

// One term: the weight on its grid. A code is a whole number: an input that lies between two of them to float32's last places could be
// either, and none here does. The gradient passes straight through, which is the matrix's business and no kernel's.
TEST_P(OperationsTest, FakeQuantise) {
  const int64_t rows = 13, columns = 77;
  for (const auto& [q_min, q_max] : std::vector<std::array<float, 2>>{{-16, 15}, {-32, 31}, {-127, 127}}) {
    for (const bool stored : {false, true}) {
      for (const bool exact_codes : {false, true}) {
        const float least = stored ? 0x1p-24f : 1 / q_max;
        const FakeGrid grid{.q_min = q_min, .q_max = q_max, .least = least, .stored = stored, .exact_codes = exact_codes};
        const at::Tensor w = Floats({rows, columns}), out = Unset({rows, columns});
        w[3].zero_();
        w[4].mul_(1e-7);
        w[5].mul_(0.01);
        InPieces(rows, [&](Rows piece) { kernels.FakeQuantiseRows(grid, columns, F(w), F(out), piece); });
        const at::Tensor expected = plain::FakeQuantise(w.to(at::kDouble), grid);
        ExpectWithin("w", Single(2), out, expected, expected.abs());
      }
    }
  }
}

}  // namespace
}  // namespace fairway
