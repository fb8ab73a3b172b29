#include "common/base/pcg64.h"

#include <bit>
#include <numeric>
#include <utility>

namespace fairway {
namespace {

using uint128 = unsigned __int128;

// numpy's SeedSequence for one integer: 32-bit words mixed into a pool of four, of which eight words are taken.
class SeedSequence {
 public:
  explicit SeedSequence(uint64_t seed) {
    uint32_t constant = 0x43b0d7e5;
    const uint32_t words[4] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), 0, 0};
    for (int i = 0; i < 4; ++i) pool_[i] = Hash(words[i], constant, 0x931e8875);
    for (int source = 0; source < 4; ++source)
      for (int target = 0; target < 4; ++target) {
        if (source == target) continue;
        const uint32_t mixed = pool_[target] * 0xca01f9ddu - Hash(pool_[source], constant, 0x931e8875) * 0x4973f715u;
        pool_[target] = mixed ^ mixed >> 16;
      }
  }

  uint64_t Next() {
    const uint64_t low = Word(), high = Word();
    return low | high << 32;
  }

 private:
  static uint32_t Hash(uint32_t value, uint32_t& constant, uint32_t multiplier) {
    value ^= constant;
    constant *= multiplier;
    value *= constant;
    return value ^ value >> 16;
  }
  uint32_t Word() { return Hash(pool_[taken_++ % 4], constant_, 0x58f38ded); }

  uint32_t pool_[4], constant_ = 0x8b51f9dd;
  int taken_ = 0;
};

constexpr uint128 kMultiplier = uint128{0x2360ed051fc65da4} << 64 | 0x4385df649fccf645;

}  // namespace

Pcg64::Pcg64(uint64_t seed) {
  SeedSequence words(seed);
  const uint64_t state_high = words.Next(), state_low = words.Next(), sequence_high = words.Next(), sequence_low = words.Next();
  increment_ = (uint128{sequence_high} << 64 | sequence_low) << 1 | 1;
  state_ = increment_ + (uint128{state_high} << 64 | state_low);
  state_ = state_ * kMultiplier + increment_;
}

uint64_t Pcg64::Next64() {
  state_ = state_ * kMultiplier + increment_;
  const auto high = static_cast<uint64_t>(state_ >> 64), low = static_cast<uint64_t>(state_);
  return std::rotr(high ^ low, static_cast<int>(high >> 58));
}

uint32_t Pcg64::Next32() {
  if (has_half_) {
    has_half_ = false;
    return half_;
  }
  const uint64_t word = Next64();
  has_half_ = true;
  half_ = static_cast<uint32_t>(word >> 32);
  return static_cast<uint32_t>(word);
}

uint32_t Pcg64::Below(uint32_t n) {
  if (n == 1) return 0;
  uint64_t product = uint64_t{Next32()} * n;
  if (static_cast<uint32_t>(product) < n) {
    const uint32_t least = -n % n;  // 2^32 mod n
    while (static_cast<uint32_t>(product) < least) product = uint64_t{Next32()} * n;
  }
  return static_cast<uint32_t>(product >> 32);
}

double Pcg64::Uniform() { return static_cast<double>(Next64() >> 11) * 0x1p-53; }

std::vector<int64_t> Pcg64::Permutation(int64_t n) {
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = n - 1; i > 0; --i) {
    const auto mask = static_cast<uint32_t>((uint64_t{1} << std::bit_width(static_cast<uint64_t>(i))) - 1);
    int64_t j = Next32() & mask;
    while (j > i) j = Next32() & mask;
    std::swap(order[i], order[j]);
  }
  return order;
}

size_t Pcg64::Choice(std::span<const double> p) {
  std::vector<double> sums(p.size());
  std::partial_sum(p.begin(), p.end(), sums.begin());
  const double u = Uniform();
  size_t i = 0;
  while (i + 1 < sums.size() && u >= sums[i] / sums.back()) ++i;
  return i;
}

}  // namespace fairway
