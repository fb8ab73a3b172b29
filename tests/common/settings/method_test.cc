#include "common/settings/method.h"

#include <gtest/gtest.h>

#include <utility>

namespace fairway {
namespace {

TEST(Method, KnowsWhenItSlides) {
  Settings settings;
  settings.train_seq_len = 16;
  for (const auto& [stride, slides] :
       {std::pair(-1, false), {0, false}, {1, true}, {15, true}, {16, false}, {17, false}}) {
    settings.eval_stride = stride;
    EXPECT_EQ(IsSliding(settings), slides) << stride;
  }
}

}  // namespace
}  // namespace fairway
