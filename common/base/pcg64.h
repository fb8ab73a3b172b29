// The random numbers of numpy's Generator(PCG64(seed)), number for number (numpy 2.4): a 128-bit linear congruential generator with
// XSL-RR output (O'Neill, HMC-CS-2014-0905), seeded by numpy's SeedSequence. For what published scripts draw with numpy.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fairway {

class Pcg64 {
 public:
  explicit Pcg64(uint64_t seed);

  // Generator.integers(n): uniform in [0, n) by Lemire's method on 32-bit words. Draws nothing for n = 1. REQUIRES: 1 <= n < 2^32.
  uint32_t Below(uint32_t n);
  // Generator.random(): uniform in [0, 1), 53 bits.
  double Uniform();
  // Generator.permutation(n): Fisher-Yates from the last element down, bounded by masked rejection. REQUIRES: n < 2^32.
  std::vector<int64_t> Permutation(int64_t n);
  // Generator.choice(len(p), p=p): the first index at which the cumulative sum, normalised, exceeds a uniform number.
  // REQUIRES: some p is positive, none negative.
  size_t Choice(std::span<const double> p);

 private:
  uint64_t Next64();
  uint32_t Next32();  // the low half of a word, then its high half

  unsigned __int128 state_ = 0, increment_ = 0;
  bool has_half_ = false;
  uint32_t half_ = 0;
};

}  // namespace fairway
