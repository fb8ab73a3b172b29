// What activations are made of: float32, or bfloat16 where products take bfloat16 (pull request 531). Sums,
// norms, the residual stream and every gradient of a parameter are float32 in both cases.
//
// A *word* is what a product's inner loop multiplies at a time: 32 bits, one float32 or two bfloat16 that are neighbours along
// the summed dimension, the earlier one in the low half. Layouts in words are the same for both.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fairway {

enum class Precision { kFloat32, kBFloat16 };

struct BFloat16 {
  uint16_t bits;
};

using Word = uint32_t;

constexpr int64_t ElementBytes(Precision precision) { return precision == Precision::kBFloat16 ? 2 : 4; }
// Elements in a word.
constexpr int64_t WordElements(Precision precision) { return precision == Precision::kBFloat16 ? 2 : 1; }
constexpr int64_t WordsFor(Precision precision, int64_t elements) {
  return precision == Precision::kBFloat16 ? (elements + 1) / 2 : elements;
}

// A pointer to elements of either kind.
struct Elements {
  void* data = nullptr;
  Precision precision = Precision::kFloat32;

  Elements operator+(int64_t elements) const {
    return {static_cast<char*>(data) + elements * ElementBytes(precision), precision};
  }
  float* floats() const { return static_cast<float*>(data); }
};
inline Elements Floats(const float* data) { return {const_cast<float*>(data), Precision::kFloat32}; }

}  // namespace fairway
