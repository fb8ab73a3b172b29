// What a device operation is: a struct of sizes and pointers whose body computes one unit (a row, a head of a row, a slab of rows,
// a column), several lanes working on it together. nvcc makes a kernel of the body, a block or a part of a warp a unit; a CPU test
// runs the very same body with one lane and with several.
//
// A lane has the columns first(), first() + count(), …, or the pieces of columns of these numbers; Sum and Max combine the lanes'
// values, give every lane the result, and are barriers: what any lane wrote before one, all lanes may read after it.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "common/model/ops/element.h"
#include "common/model/ops/formulas.h"

#if defined(__CUDACC__)
#define FAIRWAY_BODY __host__ __device__ inline
#else
#define FAIRWAY_BODY inline
#endif

namespace fairway::cuda {

FAIRWAY_BODY float ToFloat(float x) { return x; }
FAIRWAY_BODY float ToFloat(BFloat16 x) { return formula::FromBFloat16(x.bits); }

template <class T>
FAIRWAY_BODY T To(float x);
template <>
FAIRWAY_BODY float To<float>(float x) {
  return x;
}
template <>
FAIRWAY_BODY BFloat16 To<BFloat16>(float x) {
  // A GPU's NaN has all bits set: rounding would carry it over to -0.
  return {x == x ? formula::ToBFloat16(x) : uint16_t{0x7fc0}};
}

// x as a T holds it.
template <class T>
FAIRWAY_BODY float Rounded(float x) {
  return ToFloat(To<T>(x));
}

// --- columns in pieces

// Neighbouring columns that a lane takes at a time: 16 bytes of bfloat16, twice 16 of float32.
constexpr int kPiece = 8;

template <int n>
struct Values {
  float at[n];
  FAIRWAY_BODY float& operator[](int i) { return at[i]; }
  FAIRWAY_BODY float operator[](int i) const { return at[i]; }
};

// n elements, or n numbers rounded to a T. A piece lies at a multiple of 16 bytes.
template <int n, class T>
FAIRWAY_BODY Values<n> Load(const T* from) {
  Values<n> values;
#if defined(__CUDA_ARCH__)
  if constexpr (n == kPiece) {
    constexpr int kWords = kPiece * sizeof(T) / sizeof(uint4);
    uint4 words[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = reinterpret_cast<const uint4*>(from)[i];
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const uint32_t own[4] = {words[i].x, words[i].y, words[i].z, words[i].w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if constexpr (std::is_same_v<T, float>) {
          values[4 * i + k] = __uint_as_float(own[k]);
        } else {
          values[8 * i + 2 * k] = __uint_as_float(own[k] << 16);
          values[8 * i + 2 * k + 1] = __uint_as_float(own[k] & 0xffff0000u);
        }
      }
    }
    return values;
  } else
#endif
  {
    for (int i = 0; i < n; ++i) values[i] = ToFloat(from[i]);
    return values;
  }
}
template <int n, class T>
FAIRWAY_BODY void Store(const Values<n>& values, T* to) {
#if defined(__CUDA_ARCH__)
  if constexpr (n == kPiece) {
    constexpr int kWords = kPiece * sizeof(T) / sizeof(uint4);
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      uint32_t own[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if constexpr (std::is_same_v<T, float>)
          own[k] = __float_as_uint(values[4 * i + k]);
        else
          own[k] = To<T>(values[8 * i + 2 * k]).bits | static_cast<uint32_t>(To<T>(values[8 * i + 2 * k + 1]).bits) << 16;
      }
      reinterpret_cast<uint4*>(to)[i] = make_uint4(own[0], own[1], own[2], own[3]);
    }
  } else
#endif
  {
    for (int i = 0; i < n; ++i) to[i] = To<T>(values[i]);
  }
}
template <int n>
struct Width {
  static constexpr int value = n;
};

// Calls work(column, width) for this lane's columns of `columns`: width.value neighbours at a time, kPiece of them where `whole`
// says that every piece lies at a multiple of 16 bytes and they divide `columns`, else one.
template <class Lanes, class Work>
FAIRWAY_BODY void ForSomeColumns(const Lanes& lanes, bool whole, int64_t columns, const Work& work) {
  if (whole && columns % kPiece == 0)
    for (int64_t j = kPiece * lanes.first(); j < columns; j += kPiece * lanes.count()) work(j, Width<kPiece>());
  else
    for (int64_t j = lanes.first(); j < columns; j += lanes.count()) work(j, Width<1>());
}
// Of a whole row of a matrix that has so many columns.
template <class Lanes, class Work>
FAIRWAY_BODY void ForColumns(const Lanes& lanes, int64_t columns, const Work& work) {
  ForSomeColumns(lanes, true, columns, work);
}

// Types of operations, numbered, so that the caller can name the one to launch to a library that is loaded later.
template <class... Types>
struct OperationList {
  template <class Operation>
  static constexpr int NumberOf() {
    int number = 0, found = -1;
    ((found = std::is_same_v<Operation, Types> ? number : found, ++number), ...);
    return found;
  }
  // Calls visit(operation) with the operation of type `number` that the pointer points to.
  template <class Visit>
  static void At(int number, const void* operation, Visit visit) {
    int own = 0;
    ((own++ == number ? visit(*static_cast<const Types*>(operation)) : void()), ...);
  }
};

}  // namespace fairway::cuda
