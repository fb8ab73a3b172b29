// Operations on a residual stream in bfloat16: bit for bit what they give on the same numbers in float32, rounded once. What the
// float32 ones compute is proved by backend_test.cc.
#include "common/cuda/operations.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/common/cuda/host_device.h"

namespace fairway::cuda {
namespace {

constexpr int64_t kRows = 11, kVocabulary = 7;

// What an operation wrote: to the stream and its gradients, to products, and in float32.
template <class S>
struct Written {
  std::vector<std::vector<S>> streams;
  std::vector<std::vector<BFloat16>> products;
  std::vector<std::vector<float>> floats;
};

// Random numbers that bfloat16 holds too; the same ones whatever they are held in.
class Draw {
 public:
  template <class Element>
  std::vector<Element> Numbers(int64_t count) {
    std::vector<Element> numbers(count);
    for (Element& number : numbers) number = To<Element>(Rounded<BFloat16>(normal_(random_)));
    return numbers;
  }
  std::vector<int32_t> Below(int32_t limit, int64_t count) {
    std::vector<int32_t> numbers(count);
    for (int32_t& number : numbers) number = static_cast<int32_t>(random_() % limit);
    return numbers;
  }

 private:
  std::mt19937_64 random_{3};
  std::normal_distribution<float> normal_;
};

// D columns, in pieces where they divide by them; the residual path of one lane or of two.
struct Case {
  int64_t D;
  bool lanes;
};

template <class S>
Written<S> Mix(HostDevice& device, Case c) {
  Draw draw;
  const int64_t all = kRows * c.D;
  const auto x = draw.Numbers<S>(all), x0 = draw.Numbers<S>(all), skip = draw.Numbers<S>(all), dresidual = draw.Numbers<S>(all),
             dextra = draw.Numbers<S>(all), dextra_lane = draw.Numbers<S>(all);
  const auto mix = draw.Numbers<float>(2 * c.D), weight = draw.Numbers<float>(c.D), gate = draw.Numbers<float>(c.D);
  const auto du = draw.Numbers<BFloat16>(all);
  auto residual = draw.Numbers<S>(all), dx = draw.Numbers<S>(all), dx0 = draw.Numbers<S>(all), dskip = draw.Numbers<S>(all);
  auto u = draw.Numbers<BFloat16>(all);
  const MixNormInput<S> in{.D = c.D,
                           .x = x.data(),
                           .x0 = x0.data(),
                           .mix = mix.data(),
                           .skip = skip.data(),
                           .skip_weight = weight.data(),
                           .skip_gate = gate.data()};
  device.Launch(MixNormForward<BFloat16, S>{.N = kRows, .in = in, .carries_input = c.lanes, .residual = residual.data(), .u = u.data()});
  std::vector<float> partials(3 * MixNormBackward<BFloat16, S>::kSums * c.D);
  device.Launch(MixNormBackward<BFloat16, S>{.rows = {kRows, 3},
                                             .in = in,
                                             .carries_input = c.lanes,
                                             .du = du.data(),
                                             .dresidual = dresidual.data(),
                                             .dextra = dextra.data(),
                                             .dextra_lane = dextra_lane.data(),
                                             .dx = dx.data(),
                                             .dx0 = dx0.data(),
                                             .dskip = dskip.data(),
                                             .partials = partials.data()});
  return {{residual, dx, dx0, dskip}, {u}, {partials}};
}

template <class S>
Written<S> Norm(HostDevice& device, Case c) {
  Draw draw;
  const int64_t all = kRows * c.D;
  const auto x = draw.Numbers<S>(all), dresidual = draw.Numbers<S>(all);
  const auto du = draw.Numbers<BFloat16>(all);
  auto u = draw.Numbers<BFloat16>(all);
  auto dx = draw.Numbers<S>(all);
  std::vector<float> norms(kRows);
  device.Launch(NormForward<BFloat16, S>{.N = kRows, .D = c.D, .x = x.data(), .u = u.data(), .inverse_norms = norms.data()});
  device.Launch(NormBackward<BFloat16, S>{
      .N = kRows, .D = c.D, .u = u.data(), .inverse_norms = norms.data(), .du = du.data(), .dresidual = dresidual.data(), .dx = dx.data()});
  return {{dx}, {u}, {norms}};
}

template <class S>
Written<S> TwoLanes(HostDevice& device, Case c) {
  Draw draw;
  const int64_t all = kRows * c.D;
  const auto lane0 = draw.Numbers<S>(all), lane1 = draw.Numbers<S>(all);
  const auto a = draw.Numbers<BFloat16>(all), m = draw.Numbers<BFloat16>(all);
  const auto resid = draw.Numbers<float>(2), post = draw.Numbers<float>(4);
  auto out0 = draw.Numbers<S>(all), out1 = draw.Numbers<S>(all), d0 = draw.Numbers<S>(all), d1 = draw.Numbers<S>(all);
  auto da = draw.Numbers<BFloat16>(all), dm = draw.Numbers<BFloat16>(all);
  const LanesInput<BFloat16, S> in{.D = c.D,
                                   .resid = resid.data(),
                                   .post = post.data(),
                                   .lane0 = lane0.data(),
                                   .lane1 = lane1.data(),
                                   .a = a.data(),
                                   .m = m.data(),
                                   .last = !c.lanes,
                                   .share0 = 0.25f};
  device.Launch(LanesForward<BFloat16, S>{.N = kRows, .in = in, .out0 = out0.data(), .out1 = out1.data()});
  std::vector<float> partials(3 * LanesBackward<BFloat16, S>::kSums);
  device.Launch(LanesBackward<BFloat16, S>{
      .rows = {kRows, 3}, .in = in, .d0 = d0.data(), .d1 = d1.data(), .da = da.data(), .dm = dm.data(), .partials = partials.data()});
  return {{out0, out1, d0, d1}, {da, dm}, {partials}};
}

template <class S>
Written<S> Embedding(HostDevice& device, Case c) {
  Draw draw;
  const int64_t all = kRows * c.D;
  const auto table = draw.Numbers<BFloat16>(kVocabulary * c.D), bigram = draw.Numbers<BFloat16>(all);
  const auto ids = draw.Below(kVocabulary, kRows), joined = draw.Below(2, kRows - 1);
  std::vector<int32_t> seen{0};
  seen.insert(seen.end(), joined.begin(), joined.end());
  const auto gate = draw.Numbers<float>(c.D), scale = draw.Numbers<float>(1);
  const auto given = draw.Numbers<S>(all), dx0 = draw.Numbers<S>(all), dx = draw.Numbers<S>(all);
  auto x1 = draw.Numbers<S>(all), x0 = draw.Numbers<S>(all);
  auto ds = draw.Numbers<BFloat16>(all);
  std::vector<float> norms(kRows), partials(3 * 2 * c.D);
  device.Launch(EmbedForward<BFloat16, S>{.N = kRows,
                                          .D = c.D,
                                          .tok_emb = table.data(),
                                          .ids = ids.data(),
                                          .bigram = bigram.data(),
                                          .bigram_scale = scale.data(),
                                          .x1 = x1.data(),
                                          .inverse_norms = norms.data()});
  device.Launch(SmearForward<S>{.N = kRows, .D = c.D, .gate = gate.data(), .joined = seen.data(), .x1 = given.data(), .x0 = x0.data()});
  device.Launch(EmbedBackward<BFloat16, S>{.rows = {kRows, 3},
                                           .D = c.D,
                                           .gate = gate.data(),
                                           .joined = seen.data(),
                                           .x1 = given.data(),
                                           .inverse_norms = norms.data(),
                                           .dx0 = dx0.data(),
                                           .dx = dx.data(),
                                           .bigram = bigram.data(),
                                           .ds = ds.data(),
                                           .partials = partials.data()});
  return {{x1, x0}, {ds}, {norms, partials}};
}

template <class S>
Written<S> GatedEmbedding(HostDevice& device, Case c) {
  Draw draw;
  const int64_t all = kRows * c.D, window = 5;
  const auto table = draw.Numbers<BFloat16>(kVocabulary * c.D);
  const auto ids = draw.Below(kVocabulary, kRows), before = draw.Below(kVocabulary, 1), joined = draw.Below(2, kRows);
  const auto w = draw.Numbers<float>(window), lambda = draw.Numbers<float>(1);
  const SmearGate<BFloat16> in{.N = kRows,
                               .D = c.D,
                               .window = window,
                               .tok_emb = table.data(),
                               .ids = ids.data(),
                               .before = before.data(),
                               .joined = joined.data(),
                               .w = w.data(),
                               .lambda = lambda.data()};
  const auto given = draw.Numbers<S>(all), dx = draw.Numbers<S>(all), sums = draw.Numbers<S>(all);
  auto x0 = draw.Numbers<S>(all), dx0 = draw.Numbers<S>(all);
  auto de = draw.Numbers<BFloat16>(all);
  std::vector<float> gates(kRows), norms(kRows), dlogits(kRows), partials(3 * (window + 1)), gradient(kVocabulary * c.D);
  device.Launch(SmearGateForward<BFloat16, S>{.in = in, .x0 = x0.data(), .gates = gates.data(), .inverse_norms = norms.data()});
  device.Launch(SmearGateBackward<BFloat16, S>{.rows = {kRows, 3},
                                               .in = in,
                                               .x0 = given.data(),
                                               .gates = gates.data(),
                                               .inverse_norms = norms.data(),
                                               .dx0 = dx0.data(),
                                               .dx = dx.data(),
                                               .dlogits = dlogits.data(),
                                               .partials = partials.data()});
  device.Launch(SmearGateInputs<BFloat16, S>{
      .in = in, .gates = gates.data(), .dlogits = dlogits.data(), .ds = sums.data(), .de = de.data(), .table = gradient.data()});
  return {{x0, dx0}, {de}, {gates, norms, dlogits, partials, gradient}};
}

void ExpectRounded(const Written<float>& wide, const Written<BFloat16>& narrow) {
  EXPECT_EQ(wide.floats, narrow.floats);
  const auto bits = [](const std::vector<BFloat16>& numbers) {
    std::vector<uint16_t> all;
    for (const BFloat16 number : numbers) all.push_back(number.bits);
    return all;
  };
  const auto rounded = [](const std::vector<float>& numbers) {
    std::vector<uint16_t> all;
    for (const float number : numbers) all.push_back(To<BFloat16>(number).bits);
    return all;
  };
  for (size_t i = 0; i < wide.products.size(); ++i) EXPECT_EQ(bits(wide.products[i]), bits(narrow.products[i])) << i;
  for (size_t i = 0; i < wide.streams.size(); ++i) EXPECT_EQ(rounded(wide.streams[i]), bits(narrow.streams[i])) << i;
}

TEST(ResidualPrecision, BFloat16IsRoundedOnce) {
  for (const int lanes : {1, 3}) {
    HostDevice device(lanes);
    for (const Case c : {Case{16, false}, {12, true}, {32, true}}) {
      SCOPED_TRACE(testing::Message() << lanes << " lanes, D " << c.D << ", two residual lanes " << c.lanes);
      ExpectRounded(Mix<float>(device, c), Mix<BFloat16>(device, c));
      ExpectRounded(Norm<float>(device, c), Norm<BFloat16>(device, c));
      ExpectRounded(TwoLanes<float>(device, c), TwoLanes<BFloat16>(device, c));
      ExpectRounded(Embedding<float>(device, c), Embedding<BFloat16>(device, c));
      ExpectRounded(GatedEmbedding<float>(device, c), GatedEmbedding<BFloat16>(device, c));
    }
  }
}

}  // namespace
}  // namespace fairway::cuda
