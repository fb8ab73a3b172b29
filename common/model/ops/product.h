// Matrix products of the model: one operand is packed once and read many times, sums are float32, and what follows a product
// is done while its result is in registers.
//
// Packed, a matrix [K, N] is panels of 64 columns, each [ceil(K / G), 64] words (element.h; G elements of the summed dimension
// a word), so that the inner loop reads straight through memory. Elements behind K are 0, columns behind N anything.
#pragma once

#include "common/model/ops/element.h"
#include "common/model/ops/kernel.h"

namespace fairway {

constexpr int64_t kPanel = 64;  // columns of a panel

struct Panels {
  Word* words = nullptr;
  int64_t K = 0, N = 0;
  Precision precision = Precision::kFloat32;

  int64_t steps() const { return WordsFor(precision, K); }
  int64_t count() const { return (N + kPanel - 1) / kPanel; }
  Word* panel(int64_t p) const { return words + p * steps() * kPanel; }
  static int64_t Words(Precision precision, int64_t K, int64_t N) {
    return (N + kPanel - 1) / kPanel * kPanel * WordsFor(precision, K);
  }
};

// A matrix W [n, K] packed so that A W^T is a product with it: rows `columns` of W, row-major from `w` on (the first of them),
// become these columns of the panels [K, N]. REQUIRES: columns.first a multiple of 64.
FAIRWAY_KERNEL(PackTransposed, Elements w, int64_t stride, const Panels& to, Rows columns);
// A matrix X [K, N] packed without transposing it: rows of it, row-major from `x` on (the first of them), `stride` elements apart.
// REQUIRES: rows.first a multiple of G; rows.last too, or K.
FAIRWAY_KERNEL(PackRows, Elements x, int64_t stride, const Panels& to, Rows rows);

// A [M, K] row-major, row m at a + m * a_stride, times panels [K, N]. a_stride is a whole number of words; what stands behind K in
// its last word is 0.
struct Product {
  Elements a;
  int64_t a_stride;
  Panels b;
};
// out [M, N] = A B for some rows and, from a multiple of 64 on, columns; float32 or elements.
FAIRWAY_KERNEL(MultiplyTo, const Product& product, Elements out, int64_t out_stride, Rows rows, Rows columns);
// out += A B
FAIRWAY_KERNEL(MultiplyAddTo, const Product& product, float* out, int64_t out_stride, Rows rows);
// The MLP's first product and squared ReLU (pull request 531), of slope `negative` below 0: h = A B, act = relu(h)^2;
// both [M, N], their rows `stride` elements apart.
FAIRWAY_KERNEL(MultiplyRelu2, const Product& product, float negative, Elements h, Elements act, int64_t stride, Rows rows);
// Its way back: with da = A B, dh = da * 2 relu(h) relu'(h), written twice: as rows [M, N] and packed; relu(h)^2 packed besides.
// The packed ones are [M, N] panels. REQUIRES: rows.first a multiple of G.
FAIRWAY_KERNEL(MultiplyRelu2Backward, const Product& product, float negative, Elements h, Elements dh, int64_t stride,
               const Panels& dh_packed, const Panels& act_packed, Rows rows);
// out [M, N] += A^T B for packed A [K, M] and B [K, N], in the panels `a_panels` of A and `b_panels` of B; row m of out at
// out[m].
FAIRWAY_KERNEL(MultiplyPackedAddTo, const Panels& a, const Panels& b, float* const* out, Rows a_panels, Rows b_panels);

}  // namespace fairway
