// The fused operations on a device. Their formulas are in the headers of common/model/ops; these compute the same row by row, by
// the scalar formulas of common/model/ops/formulas.h.
//
// T is what products take and give, S what the residual stream (lanes, skips, the embedding's output and its norm included) and its
// gradients are held in: float or BFloat16 each, and S is BFloat16 only where T is. Logits, losses, statistics, sums and gradients of
// parameters are float32, and so is all arithmetic: what becomes a T or an S is rounded once, as it is written.
//
// bytes(): what a unit's operands are in memory, each read or written once per launch, but for what is one row long (weights of
// columns, numbers of rows): what the paper model of a step counts (docs/scaling.md).
//
// Everything is deterministic, without atomic additions: gradients of vectors are summed over slabs of rows (Slabs) into
// `partials`, and over these by AddColumns; gradients of tables by position lists that the host has sorted (ScatterPieces).
// Pointers that an operation may lack are null.
#pragma once

#include "common/cuda/operation.h"

namespace fairway::cuda {

// Lanes of a unit: a row's of one piece or number each; a row's of several pieces; those that hold a column's sums (kPiece columns
// each, so that they hold a width of 512); a head's.
constexpr int kRowLanes = 256, kPieceLanes = 32, kSumLanes = 64, kHeadLanes = 8;

// N rows divided among `slabs` units.
struct Slabs {
  int64_t N, slabs;
  FAIRWAY_BODY int64_t first(int64_t slab) const { return N * slab / slabs; }
};
// As many as fill a large GPU, and no more partial sums than rows.
inline Slabs SlabsOf(int64_t N) { return {N, N < 2048 ? N : 2048}; }

FAIRWAY_BODY float InverseRms(float squares, int64_t count) {
  return 1.0f / sqrtf(squares / static_cast<float>(count) + formula::kRmsEpsilon);
}

// --- ops/embed.h

template <class T, class S>
struct EmbedForward {
  static constexpr int kLanes = kRowLanes;
  int64_t N, D;
  const T* tok_emb;
  const int32_t* ids;
  const T* bigram = nullptr;            // [N, D]
  const float* bigram_scale = nullptr;  // of `bigram`; null: 1
  S* x1;                                // [N, D]
  float* inverse_norms;                 // [N]

  double bytes() const { return static_cast<double>(N * D * (int64_t{sizeof(T)} * (bigram != nullptr ? 2 : 1) + int64_t{sizeof(S)})); }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    const T* token = tok_emb + ids[row] * D;
    const float scale = bigram_scale != nullptr ? *bigram_scale : 1.0f;
    float squares = 0;
    for (int64_t j = lanes.first(); j < D; j += lanes.count()) {
      const float s = Sum(token, scale, row, j);
      squares += s * s;
    }
    const float r = InverseRms(lanes.Sum(squares), D);
    if (lanes.first() == 0) inverse_norms[row] = r;
    for (int64_t j = lanes.first(); j < D; j += lanes.count()) x1[row * D + j] = To<S>(Sum(token, scale, row, j) * r);
  }

 private:
  FAIRWAY_BODY float Sum(const T* token, float scale, int64_t row, int64_t j) const {
    return ToFloat(token[j]) + (bigram != nullptr ? scale * ToFloat(bigram[row * D + j]) : 0.0f);
  }
};

template <class S>
struct SmearForward {
  static constexpr int kLanes = kRowLanes;
  int64_t N, D;
  const float* gate;      // [D], before the sigmoid
  const int32_t* joined;  // [N]: 1 where the position before is seen, else 0
  const S* x1;
  S* x0;

  double bytes() const { return static_cast<double>(N * D * 2 * int64_t{sizeof(S)}); }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    const S* x = x1 + row * D;
    for (int64_t j = lanes.first(); j < D; j += lanes.count()) {
      const float before = joined[row] ? ToFloat(x[j - D]) : 0.0f;
      x0[row * D + j] = To<S>(formula::Smear(formula::Sigmoid(gate[j]), ToFloat(x[j]), before));
    }
  }
};

// The gradient of x0: what blocks' mixes gave back, and what went through the first block.
template <class S>
FAIRWAY_BODY float InputGradient(const S* dx0, const S* dx, int64_t at) {
  return ToFloat(dx0[at]) + ToFloat(dx[at]);
}

template <class T, class S>
struct EmbedBackward {
  static constexpr int kLanes = kRowLanes;
  Slabs rows;
  int64_t D;
  const float* gate;
  const int32_t* joined;
  const S* x1;
  const float* inverse_norms;
  const S* dx0;
  const S* dx;
  const T* bigram = nullptr;  // [N, D], where its scale has a gradient of its own
  T* ds;                      // [N, D]
  float* partials;            // [slabs, 2, D]: of the gate; of the bigram's scale, by columns

  double bytes() const { return static_cast<double>(rows.N * D * (3 * int64_t{sizeof(S)} + int64_t{sizeof(T)} * (bigram != nullptr ? 2 : 1))); }
  int64_t units() const { return rows.slabs; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t slab) const {
    float* dgate = partials + slab * 2 * D;
    for (int64_t j = lanes.first(); j < D; j += lanes.count()) dgate[j] = dgate[D + j] = 0;
    for (int64_t row = rows.first(slab); row < rows.first(slab + 1); ++row) {
      float product = 0;
      for (int64_t j = lanes.first(); j < D; j += lanes.count()) {
        const float x = ToFloat(x1[row * D + j]), before = joined[row] ? ToFloat(x1[(row - 1) * D + j]) : 0.0f;
        const float g = formula::Sigmoid(gate[j]), d = InputGradient(dx0, dx, row * D + j);
        dgate[j] += d * (before - x) * (g * (1.0f - g));
        product += Through(row, j) * x;
      }
      const float mean = lanes.Sum(product) / static_cast<float>(D), r = inverse_norms[row];
      for (int64_t j = lanes.first(); j < D; j += lanes.count()) {
        const int64_t at = row * D + j;
        const float d = formula::RmsGradient(Through(row, j), ToFloat(x1[at]), r, mean);
        ds[at] = To<T>(d);
        if (bigram != nullptr) dgate[D + j] += d * ToFloat(bigram[at]);
      }
    }
  }

 private:
  // The gradient of x1.
  FAIRWAY_BODY float Through(int64_t row, int64_t j) const {
    const int64_t at = row * D + j;
    const float after = row + 1 < rows.N && joined[row + 1] ? InputGradient(dx0, dx, at + D) : 0.0f;
    return formula::Smear(formula::Sigmoid(gate[j]), InputGradient(dx0, dx, at), after);
  }
};

// --- ops/smear_gate.h

template <class T>
struct SmearGate {
  int64_t N, D, window;
  const T* tok_emb;
  const int32_t* ids;     // [N]
  const int32_t* before;  // the token before the first row, where that row is joined to it
  const int32_t* joined;  // [N]
  const float* w;         // [window]
  const float* lambda;

  FAIRWAY_BODY const T* Own(int64_t row) const { return tok_emb + ids[row] * D; }
  // Null where the row is joined to none.
  FAIRWAY_BODY const T* Before(int64_t row) const {
    return joined[row] ? tok_emb + (row > 0 ? ids[row - 1] : *before) * D : nullptr;
  }
};

template <class T, class S>
struct SmearGateForward {
  static constexpr int kLanes = kRowLanes;
  SmearGate<T> in;
  S* x0;                 // [N, D]
  float* gates;          // [N]; 0 where a row is joined to none
  float* inverse_norms;  // [N]

  double bytes() const { return static_cast<double>(in.N * in.D * (2 * int64_t{sizeof(T)} + int64_t{sizeof(S)})); }
  int64_t units() const { return in.N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    const T *own = in.Own(row), *before = in.Before(row);
    float logit = 0;
    for (int64_t j = lanes.first(); j < in.window; j += lanes.count()) logit += in.w[j] * ToFloat(own[j]);
    logit = lanes.Sum(logit);
    const float gate = before != nullptr ? formula::Sigmoid(logit) : 0.0f, c = *in.lambda * gate;
    float squares = 0;
    for (int64_t j = lanes.first(); j < in.D; j += lanes.count()) {
      const float s = Sum(own, before, c, j);
      squares += s * s;
    }
    const float r = InverseRms(lanes.Sum(squares), in.D);
    if (lanes.first() == 0) {
      gates[row] = gate;
      inverse_norms[row] = r;
    }
    for (int64_t j = lanes.first(); j < in.D; j += lanes.count()) x0[row * in.D + j] = To<S>(Sum(own, before, c, j) * r);
  }

 private:
  FAIRWAY_BODY static float Sum(const T* own, const T* before, float c, int64_t j) {
    return ToFloat(own[j]) + (before != nullptr ? c * ToFloat(before[j]) : 0.0f);
  }
};

template <class T, class S>
struct SmearGateBackward {
  static constexpr int kLanes = kRowLanes;
  Slabs rows;
  SmearGate<T> in;
  const S* x0;
  const float* gates;
  const float* inverse_norms;
  S* dx0;            // becomes the gradient of the sum before the norm in place
  const S* dx;
  float* dlogits;    // [N], of w . e[:window]
  float* partials;   // [slabs, window + 1]: of w, and of lambda

  double bytes() const { return static_cast<double>(in.N * in.D * (4 * int64_t{sizeof(S)} + int64_t{sizeof(T)})); }
  int64_t units() const { return rows.slabs; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t slab) const {
    const int64_t D = in.D;
    float* dw = partials + slab * (in.window + 1);
    for (int64_t j = lanes.first(); j < in.window; j += lanes.count()) dw[j] = 0;
    float dlambda = 0;
    for (int64_t row = rows.first(slab); row < rows.first(slab + 1); ++row) {
      const T *own = in.Own(row), *before = in.Before(row);
      float product = 0;
      for (int64_t at = row * D + lanes.first(); at < (row + 1) * D; at += lanes.count()) product += InputGradient(dx0, dx, at) * ToFloat(x0[at]);
      const float mean = lanes.Sum(product) / static_cast<float>(D), r = inverse_norms[row];
      float dc = 0;
      for (int64_t j = lanes.first(); j < D; j += lanes.count()) {
        const int64_t at = row * D + j;
        const float d = formula::RmsGradient(InputGradient(dx0, dx, at), ToFloat(x0[at]), r, mean);
        dx0[at] = To<S>(d);
        if (before != nullptr) dc += d * ToFloat(before[j]);
      }
      dc = lanes.Sum(dc);
      const float gate = gates[row], dlogit = dc * *in.lambda * gate * (1.0f - gate);  // 0 where there is no row before
      dlambda += dc * gate;
      if (lanes.first() == 0) dlogits[row] = dlogit;
      for (int64_t j = lanes.first(); j < in.window; j += lanes.count()) dw[j] += dlogit * ToFloat(own[j]);
    }
    if (lanes.first() == 0) dw[in.window] = dlambda;
  }
};

// From the gradient of the sums to those of the embeddings, by position; and to that of the token before the first row, which no
// position looks up.
template <class T, class S>
struct SmearGateInputs {
  static constexpr int kLanes = kRowLanes;
  SmearGate<T> in;
  const float* gates;
  const float* dlogits;
  const S* ds;      // [N, D]
  T* de;            // [N, D]
  float* table;     // gradient of tok_emb, to which that of the token before is added

  double bytes() const { return static_cast<double>(in.N * in.D * (int64_t{sizeof(S)} + int64_t{sizeof(T)})); }
  int64_t units() const { return in.N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    const int64_t D = in.D;
    const bool seen = row + 1 < in.N && in.joined[row + 1];
    for (int64_t j = lanes.first(); j < D; j += lanes.count()) {
      float d = ToFloat(ds[row * D + j]);
      if (seen) d += *in.lambda * gates[row + 1] * ToFloat(ds[(row + 1) * D + j]);
      if (j < in.window) d += dlogits[row] * in.w[j];
      de[row * D + j] = To<T>(d);
      if (row == 0 && in.joined[0]) table[*in.before * D + j] += *in.lambda * gates[0] * ToFloat(ds[j]);
    }
  }
};

// to[n] += table[row[n]], both of `width` columns; rows of `to` lie `stride` elements apart.
template <class T>
struct AddTableRows {
  static constexpr int kLanes = kPieceLanes;
  int64_t N, width, stride;
  const T* table;
  const int32_t* row;  // [N]
  T* to;

  double bytes() const { return static_cast<double>(3 * N * width * int64_t{sizeof(T)}); }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t n) const {
    const T* from = table + row[n] * width;
    T* own = to + n * stride;
    // A table begins where the one before it ends.
    ForSomeColumns(lanes, stride % kPiece == 0 && reinterpret_cast<uintptr_t>(table) % 16 == 0, width, [&](int64_t j, auto columns) {
      constexpr int count = decltype(columns)::value;
      Values<count> sum = Load<count>(own + j);
      const Values<count> added = Load<count>(from + j);
      for (int i = 0; i < count; ++i) sum[i] += added[i];
      Store(sum, own + j);
    });
  }
};

// Positions order[first … last - 1] look up one row of a table. Rows with many positions are cut into several pieces, which
// leave their sums in `partials`; `partial` < 0: the only piece of its row.
struct Piece {
  int32_t row, first, last, partial;
};

// table[row] += scale * the sum of x over a piece's positions, in their order. A piece without positions does nothing.
template <class T>
struct ScatterPieces {
  static constexpr int kLanes = kRowLanes;
  int64_t pieces, width;
  const Piece* piece;
  const int32_t* order;
  const T* x;                    // [N, width], rows `stride` apart
  int64_t stride;
  const float* scale = nullptr;  // null: 1
  float* table;                  // [rows, width]
  float* partials;               // [partial pieces, width]

  double bytes() const { return static_cast<double>(pieces * width * (int64_t{sizeof(T)} + 8)); }
  int64_t units() const { return pieces; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const Piece p = piece[unit];
    if (p.first == p.last) return;
    const float factor = scale != nullptr ? *scale : 1.0f;
    for (int64_t j = lanes.first(); j < width; j += lanes.count()) {
      float sum = 0;
      for (int32_t i = p.first; i < p.last; ++i) sum += ToFloat(x[order[i] * stride + j]);
      if (p.partial < 0) table[p.row * width + j] += factor * sum;
      else partials[p.partial * width + j] = factor * sum;
    }
  }
};

// table[row] += partials[first … last - 1], for each joint: a Piece whose positions are partials.
struct JoinPieces {
  static constexpr int kLanes = kRowLanes;
  int64_t joints, width;
  const Piece* joint;
  const float* partials;
  float* table;

  double bytes() const { return static_cast<double>(joints * width * 12); }
  int64_t units() const { return joints; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const Piece p = joint[unit];
    if (p.first == p.last) return;
    for (int64_t j = lanes.first(); j < width; j += lanes.count()) {
      float sum = 0;
      for (int32_t i = p.first; i < p.last; ++i) sum += partials[i * width + j];
      table[p.row * width + j] += sum;
    }
  }
};

// --- ops/mix_norm.h

// Some columns of a row: the skip, the row with it, and x0.
template <int n>
struct MixColumns {
  Values<n> skip, xin, x0;
};

template <class S>
struct MixNormInput {
  int64_t D;
  const S* x;                          // [N, D]
  const S* x0;                         // [N, D]
  const float* mix;                    // [2, D]
  const S* skip = nullptr;             // [N, D]; null: no skip
  const float* skip_weight = nullptr;  // [D]
  const float* skip_gate = nullptr;    // [D], before the sigmoid; null: no gates

  template <int n>
  FAIRWAY_BODY MixColumns<n> At(int64_t row, int64_t j, Width<n>) const {
    MixColumns<n> own{};
    own.xin = Load<n>(x + row * D + j);
    if (skip != nullptr) {
      own.skip = Load<n>(skip + row * D + j);
      for (int i = 0; i < n; ++i) {
        const float other = skip_weight[j + i] * own.skip[i];
        own.xin[i] = skip_gate != nullptr ? formula::Lerp(other, own.xin[i], formula::Sigmoid(skip_gate[j + i])) : own.xin[i] + other;
      }
    }
    own.x0 = Load<n>(x0 + row * D + j);
    return own;
  }
  // Column j of the mix, the i-th of these.
  template <int n>
  FAIRWAY_BODY float Xm(const MixColumns<n>& own, int64_t j, int i) const {
    return mix[j + i] * own.xin[i] + mix[D + j + i] * own.x0[i];
  }
};

template <class T, class S>
struct MixNormForward {
  static constexpr int kLanes = kPieceLanes;
  int64_t N;
  MixNormInput<S> in;
  bool carries_input = false;  // the residual path carries xin, not xm (two lanes)
  S* residual;                 // [N, D]: what it carries
  T* u;                        // [N, D]

  double bytes() const { return static_cast<double>(N * in.D * (int64_t{sizeof(S)} * (3 + (in.skip != nullptr)) + int64_t{sizeof(T)})); }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    float squares = 0;
    ForColumns(lanes, in.D, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      const auto own = in.At(row, j, width);
      for (int i = 0; i < n; ++i) {
        const float xm = in.Xm(own, j, i);
        squares += xm * xm;
      }
    });
    const float r = InverseRms(lanes.Sum(squares), in.D);
    ForColumns(lanes, in.D, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      const auto own = in.At(row, j, width);
      Values<n> carried, normed;
      for (int i = 0; i < n; ++i) {
        const float xm = in.Xm(own, j, i);
        carried[i] = carries_input ? own.xin[i] : xm;
        normed[i] = xm * r;
      }
      Store(carried, residual + row * in.D + j);
      Store(normed, u + row * in.D + j);
    });
  }
};

template <class T, class S>
struct MixNormBackward {
  static constexpr int kLanes = kSumLanes;
  static constexpr int kSums = 4;
  Slabs rows;
  MixNormInput<S> in;
  bool carries_input = false;
  const T* du;                         // [N, D]
  const S* dresidual;                  // [N, D]: gradient of what the residual path carries
  const S* dextra = nullptr;           // [N, D]: added to the gradient of x, which other blocks have used too
  const S* dextra_lane = nullptr;      // [N, D]: likewise, of the lane that begins here
  S* dx;                               // [N, D]; may be dresidual
  T* dx_rounded = nullptr;             // [N, D]: the same for products; null where these take it as it is
  S* dx0;                              // [N, D]: added to
  S* dskip = nullptr;                  // [N, D]: set
  float* partials;                     // [slabs, 4, D]: of mix0, mix1, skip_weight and skip_gate

  double bytes() const {
    const int64_t stream = 6 + (dextra != nullptr) + (dextra_lane != nullptr) + 2 * (in.skip != nullptr);
    return static_cast<double>(rows.N * in.D * (int64_t{sizeof(T)} * (1 + (dx_rounded != nullptr)) + int64_t{sizeof(S)} * stream));
  }
  int64_t units() const { return rows.slabs; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t slab) const {
    const int64_t D = in.D;
    float* sums = partials + slab * kSums * D;
    const int64_t first = rows.first(slab), last = rows.first(slab + 1);
    // A lane with one piece keeps it, and its sums, while it goes through the rows.
    if (D % kPiece == 0 && D <= kPiece * lanes.count()) {
      const int64_t j = kPiece * lanes.first();
      const bool idle = j >= D;
      Sums<kPiece> own{};
      for (int64_t row = first; row < last; ++row) {
        MixColumns<kPiece> mixed{};
        Values<kPiece> d{};
        float squares = 0, product = 0;
        if (!idle) {
          mixed = in.At(row, j, Width<kPiece>());
          d = Load<kPiece>(du + row * D + j);
          Add(mixed, d, j, squares, product);
        }
        const Norm norm = NormOf(lanes, squares, product);
        if (!idle) Back(row, j, mixed, d, norm, own);
      }
      if (!idle)
        for (int k = 0; k < kSums; ++k) Store(own.of[k], sums + k * D + j);
      return;
    }
    for (int64_t j = lanes.first(); j < kSums * D; j += lanes.count()) sums[j] = 0;
    lanes.Sum(0);  // another lane may have cleared what this one adds to
    for (int64_t row = first; row < last; ++row) {
      float squares = 0, product = 0;
      ForColumns(lanes, D, [&](int64_t j, auto width) {
        constexpr int n = decltype(width)::value;
        Add(in.At(row, j, width), Load<n>(du + row * D + j), j, squares, product);
      });
      const Norm norm = NormOf(lanes, squares, product);
      ForColumns(lanes, D, [&](int64_t j, auto width) {
        constexpr int n = decltype(width)::value;
        Sums<n> own;
        for (int k = 0; k < kSums; ++k) own.of[k] = Load<n>(sums + k * D + j);
        Back(row, j, in.At(row, j, width), Load<n>(du + row * D + j), norm, own);
        for (int k = 0; k < kSums; ++k) Store(own.of[k], sums + k * D + j);
      });
    }
  }

 private:
  template <int n>
  struct Sums {
    Values<n> of[kSums];
  };
  struct Norm {
    float r, mean;  // of the row, and of du u over it
  };
  template <int n>
  FAIRWAY_BODY static void Add(const S* more, Values<n>& d) {
    const Values<n> added = Load<n>(more);
    for (int i = 0; i < n; ++i) d[i] += added[i];
  }
  template <int n>
  FAIRWAY_BODY void Add(const MixColumns<n>& mixed, const Values<n>& d, int64_t j, float& squares, float& product) const {
    for (int i = 0; i < n; ++i) {
      const float xm = in.Xm(mixed, j, i);
      squares += xm * xm;
      product += d[i] * xm;
    }
  }
  template <class Lanes>
  FAIRWAY_BODY Norm NormOf(const Lanes& lanes, float squares, float product) const {
    const float r = InverseRms(lanes.Sum(squares), in.D);
    return {r, lanes.Sum(product) * r / static_cast<float>(in.D)};
  }
  // What n columns of a row give back, and what they add to the sums.
  template <int n>
  FAIRWAY_BODY void Back(int64_t row, int64_t j, const MixColumns<n>& mixed, Values<n> d, Norm norm, Sums<n>& own) const {
    const int64_t at = row * in.D + j;
    {
      const Values<n> carried = Load<n>(dresidual + at);
      Values<n> down0 = Load<n>(dx0 + at);
      for (int i = 0; i < n; ++i) {
        float g = formula::RmsGradient(d[i], in.Xm(mixed, j, i) * norm.r, norm.r, norm.mean);
        if (!carries_input) g += carried[i];
        down0[i] += in.mix[in.D + j + i] * g;
        own.of[0][i] += g * mixed.xin[i];
        own.of[1][i] += g * mixed.x0[i];
        d[i] = in.mix[j + i] * g;
        if (carries_input) d[i] += carried[i];
      }
      Store(down0, dx0 + at);
    }
    if (in.skip != nullptr) {
      Values<n> x{}, down;
      if (in.skip_gate != nullptr) x = Load<n>(in.x + at);
      for (int i = 0; i < n; ++i) {
        float through = d[i];
        if (in.skip_gate != nullptr) {
          const float gate = formula::Sigmoid(in.skip_gate[j + i]);
          own.of[3][i] += d[i] * (x[i] - in.skip_weight[j + i] * mixed.skip[i]) * (gate * (1.0f - gate));
          through = (1.0f - gate) * d[i];
          d[i] *= gate;
        }
        down[i] = in.skip_weight[j + i] * through;
        own.of[2][i] += through * mixed.skip[i];
      }
      Store(down, dskip + at);
    }
    if (dextra != nullptr) Add(dextra + at, d);
    if (dextra_lane != nullptr) Add(dextra_lane + at, d);
    Store(d, dx + at);
    if (dx_rounded != nullptr) Store(d, dx_rounded + at);
  }
};

// A norm without a mix: of the MLP's input and of the output.
template <class T, class S>
struct NormForward {
  static constexpr int kLanes = kPieceLanes;
  int64_t N, D;
  const S* x;                      // [N, D]
  T* u;                            // [N, D]
  float* inverse_norms = nullptr;  // [N]

  double bytes() const { return static_cast<double>(N * D * (int64_t{sizeof(S)} + int64_t{sizeof(T)})); }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    float squares = 0;
    ForColumns(lanes, D, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      const Values<n> own = Load<n>(x + row * D + j);
      for (int i = 0; i < n; ++i) squares += own[i] * own[i];
    });
    const float r = InverseRms(lanes.Sum(squares), D);
    if (lanes.first() == 0 && inverse_norms != nullptr) inverse_norms[row] = r;
    ForColumns(lanes, D, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      Values<n> own = Load<n>(x + row * D + j);
      for (int i = 0; i < n; ++i) own[i] *= r;
      Store(own, u + row * D + j);
    });
  }
};

// From what the forward pass gave: x is not read again.
template <class T, class S>
struct NormBackward {
  static constexpr int kLanes = kPieceLanes;
  int64_t N, D;
  const T* u;                        // [N, D]
  const float* inverse_norms;        // [N]
  const T* du;                       // [N, D]
  const S* dresidual = nullptr;      // [N, D]: gradient of x from elsewhere
  S* dx;                             // [N, D]; may be dresidual
  T* dx_rounded = nullptr;           // [N, D]: the same for products; null where these take it as it is

  double bytes() const {
    return static_cast<double>(N * D * (int64_t{sizeof(T)} * (2 + (dx_rounded != nullptr)) + int64_t{sizeof(S)} * (1 + (dresidual != nullptr))));
  }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    float product = 0;
    ForColumns(lanes, D, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      const Values<n> own = Load<n>(u + row * D + j), d = Load<n>(du + row * D + j);
      for (int i = 0; i < n; ++i) product += own[i] * d[i];
    });
    const float mean = lanes.Sum(product) / static_cast<float>(D), r = inverse_norms[row];
    ForColumns(lanes, D, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      const int64_t at = row * D + j;
      const Values<n> own = Load<n>(u + at);
      Values<n> d = Load<n>(du + at);
      for (int i = 0; i < n; ++i) d[i] = formula::RmsGradient(d[i], own[i], r, mean);
      if (dresidual != nullptr) {
        const Values<n> carried = Load<n>(dresidual + at);
        for (int i = 0; i < n; ++i) d[i] += carried[i];
      }
      Store(d, dx + at);
      if (dx_rounded != nullptr) Store(d, dx_rounded + at);
    });
  }
};

// --- ops/lanes.h

template <class T, class S>
struct LanesInput {
  int64_t D;
  const float* resid;  // [lane]
  const float* post;   // [source, lane]
  const S* lane0;      // [N, D], as all of these
  const S* lane1;
  const T* a;
  const T* m;
  // Behind the last visit the lanes become one stream again: share0 of lane 0, and the rest of lane 1.
  bool last;
  float share0;
};

template <class T, class S>
struct LanesForward {
  static constexpr int kLanes = kPieceLanes;
  int64_t N;
  LanesInput<T, S> in;
  S* out0;  // lane 0; behind the last visit the stream
  S* out1;  // lane 1; behind the last visit not written

  double bytes() const { return static_cast<double>(N * in.D * (2 * int64_t{sizeof(T)} + int64_t{sizeof(S)} * (in.last ? 3 : 4))); }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    ForColumns(lanes, in.D, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      const int64_t at = row * in.D + j;
      Values<n> l0 = Load<n>(in.lane0 + at), l1 = Load<n>(in.lane1 + at);
      const Values<n> a = Load<n>(in.a + at), m = Load<n>(in.m + at);
      for (int i = 0; i < n; ++i) {
        const float x0 = in.resid[0] * l0[i] + in.post[0] * a[i] + in.post[2] * m[i];
        l1[i] = in.resid[1] * l1[i] + in.post[1] * a[i] + in.post[3] * m[i];
        l0[i] = in.last ? in.share0 * x0 + (1.0f - in.share0) * l1[i] : x0;
      }
      Store(l0, out0 + at);
      if (!in.last) Store(l1, out1 + at);
    });
  }
};

template <class T, class S>
struct LanesBackward {
  static constexpr int kLanes = kRowLanes;
  static constexpr int kSums = 6;
  Slabs rows;
  LanesInput<T, S> in;
  S* d0;            // gradients of both lanes behind the visit; they become those before it. Behind the last visit,
  S* d1;            // d0 is the stream's gradient, and d1 is only written
  T* da;
  T* dm;
  float* partials;  // [slabs, 6]: of resid [lane], and of post [source, lane]

  double bytes() const { return static_cast<double>(rows.N * in.D * (4 * int64_t{sizeof(T)} + int64_t{sizeof(S)} * (in.last ? 5 : 6))); }
  int64_t units() const { return rows.slabs; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t slab) const {
    float r0 = 0, r1 = 0, a0 = 0, a1 = 0, m0 = 0, m1 = 0;
    const int64_t first = rows.first(slab) * in.D, count = rows.first(slab + 1) * in.D - first;
    ForSomeColumns(lanes, in.D % kPiece == 0, count, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      const int64_t at = first + j;
      const Values<n> l0 = Load<n>(in.lane0 + at), l1 = Load<n>(in.lane1 + at), a = Load<n>(in.a + at), m = Load<n>(in.m + at);
      Values<n> x0 = Load<n>(d0 + at), x1{}, down_a, down_m;
      if (!in.last) x1 = Load<n>(d1 + at);
      for (int i = 0; i < n; ++i) {
        if (in.last) {
          x1[i] = (1.0f - in.share0) * x0[i];
          x0[i] *= in.share0;
        }
        r0 += x0[i] * l0[i];
        r1 += x1[i] * l1[i];
        a0 += x0[i] * a[i];
        a1 += x1[i] * a[i];
        m0 += x0[i] * m[i];
        m1 += x1[i] * m[i];
        down_a[i] = in.post[0] * x0[i] + in.post[1] * x1[i];
        down_m[i] = in.post[2] * x0[i] + in.post[3] * x1[i];
        x0[i] *= in.resid[0];
        x1[i] *= in.resid[1];
      }
      Store(down_a, da + at);
      Store(down_m, dm + at);
      Store(x0, d0 + at);
      Store(x1, d1 + at);
    });
    Put(lanes, slab, 0, r0);
    Put(lanes, slab, 1, r1);
    Put(lanes, slab, 2, a0);
    Put(lanes, slab, 3, a1);
    Put(lanes, slab, 4, m0);
    Put(lanes, slab, 5, m1);
  }

 private:
  template <class Lanes>
  FAIRWAY_BODY void Put(const Lanes& lanes, int64_t slab, int number, float sum) const {
    sum = lanes.Sum(sum);
    if (lanes.first() == 0) partials[slab * kSums + number] = sum;
  }
};

// --- ops/qk.h

struct Heads {
  int64_t H, Hkv, d, rotated;  // the first `rotated` dimensions of a head turn
  const int32_t* positions;    // [N]
  const float* cos;            // [positions, rotated / 2]
  const float* sin;
  FAIRWAY_BODY int64_t stride() const { return (H + 2 * Hkv) * d; }
};

// From the projections' output qkv [N, (H + 2 Hkv) d] to qk [N, (H + Hkv) d]: normalised and rotated, queries times their gain.
// (ops/attention.h puts the gain on the scores instead; the library's attention takes none.)
template <class T>
struct QkForward {
  static constexpr int kLanes = kHeadLanes;
  int64_t N;
  Heads heads;
  const float* gain;  // [H]
  const T* qkv;
  T* qk;

  double bytes() const { return static_cast<double>(2 * N * (heads.H + heads.Hkv) * heads.d * int64_t{sizeof(T)}); }
  int64_t units() const { return N * (heads.H + heads.Hkv); }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const int64_t all = heads.H + heads.Hkv, row = unit / all, head = unit % all, d = heads.d, half = heads.rotated / 2;
    const T* x = qkv + row * heads.stride() + head * d;
    T* out = qk + unit * d;
    const float *cos = heads.cos + heads.positions[row] * half, *sin = heads.sin + heads.positions[row] * half;
    const bool whole = d % kPiece == 0;  // else `half` may be a multiple of pieces where rows are not
    float squares = 0;
    ForColumns(lanes, d, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      const Values<n> own = Load<n>(x + j);
      for (int i = 0; i < n; ++i) squares += own[i] * own[i];
    });
    const float r = InverseRms(lanes.Sum(squares), d), g = head < heads.H ? gain[head] : 1.0f;
    ForSomeColumns(lanes, whole, half, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      Values<n> x1 = Load<n>(x + j), x2 = Load<n>(x + half + j);
      const Values<n> c = Load<n>(cos + j), s = Load<n>(sin + j);
      for (int i = 0; i < n; ++i) {
        const float one = x1[i] * r, two = x2[i] * r;
        x1[i] = g * (one * c[i] + two * s[i]);
        x2[i] = g * (two * c[i] - one * s[i]);
      }
      Store(x1, out + j);
      Store(x2, out + half + j);
    });
    ForSomeColumns(lanes, whole, d - 2 * half, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      Values<n> own = Load<n>(x + 2 * half + j);
      for (int i = 0; i < n; ++i) own[i] = g * (own[i] * r);
      Store(own, out + 2 * half + j);
    });
  }
};

// From the gradients that attention gives, of queries with their gain, keys and values, to dqkv. A unit is a slab and a head.
template <class T>
struct QkBackward {
  static constexpr int kLanes = kHeadLanes;
  Slabs rows;
  Heads heads;
  const float* gain;
  const T* qkv;
  const T* dq;                // [N, H d]
  const T* dk;                // [N, Hkv d]
  const T* dv;                // [N, Hkv d]
  const T* dv_exclusive;      // [N, Hkv d]: of the values from elsewhere; null: none
  T* dqkv;                    // [N, (H + 2 Hkv) d]
  float* partials;            // [slabs, H]: of the gain

  FAIRWAY_BODY int64_t all() const { return heads.H + 2 * heads.Hkv; }
  double bytes() const { return static_cast<double>(rows.N * heads.d * (int64_t{sizeof(T)} * (3 * heads.H + (dv_exclusive != nullptr ? 6 : 5) * heads.Hkv))); }
  int64_t units() const { return rows.slabs * all(); }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const int64_t slab = unit / all(), head = unit % all(), d = heads.d, half = heads.rotated / 2, H = heads.H, Hkv = heads.Hkv;
    const bool whole = d % kPiece == 0;
    float dgain = 0;
    for (int64_t row = rows.first(slab); row < rows.first(slab + 1); ++row) {
      T* out = dqkv + row * heads.stride() + head * d;
      if (head >= H + Hkv) {
        const int64_t from = (row * Hkv + head - H - Hkv) * d;
        ForColumns(lanes, d, [&](int64_t j, auto width) {
          constexpr int n = decltype(width)::value;
          Values<n> own = Load<n>(dv + from + j);
          if (dv_exclusive != nullptr) {
            const Values<n> more = Load<n>(dv_exclusive + from + j);
            for (int i = 0; i < n; ++i) own[i] += more[i];
          }
          Store(own, out + j);
        });
        continue;
      }
      const T* x = qkv + row * heads.stride() + head * d;
      const T* dx = head < H ? dq + (row * H + head) * d : dk + (row * Hkv + head - H) * d;
      const float *cos = heads.cos + heads.positions[row] * half, *sin = heads.sin + heads.positions[row] * half;
      float squares = 0, product = 0;
      ForSomeColumns(lanes, whole, half, [&](int64_t j, auto width) {
        constexpr int n = decltype(width)::value;
        const Values<n> x1 = Load<n>(x + j), x2 = Load<n>(x + half + j), d1 = Load<n>(dx + j), d2 = Load<n>(dx + half + j);
        const Values<n> c = Load<n>(cos + j), s = Load<n>(sin + j);
        for (int i = 0; i < n; ++i) {
          squares += x1[i] * x1[i] + x2[i] * x2[i];
          product += (d1[i] * c[i] - d2[i] * s[i]) * x1[i] + (d1[i] * s[i] + d2[i] * c[i]) * x2[i];
        }
      });
      ForSomeColumns(lanes, whole, d - 2 * half, [&](int64_t j, auto width) {
        constexpr int n = decltype(width)::value;
        const Values<n> own = Load<n>(x + 2 * half + j), down = Load<n>(dx + 2 * half + j);
        for (int i = 0; i < n; ++i) {
          squares += own[i] * own[i];
          product += down[i] * own[i];
        }
      });
      const float r = InverseRms(lanes.Sum(squares), d), g = head < H ? gain[head] : 1.0f;
      const float along = lanes.Sum(product) * r, mean = g * along / static_cast<float>(d);
      dgain += along;
      ForSomeColumns(lanes, whole, half, [&](int64_t j, auto width) {
        constexpr int n = decltype(width)::value;
        const Values<n> x1 = Load<n>(x + j), x2 = Load<n>(x + half + j), d1 = Load<n>(dx + j), d2 = Load<n>(dx + half + j);
        const Values<n> c = Load<n>(cos + j), s = Load<n>(sin + j);
        Values<n> one, two;
        for (int i = 0; i < n; ++i) {
          one[i] = formula::RmsGradient(g * (d1[i] * c[i] - d2[i] * s[i]), x1[i] * r, r, mean);
          two[i] = formula::RmsGradient(g * (d1[i] * s[i] + d2[i] * c[i]), x2[i] * r, r, mean);
        }
        Store(one, out + j);
        Store(two, out + half + j);
      });
      ForSomeColumns(lanes, whole, d - 2 * half, [&](int64_t j, auto width) {
        constexpr int n = decltype(width)::value;
        const Values<n> own = Load<n>(x + 2 * half + j);
        Values<n> down = Load<n>(dx + 2 * half + j);
        for (int i = 0; i < n; ++i) down[i] = formula::RmsGradient(g * down[i], own[i] * r, r, mean);
        Store(down, out + 2 * half + j);
      });
    }
    if (head < H && lanes.first() == 0) partials[slab * H + head] = dgain;
  }
};

// --- ops/xsa.h and ops/attention_gate.h: from attention's output to what the output projection takes

// Exclusive self attention, attention gates, or both: what they do to the heads of a row that share a key/value head, which are a
// unit.
template <class T>
struct HeadGates {
  int64_t N;
  Heads heads;
  const T* qkv;                  // [N, (H + 2 Hkv) d]; null: no exclusive self attention
  const float* gates = nullptr;  // [N, H]; null: no gates

  FAIRWAY_BODY int64_t group() const { return heads.H / heads.Hkv; }
  FAIRWAY_BODY float GateOf(int64_t head) const { return gates != nullptr ? gates[head] : 1.0f; }
};

// The value head of a unit, where there is exclusive self attention.
template <class T>
struct ValueHead {
  const T* v = nullptr;
  bool tiny = false;
  float inverse = 0;  // of the norm that exclusive self attention divides by

  template <class Lanes>
  FAIRWAY_BODY ValueHead(const Lanes& lanes, const HeadGates<T>& in, int64_t unit) {
    if (in.qkv == nullptr) return;
    const Heads& heads = in.heads;
    v = in.qkv + unit / heads.Hkv * heads.stride() + (heads.H + heads.Hkv + unit % heads.Hkv) * heads.d;
    float squares = 0;
    ForColumns(lanes, heads.d, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      const Values<n> own = Load<n>(v + j);
      for (int i = 0; i < n; ++i) squares += own[i] * own[i];
    });
    const float norm = sqrtf(lanes.Sum(squares));
    tiny = !(norm > formula::kXsaEpsilon);
    inverse = 1.0f / (tiny ? formula::kXsaEpsilon : norm);
  }
  // Some columns of the unit vector; 0 where there is none.
  template <int n>
  FAIRWAY_BODY Values<n> Unit(int64_t j) const {
    Values<n> own{};
    if (v == nullptr) return own;
    own = Load<n>(v + j);
    for (int i = 0; i < n; ++i) own[i] *= inverse;
    return own;
  }
};

template <class T>
struct HeadGatesForward {
  static constexpr int kLanes = kHeadLanes;
  HeadGates<T> in;
  const T* y;  // [N, H d]
  T* out;      // [N, H d]

  double bytes() const { return static_cast<double>(in.N * in.heads.d * int64_t{sizeof(T)} * (2 * in.heads.H + (in.qkv != nullptr ? in.heads.Hkv : 0))); }
  int64_t units() const { return in.N * in.heads.Hkv; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const ValueHead<T> value(lanes, in, unit);
    const int64_t d = in.heads.d, first = unit * in.group();  // heads of all rows, one after another
    for (int64_t head = first; head < first + in.group(); ++head) {
      float along = 0;
      ForColumns(lanes, d, [&](int64_t j, auto width) {
        constexpr int n = decltype(width)::value;
        const Values<n> own = Load<n>(y + head * d + j), unit_vector = value.template Unit<n>(j);
        for (int i = 0; i < n; ++i) along += own[i] * unit_vector[i];
      });
      along = lanes.Sum(along);
      const float gate = in.GateOf(head);
      ForColumns(lanes, d, [&](int64_t j, auto width) {
        constexpr int n = decltype(width)::value;
        Values<n> own = Load<n>(y + head * d + j);
        const Values<n> unit_vector = value.template Unit<n>(j);
        for (int i = 0; i < n; ++i) own[i] = gate * formula::Exclude(own[i], along, unit_vector[i]);
        Store(own, out + head * d + j);
      });
    }
  }
};

// With n the unit vector, c = y . n, g the gate and d = g dout: dgate = dout . (y - c n); with e = d . n: dy = d - e n and dn =
// -sum over heads of (c d + e y), so dn . n = -2 sum of c e; dv = (dn - (dn . n) n) / |v|, without the second term below the least
// norm, where n is linear in v.
template <class T>
struct HeadGatesBackward {
  static constexpr int kLanes = kHeadLanes;
  HeadGates<T> in;
  float scale = 1;           // inside the gates' sigmoid
  const T* y;
  T* dout;                   // becomes dy in place
  T* dv = nullptr;           // [N, Hkv d], of exclusive self attention
  float* dlogits = nullptr;  // [N, H], of the gates' w_h . u, `scale` included

  double bytes() const {
    const int64_t kv = in.qkv != nullptr ? in.heads.Hkv : 0;
    return static_cast<double>(in.N * in.heads.d * int64_t{sizeof(T)} * (3 * in.heads.H + 2 * kv));
  }
  int64_t units() const { return in.N * in.heads.Hkv; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const ValueHead<T> value(lanes, in, unit);
    const int64_t d = in.heads.d, first = unit * in.group();
    float dn_along = 0;
    for (int64_t head = first; head < first + in.group(); ++head) {
      float c = 0, e = 0, product = 0;
      ForColumns(lanes, d, [&](int64_t j, auto width) {
        constexpr int n = decltype(width)::value;
        const Values<n> own = Load<n>(y + head * d + j), down = Load<n>(dout + head * d + j), unit_vector = value.template Unit<n>(j);
        for (int i = 0; i < n; ++i) {
          c += own[i] * unit_vector[i];
          e += down[i] * unit_vector[i];
          product += own[i] * down[i];
        }
      });
      c = lanes.Sum(c);
      e = lanes.Sum(e);
      const float gate = in.GateOf(head);
      if (dlogits != nullptr) {
        product = lanes.Sum(product);
        if (lanes.first() == 0) dlogits[head] = (product - c * e) * gate * (1.0f - gate) * scale;
      }
      e *= gate;
      dn_along -= 2.0f * c * e;
      ForColumns(lanes, d, [&](int64_t j, auto width) {
        constexpr int n = decltype(width)::value;
        const Values<n> own = Load<n>(y + head * d + j), unit_vector = value.template Unit<n>(j);
        Values<n> down = Load<n>(dout + head * d + j), dn{};
        if (dv != nullptr && head > first) dn = Load<n>(dv + unit * d + j);
        for (int i = 0; i < n; ++i) {
          down[i] *= gate;
          dn[i] -= c * down[i] + e * own[i];
          down[i] = formula::Exclude(down[i], e, unit_vector[i]);
        }
        Store(down, dout + head * d + j);
        if (dv != nullptr) Store(dn, dv + unit * d + j);
      });
    }
    if (dv == nullptr) return;
    if (value.tiny) dn_along = 0;
    ForColumns(lanes, d, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      Values<n> dn = Load<n>(dv + unit * d + j);
      const Values<n> unit_vector = value.template Unit<n>(j);
      for (int i = 0; i < n; ++i) dn[i] = formula::Exclude(dn[i], dn_along, unit_vector[i]) * value.inverse;
      Store(dn, dv + unit * d + j);
    });
  }
};

// --- ops/attention_gate.h

template <class T>
struct AttentionGate {
  int64_t D, H, d, window;
  float scale;     // what is folded into the input elsewhere included
  const float* w;  // [H, window]
  const T* u;      // [N, D]
};

// A unit is a head of a row.
template <class T>
struct AttentionGates {
  static constexpr int kLanes = kHeadLanes;
  int64_t N;
  AttentionGate<T> gate;
  float* gates;  // [N, H]

  double bytes() const { return static_cast<double>(N * (gate.window * int64_t{sizeof(T)} + gate.H * 4)); }
  int64_t units() const { return N * gate.H; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const T* u = gate.u + unit / gate.H * gate.D;
    const float* w = gate.w + unit % gate.H * gate.window;
    float logit = 0;
    for (int64_t j = lanes.first(); j < gate.window; j += lanes.count()) logit += w[j] * ToFloat(u[j]);
    logit = lanes.Sum(logit);
    if (lanes.first() == 0) gates[unit] = formula::Sigmoid(gate.scale * logit);
  }
};

// Adds the gates' part to du [N, D].
template <class T>
struct AttentionGatesBackward {
  static constexpr int kLanes = kRowLanes;
  Slabs rows;
  AttentionGate<T> gate;
  const float* dlogits;  // [N, H]
  T* du;
  float* partials;       // [slabs, H, window]: of w

  double bytes() const { return static_cast<double>(rows.N * (3 * gate.window * int64_t{sizeof(T)} + gate.H * 4)); }
  int64_t units() const { return rows.slabs; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t slab) const {
    const int64_t window = gate.window, all = gate.H * window;
    for (int64_t i = lanes.first(); i < all; i += lanes.count()) {
      float sum = 0;
      for (int64_t row = rows.first(slab); row < rows.first(slab + 1); ++row)
        sum += dlogits[row * gate.H + i / window] * ToFloat(gate.u[row * gate.D + i % window]);
      partials[slab * all + i] = sum;
    }
    const int64_t first = rows.first(slab), count = rows.first(slab + 1) - first;
    for (int64_t i = lanes.first(); i < count * window; i += lanes.count()) {
      const int64_t row = first + i / window, j = i % window;
      float sum = ToFloat(du[row * gate.D + j]);
      for (int64_t head = 0; head < gate.H; ++head) sum += dlogits[row * gate.H + head] * gate.w[head * window + j];
      du[row * gate.D + j] = To<T>(sum);
    }
  }
};

// --- ops/product.h: the squared ReLU

template <class T>
struct Relu2Forward {
  static constexpr int kLanes = kRowLanes;
  int64_t N, F;
  float negative;  // slope below 0
  const T* h;      // [N, F]
  T* a;

  double bytes() const { return static_cast<double>(2 * N * F * int64_t{sizeof(T)}); }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    ForColumns(lanes, F, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      Values<n> own = Load<n>(h + row * F + j);
      for (int i = 0; i < n; ++i) own[i] = formula::Relu2(own[i], negative);
      Store(own, a + row * F + j);
    });
  }
};

template <class T>
struct Relu2Backward {
  static constexpr int kLanes = kRowLanes;
  int64_t N, F;
  float negative;
  const T* h;
  T* da;  // becomes dh in place

  double bytes() const { return static_cast<double>(3 * N * F * int64_t{sizeof(T)}); }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    ForColumns(lanes, F, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      const Values<n> own = Load<n>(h + row * F + j);
      Values<n> down = Load<n>(da + row * F + j);
      for (int i = 0; i < n; ++i) down[i] *= formula::Relu2Slope(own[i], negative);
      Store(down, da + row * F + j);
    });
  }
};

// --- ops/cross_entropy.h

// Losses of some rows of logits [N, V]; with `dlogits`, their gradients for `share` times the losses' sum.
template <class T>
struct CrossEntropy {
  static constexpr int kLanes = kRowLanes;
  int64_t N, V;
  float cap, share;
  const float* logits;
  const int32_t* targets;  // [N]
  float* losses;           // [N]
  T* dlogits = nullptr;    // [N, V]

  double bytes() const { return static_cast<double>(N * V * (4 + (dlogits != nullptr ? int64_t{sizeof(T)} : 0))); }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    const float* logit = logits + row * V;
    const int32_t target = targets[row];
    const float capped = formula::Softcap(logit[target], cap);
    float largest = capped;
    ForColumns(lanes, V, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      const Values<n> own = Load<n>(logit + j);
      for (int i = 0; i < n; ++i) {
        const float z = formula::Softcap(own[i], cap);
        largest = z > largest ? z : largest;
      }
    });
    largest = lanes.Max(largest);
    float sum = 0;
    ForColumns(lanes, V, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      const Values<n> own = Load<n>(logit + j);
      for (int i = 0; i < n; ++i) sum += formula::Exp(formula::Softcap(own[i], cap) - largest);
    });
    sum = lanes.Sum(sum);
    if (lanes.first() == 0) losses[row] = logf(sum) + largest - capped;
    if (dlogits == nullptr) return;
    ForColumns(lanes, V, [&](int64_t j, auto width) {
      constexpr int n = decltype(width)::value;
      Values<n> own = Load<n>(logit + j);
      for (int i = 0; i < n; ++i) {
        const float z = formula::Softcap(own[i], cap), p = formula::Exp(z - largest) / sum;
        own[i] = share * (j + i == target ? p - 1.0f : p) * formula::SoftcapSlope(z, cap);
      }
      Store(own, dlogits + row * V + j);
    });
  }
};

// --- weights

// A matrix as its products see it, and where its scale's gradient comes from (see common/model/cpu_engine.h).
struct ScaledRows {
  int64_t rows, columns;
  const float* weight;           // [rows, columns]
  bool rounded;                  // to the grid of ops/fake_quantise.h:
  float q_min, q_max, least;
  bool stored, exact_codes;
  const float *steps = nullptr, *factors = nullptr;  // fixed, [rows] and [columns]
  const float* scale = nullptr;  // of each row, scale_stride floats apart (0: one for all); null: 1
  int64_t scale_stride = 1;
  float constant = 1;            // the scale where there is no other

  FAIRWAY_BODY float Scale(int64_t row) const { return scale != nullptr ? scale[row * scale_stride] : constant; }

  template <class Lanes>
  FAIRWAY_BODY formula::Steps StepsOf(const Lanes& lanes, int64_t row) const {
    if (!rounded) return {1, 1};
    if (steps != nullptr) return {steps[row], steps[row]};
    float largest = 0;
    for (int64_t j = lanes.first(); j < columns; j += lanes.count()) {
      const float magnitude = fabsf(weight[row * columns + j]);
      largest = magnitude > largest ? magnitude : largest;
    }
    largest = lanes.Max(largest);
    return formula::GridSteps(largest, q_max, least, stored, exact_codes);
  }
  FAIRWAY_BODY float Value(formula::Steps of_row, int64_t row, int64_t j) const {
    const float w = weight[row * columns + j];
    if (!rounded) return w;
    if (steps != nullptr) of_row = {of_row.codes * factors[j], of_row.values * factors[j]};
    return formula::OnGrid(w, of_row, q_min, q_max);
  }
};

// used = scale * (weight, rounded or not), in T.
template <class T>
struct PrepareRows {
  static constexpr int kLanes = kRowLanes;
  ScaledRows matrix;
  T* used;

  double bytes() const { return static_cast<double>(matrix.rows * matrix.columns * (4 + int64_t{sizeof(T)})); }
  int64_t units() const { return matrix.rows; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    const formula::Steps steps = matrix.StepsOf(lanes, row);
    const float scale = matrix.Scale(row);
    for (int64_t j = lanes.first(); j < matrix.columns; j += lanes.count())
      used[row * matrix.columns + j] = To<T>(scale * matrix.Value(steps, row, j));
  }
};

// From the gradient of `used` to the weight's, in place; adds the scale's, where it has one. With one scale for all rows, each
// row's share is put into `shares` [rows] instead.
struct FinishRows {
  static constexpr int kLanes = kRowLanes;
  ScaledRows matrix;
  float* gradient;
  float* scale_gradient;
  float* shares;

  double bytes() const { return static_cast<double>(matrix.rows * matrix.columns * 12); }
  int64_t units() const { return matrix.rows; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    const formula::Steps steps = matrix.StepsOf(lanes, row);
    const float scale = matrix.Scale(row);
    float sum = 0;
    for (int64_t j = lanes.first(); j < matrix.columns; j += lanes.count()) {
      float& g = gradient[row * matrix.columns + j];
      sum += matrix.Value(steps, row, j) * g;
      g *= scale;
    }
    sum = lanes.Sum(sum);
    if (lanes.first() != 0 || matrix.scale == nullptr) return;
    if (matrix.scale_stride == 0) shares[row] = sum;
    else scale_gradient[row] += sum;
  }
};

// sums[j] += rows' values in column j; the rows are `stride` apart. A unit is kPiece columns, so that what memory gives at a time
// is used.
struct AddColumns {
  static constexpr int kLanes = kRowLanes;
  int64_t rows, stride, columns;
  const float* values;
  float* sums;

  double bytes() const { return static_cast<double>(rows * columns * 4); }
  int64_t units() const { return (columns + kPiece - 1) / kPiece; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const int64_t first = unit * kPiece;
    Values<kPiece> own{};
    for (int64_t row = lanes.first(); row < rows; row += lanes.count())
      for (int i = 0; i < kPiece; ++i)
        if (first + i < columns) own[i] += values[row * stride + first + i];
    for (int i = 0; i < kPiece; ++i) {
      const float sum = lanes.Sum(own[i]);
      if (lanes.first() == 0 && first + i < columns) sums[first + i] += sum;
    }
  }
};

// --- steps over flat memory (pull request 531); a unit is a run of elements

constexpr int64_t kRun = 4096;

// momentum <- beta momentum + f g; nesterov = f g + beta momentum, rounded to bfloat16.  f: the clip factor
struct MuonMomentum {
  static constexpr int kLanes = kRowLanes;
  int64_t count;
  float factor, beta;
  const float* gradient;
  float* momentum;
  BFloat16* nesterov;

  double bytes() const { return static_cast<double>(count * 14); }
  int64_t units() const { return (count + kRun - 1) / kRun; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const int64_t end = (unit + 1) * kRun < count ? (unit + 1) * kRun : count;
    for (int64_t i = unit * kRun + lanes.first(); i < end; i += lanes.count()) {
      const float g = factor * gradient[i];
      momentum[i] = beta * momentum[i] + g;
      nesterov[i] = To<BFloat16>(g + beta * momentum[i]);
    }
  }
};

// parameter <- parameter (1 - lr decay) - lr update
struct MuonUpdate {
  static constexpr int kLanes = kRowLanes;
  int64_t count;
  float learning_rate, decay;
  const BFloat16* update;
  float* parameter;

  double bytes() const { return static_cast<double>(count * 10); }
  int64_t units() const { return (count + kRun - 1) / kRun; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const int64_t end = (unit + 1) * kRun < count ? (unit + 1) * kRun : count;
    for (int64_t i = unit * kRun + lanes.first(); i < end; i += lanes.count())
      parameter[i] = parameter[i] * (1.0f - learning_rate * decay) - learning_rate * ToFloat(update[i]);
  }
};

using Operations = OperationList<
    EmbedForward<float, float>, EmbedForward<BFloat16, float>, EmbedForward<BFloat16, BFloat16>, SmearForward<float>,
    SmearForward<BFloat16>, EmbedBackward<float, float>, EmbedBackward<BFloat16, float>, EmbedBackward<BFloat16, BFloat16>,
    SmearGateForward<float, float>, SmearGateForward<BFloat16, float>, SmearGateForward<BFloat16, BFloat16>,
    SmearGateBackward<float, float>, SmearGateBackward<BFloat16, float>, SmearGateBackward<BFloat16, BFloat16>,
    SmearGateInputs<float, float>, SmearGateInputs<BFloat16, float>, SmearGateInputs<BFloat16, BFloat16>, AddTableRows<float>,
    AddTableRows<BFloat16>, ScatterPieces<float>, ScatterPieces<BFloat16>, JoinPieces, MixNormForward<float, float>, MixNormForward<BFloat16, float>,
    MixNormForward<BFloat16, BFloat16>, MixNormBackward<float, float>, MixNormBackward<BFloat16, float>,
    MixNormBackward<BFloat16, BFloat16>, NormForward<float, float>, NormForward<BFloat16, float>, NormForward<BFloat16, BFloat16>,
    NormBackward<float, float>, NormBackward<BFloat16, float>, NormBackward<BFloat16, BFloat16>, LanesForward<float, float>,
    LanesForward<BFloat16, float>, LanesForward<BFloat16, BFloat16>, LanesBackward<float, float>, LanesBackward<BFloat16, float>,
    LanesBackward<BFloat16, BFloat16>, QkForward<float>, QkForward<BFloat16>, QkBackward<float>, QkBackward<BFloat16>,
    HeadGatesForward<float>, HeadGatesForward<BFloat16>, HeadGatesBackward<float>, HeadGatesBackward<BFloat16>,
    AttentionGates<float>, AttentionGates<BFloat16>, AttentionGatesBackward<float>, AttentionGatesBackward<BFloat16>,
    Relu2Forward<float>, Relu2Forward<BFloat16>, Relu2Backward<float>, Relu2Backward<BFloat16>, CrossEntropy<float>,
    CrossEntropy<BFloat16>, PrepareRows<float>, PrepareRows<BFloat16>, FinishRows, AddColumns, MuonMomentum, MuonUpdate>;

}  // namespace fairway::cuda
