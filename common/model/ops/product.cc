#include "common/model/ops/product.h"

#include "common/model/ops/library_product.h"
#include "common/model/ops/vectors.h"

namespace fairway::FAIRWAY_TARGET {
namespace {

template <class E>
FAIRWAY_INLINE const LibraryProducts& Library() {
  return library_products[static_cast<int>(kGroup<E> == 2 ? Precision::kBFloat16 : Precision::kFloat32)];
}
constexpr int64_t kLibraryRows = 64;  // of a tile that the library computes; even

// A tile's sums, handed out in pairs of rows as Multiply does: store(i, n, top, bottom, rows, lanes).
template <class Store>
FAIRWAY_INLINE void EachPair(const float* c, int64_t rows, int64_t columns, Store store) {
  for (int64_t i = 0; i < rows; i += 2)
    for (int64_t n = 0; n < columns; n += kLanes) {
      const float* at = c + i * kPanel + n;
      store(i, n, GetLanes(at, kLanes), i + 1 < rows ? GetLanes(at + kPanel, kLanes) : Vector{}, Least(2, rows - i), columns - n);
    }
}

template <class E, class Store>
void EachLibraryTile(TileProduct* multiply, const Product& product, Rows rows, Rows columns, Store store) {
  alignas(64) float c[kLibraryRows * kPanel];
  const E* a = static_cast<const E*>(product.a.data);
  for (int64_t n = columns.first; n < columns.last; n += kPanel)
    for (int64_t m = rows.first; m < rows.last; m += kLibraryRows) {
      const int64_t count = Least(kLibraryRows, rows.last - m);
      multiply(count, product.b.steps() * kGroup<E>, a + m * product.a_stride, product.a_stride, product.b.panel(n / kPanel), c, false);
      EachPair(c, count, Least(kPanel, columns.last - n),
               [&](int64_t i, int64_t column, Vector top, Vector bottom, int64_t real, int64_t lanes)
                   __attribute__((always_inline)) { store(m + i, n + column, top, bottom, real, lanes); });
    }
}

// Panel after panel of the columns, all rows of each: store as in Multiply (vectors.h).
template <class E, class Store>
void EachPanel(const Product& product, Rows rows, Rows columns, Store store) {
  if (const LibraryProducts& library = Library<E>(); library.rows != nullptr && rows.count() >= library.least_rows)
    return EachLibraryTile<E>(library.rows, product, rows, columns, store);
  const int64_t stride = product.a_stride / kGroup<E>;
  const Word* a = static_cast<const Word*>(product.a.data) + rows.first * stride;
  for (int64_t n = columns.first; n < columns.last; n += kPanel) {
    Multiply<E>(rows.count(), Least(kPanel, columns.last - n), product.b.steps(), {a, stride, 1}, product.b.panel(n / kPanel), kPanel,
                [&](int64_t m, int64_t column, Vector top, Vector bottom, int64_t real, int64_t lanes)
                    __attribute__((always_inline)) { store(rows.first + m, n + column, top, bottom, real, lanes); });
  }
}

// Rows m and m + 1 of a panel matrix [K = rows, N]; m a multiple of G. A second row that is not there is 0.
template <class E>
FAIRWAY_INLINE void StorePacked(const Panels& to, int64_t m, int64_t n, Vector top, Vector bottom, int64_t rows, int64_t lanes) {
  Word* out = to.panel(n / kPanel) + m / kGroup<E> * kPanel + n % kPanel;
  if constexpr (kGroup<E> == 2) {
    StoreLanes(PairLanes(top, rows > 1 ? bottom : Vector{}), out, lanes);
  } else {
    StoreLanes(reinterpret_cast<WordVector&>(top), out, lanes);
    if (rows > 1) StoreLanes(reinterpret_cast<WordVector&>(bottom), out + kPanel, lanes);
  }
}

// Sums added to rows that lie anywhere, from column `first` of them on.
struct AddToRows {
  float* const* to;
  int64_t first;
  FAIRWAY_INLINE void operator()(int64_t m, int64_t n, Vector top, Vector bottom, int64_t rows, int64_t lanes) const {
    float* upper = to[m] + first + n;
    PutLanes(GetLanes(upper, lanes) + top, upper, lanes);
    if (rows < 2) return;
    float* lower = to[m + 1] + first + n;
    PutLanes(GetLanes(lower, lanes) + bottom, lower, lanes);
  }
};

// MultiplyPackedAddTo by the library, whose first operand is row-major: a panel of A is transposed, a block of its steps at a time.
template <class E>
void LibraryPackedAddTo(TileProduct* multiply, const Panels& a, const Panels& b, float* const* out, Rows a_panels, Rows b_panels) {
  constexpr int64_t kSteps = 128;
  alignas(64) Word rows[kPanel * kSteps];
  alignas(64) float c[kPanel * kPanel];
  for (int64_t p = a_panels.first; p < a_panels.last; ++p) {
    const int64_t M = Least(kPanel, a.N - p * kPanel);
    for (int64_t first = 0; first < a.steps(); first += kSteps) {
      const int64_t steps = Least(kSteps, a.steps() - first);
      for (int64_t k = 0; k < steps; k += kBlock)
        for (int64_t m = 0; m < M; m += kBlock) {
          WordRow block[kBlock] = {};
          for (int64_t i = 0; i < kBlock && k + i < steps; ++i)
            __builtin_memcpy(&block[i], a.panel(p) + (first + k + i) * kPanel + m, sizeof block[i]);
          TransposeBlock(block);
          for (int64_t i = 0; i < kBlock; ++i) __builtin_memcpy(rows + (m + i) * kSteps + k, &block[i], sizeof block[i]);
        }
      for (int64_t q = b_panels.first; q < b_panels.last; ++q) {
        multiply(M, steps * kGroup<E>, rows, kSteps * kGroup<E>, b.panel(q) + first * kPanel, c, false);
        EachPair(c, M, Least(kPanel, b.N - q * kPanel), AddToRows{out + p * kPanel, q * kPanel});
      }
    }
  }
}

// `product.a`'s element type, chosen once a call.
template <class Work>
FAIRWAY_INLINE void WithElement(Precision precision, Work work) {
  if (precision == Precision::kBFloat16) work(BFloat16{});
  else work(float{});
}

}  // namespace

void PackTransposed(Elements w, int64_t stride, const Panels& to, Rows columns) {
  WithElement(to.precision, [&](auto element) {
    using E = decltype(element);
    With(w, [&](auto* from) {
      for (int64_t n = columns.first; n < columns.last; n += kPanel) {
        const int64_t count = Least(kPanel, columns.last - n);
        TransposeRows<E>(count, to.K, from + (n - columns.first) * stride, stride, to.panel(n / kPanel), kPanel);
      }
    });
  });
}

void PackRows(Elements x, int64_t stride, const Panels& to, Rows rows) {
  WithElement(to.precision, [&](auto element) {
    using E = decltype(element);
    With(x, [&](auto* from) {
      // A few rows of all panels at a time: the rows are read once.
      for (int64_t row = rows.first; row < rows.last; row += kGroup<E>) {
        for (int64_t n = 0; n < to.N; n += kPanel) {
          PairRows<E>(Least(kGroup<E>, rows.last - row), Least(kPanel, to.N - n), from + (row - rows.first) * stride + n, stride,
                      to.panel(n / kPanel) + row / kGroup<E> * kPanel, kPanel);
        }
      }
    });
  });
}

void MultiplyTo(const Product& product, Elements out, int64_t out_stride, Rows rows, Rows columns) {
  WithElement(product.a.precision, [&](auto element) {
    using E = decltype(element);
    With(out, [&](auto* to) {
      EachPanel<E>(product, rows, columns, StoreRows{to, out_stride});
    });
  });
}

void MultiplyAddTo(const Product& product, float* out, int64_t out_stride, Rows rows) {
  WithElement(product.a.precision, [&](auto element) {
    EachPanel<decltype(element)>(product, rows, {0, product.b.N}, AddRows{out, out_stride});
  });
}

void MultiplyRelu2(const Product& product, float negative, Elements h, Elements act, int64_t stride, Rows rows) {
  WithElement(product.a.precision, [&](auto element) {
    using E = decltype(element);
    const StoreRows<E> to_h{static_cast<E*>(h.data), stride}, to_act{static_cast<E*>(act.data), stride};
    EachPanel<E>(product, rows, {0, product.b.N},
                 [&](int64_t m, int64_t n, Vector top, Vector bottom, int64_t real, int64_t lanes) __attribute__((always_inline)) {
                   to_h(m, n, top, bottom, real, lanes);
                   const Vector a = top > 0 ? top : negative * top, b = bottom > 0 ? bottom : negative * bottom;
                   to_act(m, n, a * a, b * b, real, lanes);
                 });
  });
}

void MultiplyRelu2Backward(const Product& product, float negative, Elements h, Elements dh, int64_t stride,
                           const Panels& dh_packed, const Panels& act_packed, Rows rows) {
  WithElement(product.a.precision, [&](auto element) {
    using E = decltype(element);
    const E* saved = static_cast<const E*>(h.data);
    const StoreRows<E> to_dh{static_cast<E*>(dh.data), stride};
    EachPanel<E>(product, rows, {0, product.b.N},
                 [&](int64_t m, int64_t n, Vector top, Vector bottom, int64_t real, int64_t lanes) __attribute__((always_inline)) {
                   const E* at = saved + m * stride + n;
                   const Vector a = GetLanes(at, lanes), b = real > 1 ? GetLanes(at + stride, lanes) : Vector{};
                   const Vector relu_a = a > 0 ? a : negative * a, relu_b = b > 0 ? b : negative * b;
                   const Vector da = top * (2 * (a > 0 ? a : negative * relu_a)), db = bottom * (2 * (b > 0 ? b : negative * relu_b));
                   to_dh(m, n, da, db, real, lanes);
                   StorePacked<E>(dh_packed, m, n, da, db, real, lanes);
                   StorePacked<E>(act_packed, m, n, relu_a * relu_a, relu_b * relu_b, real, lanes);
                 });
  });
}

void MultiplyPackedAddTo(const Panels& a, const Panels& b, float* const* out, Rows a_panels, Rows b_panels) {
  WithElement(a.precision, [&](auto element) {
    using E = decltype(element);
    if (const LibraryProducts& library = Library<E>(); library.packed != nullptr)
      return LibraryPackedAddTo<E>(library.packed, a, b, out, a_panels, b_panels);
    for (int64_t q = b_panels.first; q < b_panels.last; ++q) {
      for (int64_t p = a_panels.first; p < a_panels.last; ++p) {
        float* const* to = out + p * kPanel;
        Multiply<E>(Least(kPanel, a.N - p * kPanel), Least(kPanel, b.N - q * kPanel), a.steps(), {a.panel(p), 1, kPanel}, b.panel(q), kPanel,
                    AddToRows{to, q * kPanel});
      }
    }
  });
}

}  // namespace fairway::FAIRWAY_TARGET
