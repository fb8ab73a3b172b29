// Kernels on a thread with a small stack, for a model as wide as settings allow.
#include <gtest/gtest.h>
#include <pthread.h>

#include <cmath>
#include <functional>
#include <vector>

#include "common/model/ops/cross_entropy.h"
#include "common/model/ops/mix_norm.h"
#include "common/model/ops/xsa.h"

namespace fairway {
namespace {

constexpr int64_t kWide = 65536;

void OnSmallStack(std::function<void()> work) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 128 << 10), 0);
  pthread_t thread;
  const auto run = [](void* work) -> void* {
    (*static_cast<std::function<void()>*>(work))();
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, run, &work), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

TEST(SmallStack, MixNorm) {
  std::vector<float> x(kWide, 2), x0(kWide, 1), mix(2 * kWide, 0.5f), u(kWide), du(kWide, 1), dmixed(kWide), dx0(kWide), dmix(2 * kWide);
  const MixNorm in{.D = kWide, .x = x.data(), .x0 = x0.data(), .mix = mix.data()};
  OnSmallStack([&] {
    MixNormForward(in, nullptr, Floats(u.data()), {0, 1}, Residual::kMixed);
    MixNormBackward(in, {.du = Floats(du.data()), .dresidual = dmixed.data(), .dx0 = dx0.data(), .dmix = dmix.data()}, {0, 1});
  });
  EXPECT_NEAR(u[0], 1, 1e-5);
  EXPECT_NEAR(u[kWide - 1], 1, 1e-5);
  EXPECT_NEAR(dmixed[kWide - 1], 0, 1e-5);  // a constant row keeps its norm, whatever its value
}

TEST(SmallStack, CrossEntropy) {
  std::vector<float> logits(kWide, 0), dlogits(kWide);
  const std::vector<int32_t> targets = {5};
  float loss = 0;
  OnSmallStack([&] {
    CrossEntropyBackward(kWide, 30, 1, logits.data(), targets.data(), &loss, Floats(dlogits.data()), kWide, {0, 1});
  });
  EXPECT_NEAR(loss, std::log(static_cast<double>(kWide)), 1e-3);
  EXPECT_NEAR(dlogits[5], 1.0 / kWide - 1, 1e-5);
  EXPECT_NEAR(dlogits[6], 1.0 / kWide, 1e-7);
}

TEST(SmallStack, ExclusiveSelfAttention) {
  std::vector<float> qkv(3 * kWide, 1), y(kWide, 1), out(kWide, 9), dout(kWide, 1), dqkv(3 * kWide);
  const QkShape shape{.T = 1, .H = 1, .Hkv = 1, .d = kWide, .cos = nullptr, .sin = nullptr};
  OnSmallStack([&] {
    XsaBackward(shape, Floats(qkv.data()), Floats(y.data()), Floats(out.data()), Floats(dout.data()), Floats(dqkv.data()), {0, 1});
  });
  EXPECT_NEAR(out[kWide - 1], 0, 1e-3);  // y lies along the value
}

}  // namespace
}  // namespace fairway
