// Against numpy 2.4.6: g = numpy.random.Generator(numpy.random.PCG64(seed)), then what each test draws.
#include "common/base/pcg64.h"

#include <gmock/gmock.h>

namespace fairway {
namespace {

using testing::ElementsAre;

struct Drawn {
  std::vector<uint32_t> below;  // g.integers(n) of 1, 7, 1000, 2**31 + 11
  double uniform;               // g.random()
  std::vector<int64_t> permutation;  // g.permutation(10)
  std::vector<size_t> choices;       // g.choice(3, p=[.2, .5, .3]), eight times
  uint32_t below_five;
  std::vector<int64_t> short_permutation;  // g.permutation(7)
};

void Expect(uint64_t seed, const Drawn& numpy) {
  SCOPED_TRACE(seed);
  Pcg64 g(seed);
  std::vector<uint32_t> below;
  for (const uint32_t n : {1u, 7u, 1000u, (1u << 31) + 11}) below.push_back(g.Below(n));
  EXPECT_EQ(below, numpy.below);
  EXPECT_EQ(g.Uniform(), numpy.uniform);
  EXPECT_EQ(g.Permutation(10), numpy.permutation);
  std::vector<size_t> choices;
  const double p[] = {0.2, 0.5, 0.3};
  for (int i = 0; i < 8; ++i) choices.push_back(g.Choice(p));
  EXPECT_EQ(choices, numpy.choices);
  EXPECT_EQ(g.Below(5), numpy.below_five);
  EXPECT_EQ(g.Permutation(7), numpy.short_permutation);
}

TEST(Pcg64, DrawsNumpysNumbers) {
  Expect(0, {{0, 5, 636, 579362558}, 0.04097352393619469, {3, 2, 0, 5, 4, 7, 1, 9, 8, 6}, {2, 0, 2, 0, 2, 1, 1, 1}, 2, {3, 2, 1, 4, 6, 0, 5}});
  Expect(42, {{0, 0, 773, 1405681639}, 0.8585979199113825, {6, 7, 2, 3, 0, 9, 8, 4, 5, 1}, {1, 2, 1, 2, 1, 1, 1, 0}, 2, {3, 2, 1, 5, 4, 0, 6}});
  // A seed of two words.
  Expect((uint64_t{1} << 40) + 3, {{0, 5, 773, 1016143986}, 0.0648506920171974, {0, 8, 7, 2, 1, 6, 5, 4, 9, 3}, {2, 1, 2, 0, 0, 1, 1, 1}, 0, {1, 5, 3, 6, 4, 2, 0}});
}

TEST(Pcg64, PermutesNothingAndOne) {
  Pcg64 g(0), untouched(0);
  EXPECT_THAT(g.Permutation(0), ElementsAre());
  EXPECT_THAT(g.Permutation(1), ElementsAre(0));
  EXPECT_EQ(g.Uniform(), untouched.Uniform());
}

}  // namespace
}  // namespace fairway
