// A hook below product.h: products by a library's tile kernel instead of ours, on the same packed operands. Which one computes is
// chosen by common/model/products.h, once, before anything is multiplied; this module knows no library.
#pragma once

#include "common/model/ops/element.h"

namespace fairway {

// c [M, 64] = A B, or += where `add`: A [M, K] row-major, its rows `a_stride` elements apart; b a panel [K, 64] (product.h); K a whole
// number of words. Called on many threads at once; must not throw.
using TileProduct = void(int64_t M, int64_t K, const void* a, int64_t a_stride, const Word* b, float* c, bool add);

// Of one precision; null: ours.
struct LibraryProducts {
  TileProduct* rows = nullptr;    // for products of rows with packed panels
  TileProduct* packed = nullptr;  // for sums of products of two packed matrices: gradients of weights
  int64_t least_rows = 1;         // products of fewer rows are ours
};
extern LibraryProducts library_products[2];  // by Precision

}  // namespace fairway
