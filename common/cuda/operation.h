// What a device operation is: a struct of sizes and pointers whose body computes one unit (a row, a head of a row, a slab of
// rows, a column), several lanes working on it together. nvcc makes a kernel of the body, a block or a warp a unit; a CPU test
// runs the very same body with one lane and with several.
//
// A lane has the columns first(), first() + count(), …; Sum and Max combine the lanes' values, give every lane the result, and
// are barriers: what any lane wrote before one, all lanes may read after it.
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
