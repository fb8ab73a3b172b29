// The fused operations on a device. Their formulas are in the headers of common/model/ops; these compute the same row by row, by
// the scalar formulas of common/model/ops/formulas.h.
//
// T is what products take and give: float, or BFloat16. The residual stream, logits, losses, statistics, sums and gradients of
// the stream and of parameters are float32. What becomes a T is rounded once.
//
// bytes(): what a unit's operands are in memory, each read or written once per launch, but for what is one row long (weights of columns,
// numbers of rows): what the paper model of a step counts (docs/scaling.md).
//
// Everything is deterministic, without atomic additions: gradients of vectors are summed over slabs of rows (Slabs) into
// `partials`, and over these by AddColumns; gradients of tables by position lists that the host has sorted (ScatterPieces).
// Pointers that an operation may lack are null.
#pragma once

#include "common/cuda/operation.h"

namespace fairway::cuda {

constexpr int kRowLanes = 256, kHeadLanes = 32;

// N rows divided among `slabs` units.
struct Slabs {
  int64_t N, slabs;
  FAIRWAY_BODY int64_t first(int64_t slab) const { return N * slab / slabs; }
};
// As many as fill a large GPU, and no more partial sums than rows.
inline Slabs SlabsOf(int64_t N) { return {N, N < 1024 ? N : 1024}; }

FAIRWAY_BODY float InverseRms(float squares, int64_t count) {
  return 1.0f / sqrtf(squares / static_cast<float>(count) + formula::kRmsEpsilon);
}

// --- ops/embed.h

template <class T>
struct EmbedForward {
  static constexpr int kLanes = kRowLanes;
  int64_t N, D;
  const T* tok_emb;
  const int32_t* ids;
  const T* bigram = nullptr;            // [N, D]
  const float* bigram_scale = nullptr;  // of `bigram`; null: 1
  float* x1;                            // [N, D]
  float* inverse_norms;                 // [N]

  double bytes() const { return static_cast<double>(N * D * (int64_t{sizeof(T)} * (bigram != nullptr ? 2 : 1) + 4)); }
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
    for (int64_t j = lanes.first(); j < D; j += lanes.count()) x1[row * D + j] = Sum(token, scale, row, j) * r;
  }

 private:
  FAIRWAY_BODY float Sum(const T* token, float scale, int64_t row, int64_t j) const {
    return ToFloat(token[j]) + (bigram != nullptr ? scale * ToFloat(bigram[row * D + j]) : 0.0f);
  }
};

struct SmearForward {
  static constexpr int kLanes = kRowLanes;
  int64_t N, D;
  const float* gate;      // [D], before the sigmoid
  const int32_t* joined;  // [N]: 1 where the position before is seen, else 0
  const float* x1;
  float* x0;

  double bytes() const { return static_cast<double>(N * D * 8); }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    const float* x = x1 + row * D;
    for (int64_t j = lanes.first(); j < D; j += lanes.count()) {
      const float before = joined[row] ? x[j - D] : 0.0f;
      x0[row * D + j] = formula::Smear(formula::Sigmoid(gate[j]), x[j], before);
    }
  }
};

// The gradient of x0 is dx0 + dx: what blocks' mixes gave back, and what went through the first block.
template <class T>
struct EmbedBackward {
  static constexpr int kLanes = kRowLanes;
  Slabs rows;
  int64_t D;
  const float* gate;
  const int32_t* joined;
  const float* x1;
  const float* inverse_norms;
  const float* dx0;
  const float* dx;
  const T* bigram = nullptr;  // [N, D], where its scale has a gradient of its own
  T* ds;                      // [N, D]
  float* partials;            // [slabs, 2, D]: of the gate; of the bigram's scale, by columns

  double bytes() const { return static_cast<double>(rows.N * D * (12 + int64_t{sizeof(T)} * (bigram != nullptr ? 2 : 1))); }
  int64_t units() const { return rows.slabs; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t slab) const {
    float* dgate = partials + slab * 2 * D;
    for (int64_t j = lanes.first(); j < D; j += lanes.count()) dgate[j] = dgate[D + j] = 0;
    for (int64_t row = rows.first(slab); row < rows.first(slab + 1); ++row) {
      float product = 0;
      for (int64_t j = lanes.first(); j < D; j += lanes.count()) {
        const float x = x1[row * D + j], before = joined[row] ? x1[(row - 1) * D + j] : 0.0f;
        const float g = formula::Sigmoid(gate[j]), d = dx0[row * D + j] + dx[row * D + j];
        dgate[j] += d * (before - x) * (g * (1.0f - g));
        product += Through(row, j) * x;
      }
      const float mean = lanes.Sum(product) / static_cast<float>(D), r = inverse_norms[row];
      for (int64_t j = lanes.first(); j < D; j += lanes.count()) {
        const int64_t at = row * D + j;
        const float d = formula::RmsGradient(Through(row, j), x1[at], r, mean);
        ds[at] = To<T>(d);
        if (bigram != nullptr) dgate[D + j] += d * ToFloat(bigram[at]);
      }
    }
  }

 private:
  // The gradient of x1.
  FAIRWAY_BODY float Through(int64_t row, int64_t j) const {
    const int64_t at = row * D + j;
    const float after = row + 1 < rows.N && joined[row + 1] ? dx0[at + D] + dx[at + D] : 0.0f;
    return formula::Smear(formula::Sigmoid(gate[j]), dx0[at] + dx[at], after);
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

template <class T>
struct SmearGateForward {
  static constexpr int kLanes = kRowLanes;
  SmearGate<T> in;
  float* x0;             // [N, D]
  float* gates;          // [N]; 0 where a row is joined to none
  float* inverse_norms;  // [N]

  double bytes() const { return static_cast<double>(in.N * in.D * (2 * int64_t{sizeof(T)} + 4)); }
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
    for (int64_t j = lanes.first(); j < in.D; j += lanes.count()) x0[row * in.D + j] = Sum(own, before, c, j) * r;
  }

 private:
  FAIRWAY_BODY static float Sum(const T* own, const T* before, float c, int64_t j) {
    return ToFloat(own[j]) + (before != nullptr ? c * ToFloat(before[j]) : 0.0f);
  }
};

// The gradient of x0 is dx0 + dx, as in EmbedBackward.
template <class T>
struct SmearGateBackward {
  static constexpr int kLanes = kRowLanes;
  Slabs rows;
  SmearGate<T> in;
  const float* x0;
  const float* gates;
  const float* inverse_norms;
  float* dx0;        // becomes the gradient of the sum before the norm in place
  const float* dx;
  float* dlogits;    // [N], of w . e[:window]
  float* partials;   // [slabs, window + 1]: of w, and of lambda

  double bytes() const { return static_cast<double>(in.N * in.D * (16 + int64_t{sizeof(T)})); }
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
      for (int64_t at = row * D + lanes.first(); at < (row + 1) * D; at += lanes.count()) product += (dx0[at] + dx[at]) * x0[at];
      const float mean = lanes.Sum(product) / static_cast<float>(D), r = inverse_norms[row];
      float dc = 0;
      for (int64_t j = lanes.first(); j < D; j += lanes.count()) {
        const int64_t at = row * D + j;
        const float d = formula::RmsGradient(dx0[at] + dx[at], x0[at], r, mean);
        dx0[at] = d;
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
template <class T>
struct SmearGateInputs {
  static constexpr int kLanes = kRowLanes;
  SmearGate<T> in;
  const float* gates;
  const float* dlogits;
  const float* ds;  // [N, D]
  T* de;            // [N, D]
  float* table;     // gradient of tok_emb, to which that of the token before is added

  double bytes() const { return static_cast<double>(in.N * in.D * (4 + int64_t{sizeof(T)})); }
  int64_t units() const { return in.N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    const int64_t D = in.D;
    const bool seen = row + 1 < in.N && in.joined[row + 1];
    for (int64_t j = lanes.first(); j < D; j += lanes.count()) {
      float d = ds[row * D + j];
      if (seen) d += *in.lambda * gates[row + 1] * ds[(row + 1) * D + j];
      if (j < in.window) d += dlogits[row] * in.w[j];
      de[row * D + j] = To<T>(d);
      if (row == 0 && in.joined[0]) table[*in.before * D + j] += *in.lambda * gates[0] * ds[j];
    }
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
  const T* x;                    // [N, width]
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
      for (int32_t i = p.first; i < p.last; ++i) sum += ToFloat(x[order[i] * width + j]);
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

struct MixNormInput {
  int64_t D;
  const float* x;                      // [N, D]
  const float* x0 = nullptr;           // [N, D]; null: no mix
  const float* mix = nullptr;          // [2, D]
  const float* skip = nullptr;         // [N, D]; null: no skip
  const float* skip_weight = nullptr;  // [D]
  const float* skip_gate = nullptr;    // [D], before the sigmoid; null: no gates

  FAIRWAY_BODY float Xin(int64_t row, int64_t j) const {
    const float own = x[row * D + j];
    if (skip == nullptr) return own;
    const float other = skip_weight[j] * skip[row * D + j];
    return skip_gate != nullptr ? formula::Lerp(other, own, formula::Sigmoid(skip_gate[j])) : own + other;
  }
  FAIRWAY_BODY float Xm(int64_t row, int64_t j) const {
    const float xin = Xin(row, j);
    return x0 != nullptr ? mix[j] * xin + mix[D + j] * x0[row * D + j] : xin;
  }
};

template <class T>
struct MixNormForward {
  static constexpr int kLanes = kRowLanes;
  int64_t N;
  MixNormInput in;
  bool carries_input = false;  // the residual path carries xin, not xm (two lanes)
  float* residual = nullptr;   // [N, D]: what it carries
  T* u;                        // [N, D]

  double bytes() const { return static_cast<double>(N * in.D * (4 * (1 + (in.x0 != nullptr) + (in.skip != nullptr) + (residual != nullptr)) + int64_t{sizeof(T)})); }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    float squares = 0;
    for (int64_t j = lanes.first(); j < in.D; j += lanes.count()) {
      const float xm = in.Xm(row, j);
      squares += xm * xm;
    }
    const float r = InverseRms(lanes.Sum(squares), in.D);
    for (int64_t j = lanes.first(); j < in.D; j += lanes.count()) {
      const float xm = in.Xm(row, j);
      if (residual != nullptr) residual[row * in.D + j] = carries_input ? in.Xin(row, j) : xm;
      u[row * in.D + j] = To<T>(xm * r);
    }
  }
};

template <class T>
struct MixNormBackward {
  static constexpr int kLanes = kRowLanes;
  static constexpr int kSums = 4;
  Slabs rows;
  MixNormInput in;
  bool carries_input = false;
  const T* du;                         // [N, D]
  const float* dresidual = nullptr;    // [N, D]: gradient of what the residual path carries
  const float* dextra = nullptr;       // [N, D]: added to the gradient of x, which other blocks have used too
  const float* dextra_lane = nullptr;  // [N, D]: likewise, of the lane that begins here
  float* dx;                           // [N, D]; may be dresidual
  T* dx_rounded = nullptr;             // [N, D]: the same for products
  float* dx0 = nullptr;                // [N, D]: added to
  float* dskip = nullptr;              // [N, D]: set
  float* partials = nullptr;           // [slabs, 4, D]: of mix0, mix1, skip_weight and skip_gate; with a mix

  double bytes() const { return static_cast<double>(rows.N * in.D * (int64_t{sizeof(T)} * (1 + (dx_rounded != nullptr)) + 4 * (2 + (dresidual != nullptr) + (dextra != nullptr) + (dextra_lane != nullptr) + 3 * (in.x0 != nullptr) + 2 * (in.skip != nullptr)))); }
  int64_t units() const { return rows.slabs; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t slab) const {
    const int64_t D = in.D;
    float* dmix0 = partials + slab * kSums * D;
    float *dmix1 = dmix0 + D, *dweight = dmix1 + D, *dgate = dweight + D;
    if (in.x0 != nullptr)
      for (int64_t j = lanes.first(); j < D; j += lanes.count()) dmix0[j] = dmix1[j] = dweight[j] = dgate[j] = 0;
    for (int64_t row = rows.first(slab); row < rows.first(slab + 1); ++row) {
      float squares = 0, product = 0;
      for (int64_t j = lanes.first(); j < D; j += lanes.count()) {
        const float xm = in.Xm(row, j);
        squares += xm * xm;
        product += ToFloat(du[row * D + j]) * xm;
      }
      const float r = InverseRms(lanes.Sum(squares), D), mean = lanes.Sum(product) * r / static_cast<float>(D);
      for (int64_t j = lanes.first(); j < D; j += lanes.count()) {
        const int64_t at = row * D + j;
        float d = formula::RmsGradient(ToFloat(du[at]), in.Xm(row, j) * r, r, mean);
        const float carried = dresidual != nullptr ? dresidual[at] : 0.0f;
        if (!carries_input) d += carried;
        if (in.x0 != nullptr) {
          dx0[at] += in.mix[D + j] * d;
          dmix0[j] += d * in.Xin(row, j);
          dmix1[j] += d * in.x0[at];
          d *= in.mix[j];
        }
        if (carries_input) d += carried;
        if (in.skip != nullptr) {
          float through = d;
          if (in.skip_gate != nullptr) {
            const float g = formula::Sigmoid(in.skip_gate[j]);
            dgate[j] += d * (in.x[at] - in.skip_weight[j] * in.skip[at]) * (g * (1.0f - g));
            through = (1.0f - g) * d;
            d *= g;
          }
          dskip[at] = in.skip_weight[j] * through;
          dweight[j] += through * in.skip[at];
        }
        if (dextra != nullptr) d += dextra[at];
        if (dextra_lane != nullptr) d += dextra_lane[at];
        dx[at] = d;
        if (dx_rounded != nullptr) dx_rounded[at] = To<T>(d);
      }
    }
  }
};

// --- ops/lanes.h

template <class T>
struct LanesInput {
  int64_t D;
  const float* resid;  // [lane]
  const float* post;   // [source, lane]
  const float* lane0;  // [N, D], as all of these
  const float* lane1;
  const T* a;
  const T* m;
  // Behind the last visit the lanes become one stream again: share0 of lane 0, and the rest of lane 1.
  bool last;
  float share0;
};

template <class T>
struct LanesForward {
  static constexpr int kLanes = kRowLanes;
  int64_t N;
  LanesInput<T> in;
  float* out0;  // lane 0; behind the last visit the stream
  float* out1;  // lane 1; behind the last visit not written

  double bytes() const { return static_cast<double>(N * in.D * (2 * int64_t{sizeof(T)} + 4 * (in.last ? 3 : 4))); }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    for (int64_t at = row * in.D + lanes.first(); at < (row + 1) * in.D; at += lanes.count()) {
      const float l0 = in.lane0[at], l1 = in.lane1[at], a = ToFloat(in.a[at]), m = ToFloat(in.m[at]);
      const float x0 = in.resid[0] * l0 + in.post[0] * a + in.post[2] * m, x1 = in.resid[1] * l1 + in.post[1] * a + in.post[3] * m;
      out0[at] = in.last ? in.share0 * x0 + (1.0f - in.share0) * x1 : x0;
      if (!in.last) out1[at] = x1;
    }
  }
};

template <class T>
struct LanesBackward {
  static constexpr int kLanes = kRowLanes;
  static constexpr int kSums = 6;
  Slabs rows;
  LanesInput<T> in;
  float* d0;        // gradients of both lanes behind the visit; they become those before it. Behind the last visit,
  float* d1;        // d0 is the stream's gradient, and d1 is only written
  T* da;
  T* dm;
  float* partials;  // [slabs, 6]: of resid [lane], and of post [source, lane]

  double bytes() const { return static_cast<double>(rows.N * in.D * (4 * int64_t{sizeof(T)} + 4 * (in.last ? 5 : 6))); }
  int64_t units() const { return rows.slabs; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t slab) const {
    float r0 = 0, r1 = 0, a0 = 0, a1 = 0, m0 = 0, m1 = 0;
    const int64_t end = rows.first(slab + 1) * in.D;
    for (int64_t at = rows.first(slab) * in.D + lanes.first(); at < end; at += lanes.count()) {
      const float whole = d0[at], x0 = in.last ? in.share0 * whole : whole, x1 = in.last ? (1.0f - in.share0) * whole : d1[at];
      const float a = ToFloat(in.a[at]), m = ToFloat(in.m[at]);
      r0 += x0 * in.lane0[at];
      r1 += x1 * in.lane1[at];
      a0 += x0 * a;
      a1 += x1 * a;
      m0 += x0 * m;
      m1 += x1 * m;
      da[at] = To<T>(in.post[0] * x0 + in.post[1] * x1);
      dm[at] = To<T>(in.post[2] * x0 + in.post[3] * x1);
      d0[at] = in.resid[0] * x0;
      d1[at] = in.resid[1] * x1;
    }
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
    float squares = 0;
    for (int64_t i = lanes.first(); i < d; i += lanes.count()) squares += ToFloat(x[i]) * ToFloat(x[i]);
    const float r = InverseRms(lanes.Sum(squares), d), g = head < heads.H ? gain[head] : 1.0f;
    for (int64_t i = lanes.first(); i < half; i += lanes.count()) {
      const float x1 = ToFloat(x[i]) * r, x2 = ToFloat(x[half + i]) * r;
      out[i] = To<T>(g * (x1 * cos[i] + x2 * sin[i]));
      out[half + i] = To<T>(g * (x2 * cos[i] - x1 * sin[i]));
    }
    for (int64_t i = 2 * half + lanes.first(); i < d; i += lanes.count()) out[i] = To<T>(g * (ToFloat(x[i]) * r));
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
  const float* dv_exclusive;  // [N, Hkv d]: of the values from elsewhere; null: none
  T* dqkv;                    // [N, (H + 2 Hkv) d]
  float* partials;            // [slabs, H]: of the gain

  FAIRWAY_BODY int64_t all() const { return heads.H + 2 * heads.Hkv; }
  double bytes() const { return static_cast<double>(rows.N * heads.d * (int64_t{sizeof(T)} * (3 * heads.H + 5 * heads.Hkv) + (dv_exclusive != nullptr ? 4 * heads.Hkv : 0))); }
  int64_t units() const { return rows.slabs * all(); }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const int64_t slab = unit / all(), head = unit % all(), d = heads.d, half = heads.rotated / 2, H = heads.H, Hkv = heads.Hkv;
    float dgain = 0;
    for (int64_t row = rows.first(slab); row < rows.first(slab + 1); ++row) {
      T* out = dqkv + row * heads.stride() + head * d;
      if (head >= H + Hkv) {
        const int64_t from = (row * Hkv + head - H - Hkv) * d;
        for (int64_t i = lanes.first(); i < d; i += lanes.count())
          out[i] = To<T>(ToFloat(dv[from + i]) + (dv_exclusive != nullptr ? dv_exclusive[from + i] : 0.0f));
        continue;
      }
      const T* x = qkv + row * heads.stride() + head * d;
      const T* dx = head < H ? dq + (row * H + head) * d : dk + (row * Hkv + head - H) * d;
      const float *cos = heads.cos + heads.positions[row] * half, *sin = heads.sin + heads.positions[row] * half;
      float squares = 0, product = 0;
      for (int64_t i = lanes.first(); i < half; i += lanes.count()) {
        const float x1 = ToFloat(x[i]), x2 = ToFloat(x[half + i]), d1 = ToFloat(dx[i]), d2 = ToFloat(dx[half + i]);
        squares += x1 * x1 + x2 * x2;
        product += (d1 * cos[i] - d2 * sin[i]) * x1 + (d1 * sin[i] + d2 * cos[i]) * x2;
      }
      for (int64_t i = 2 * half + lanes.first(); i < d; i += lanes.count()) {
        squares += ToFloat(x[i]) * ToFloat(x[i]);
        product += ToFloat(dx[i]) * ToFloat(x[i]);
      }
      const float r = InverseRms(lanes.Sum(squares), d), g = head < H ? gain[head] : 1.0f;
      const float along = lanes.Sum(product) * r, mean = g * along / static_cast<float>(d);
      dgain += along;
      for (int64_t i = lanes.first(); i < half; i += lanes.count()) {
        const float d1 = ToFloat(dx[i]), d2 = ToFloat(dx[half + i]);
        out[i] = To<T>(formula::RmsGradient(g * (d1 * cos[i] - d2 * sin[i]), ToFloat(x[i]) * r, r, mean));
        out[half + i] = To<T>(formula::RmsGradient(g * (d1 * sin[i] + d2 * cos[i]), ToFloat(x[half + i]) * r, r, mean));
      }
      for (int64_t i = 2 * half + lanes.first(); i < d; i += lanes.count())
        out[i] = To<T>(formula::RmsGradient(g * ToFloat(dx[i]), ToFloat(x[i]) * r, r, mean));
    }
    if (head < H && lanes.first() == 0) partials[slab * H + head] = dgain;
  }
};

// --- ops/xsa.h

// The value head of a row, for the two below. A unit is a row and a key/value head.
template <class T>
struct ValueHead {
  int64_t row, kv;
  const T* v;
  bool tiny;
  float inverse;  // of the norm that exclusive self attention divides by

  template <class Lanes>
  FAIRWAY_BODY ValueHead(const Lanes& lanes, const Heads& heads, const T* qkv, int64_t unit)
      : row(unit / heads.Hkv),
        kv(unit % heads.Hkv),
        v(qkv + row * heads.stride() + (heads.H + heads.Hkv + kv) * heads.d),
        tiny(false),
        inverse(0) {
    float squares = 0;
    for (int64_t i = lanes.first(); i < heads.d; i += lanes.count()) squares += ToFloat(v[i]) * ToFloat(v[i]);
    const float norm = sqrtf(lanes.Sum(squares));
    tiny = !(norm > formula::kXsaEpsilon);
    inverse = 1.0f / (tiny ? formula::kXsaEpsilon : norm);
  }
  // y . n
  template <class Lanes>
  FAIRWAY_BODY float Along(const Lanes& lanes, const T* y, int64_t d) const {
    float sum = 0;
    for (int64_t i = lanes.first(); i < d; i += lanes.count()) sum += ToFloat(y[i]) * ToFloat(v[i]);
    return lanes.Sum(sum) * inverse;
  }
};

template <class T>
struct XsaForward {
  static constexpr int kLanes = kHeadLanes;
  int64_t N;
  Heads heads;
  const T* qkv;
  const T* y;  // [N, H d]
  T* out;      // [N, H d]

  double bytes() const { return static_cast<double>(N * heads.d * int64_t{sizeof(T)} * (2 * heads.H + heads.Hkv)); }
  int64_t units() const { return N * heads.Hkv; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const ValueHead<T> value(lanes, heads, qkv, unit);
    const int64_t d = heads.d, group = heads.H / heads.Hkv;
    for (int64_t head = value.kv * group; head < (value.kv + 1) * group; ++head) {
      const int64_t at = (value.row * heads.H + head) * d;
      const float along = value.Along(lanes, y + at, d);
      for (int64_t i = lanes.first(); i < d; i += lanes.count())
        out[at + i] = To<T>(formula::Exclude(ToFloat(y[at + i]), along, ToFloat(value.v[i]) * value.inverse));
    }
  }
};

// With c = y . n and e = g . n: dy = g - e n, dn = -sum over heads of (c g + e y), and so dn . n = -2 sum of c e;
// dv = (dn - (dn . n) n) / |v|, without the second term below the least norm, where n is linear in v.
template <class T>
struct XsaBackward {
  static constexpr int kLanes = kHeadLanes;
  int64_t N;
  Heads heads;
  const T* qkv;
  const T* y;
  T* out;     // computed again: the output projection's gradient needs it
  T* dout;    // becomes dy in place
  float* dv;  // [N, Hkv d]

  double bytes() const { return static_cast<double>(N * heads.d * (int64_t{sizeof(T)} * (4 * heads.H + heads.Hkv) + 4 * heads.Hkv)); }
  int64_t units() const { return N * heads.Hkv; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const ValueHead<T> value(lanes, heads, qkv, unit);
    const int64_t d = heads.d, group = heads.H / heads.Hkv;
    float* dn = dv + unit * d;
    for (int64_t i = lanes.first(); i < d; i += lanes.count()) dn[i] = 0;
    float dn_along = 0;
    for (int64_t head = value.kv * group; head < (value.kv + 1) * group; ++head) {
      const int64_t at = (value.row * heads.H + head) * d;
      const float c = value.Along(lanes, y + at, d), e = value.Along(lanes, dout + at, d);
      dn_along -= 2.0f * c * e;
      for (int64_t i = lanes.first(); i < d; i += lanes.count()) {
        const float n = ToFloat(value.v[i]) * value.inverse, from = ToFloat(y[at + i]), g = ToFloat(dout[at + i]);
        dn[i] -= c * g + e * from;
        out[at + i] = To<T>(formula::Exclude(from, c, n));
        dout[at + i] = To<T>(formula::Exclude(g, e, n));
      }
    }
    if (value.tiny) dn_along = 0;
    for (int64_t i = lanes.first(); i < d; i += lanes.count())
      dn[i] = formula::Exclude(dn[i], dn_along, ToFloat(value.v[i]) * value.inverse) * value.inverse;
  }
};

// --- ops/attention_gate.h

template <class T>
struct AttentionGate {
  int64_t D, H, d, window;
  float scale;     // what is folded into the input elsewhere included
  const float* w;  // [H, window]
  const T* u;      // [N, D]; for the heads alone null
};

// A unit of the next three is a head of a row.
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

template <class T>
struct GateHeads {
  static constexpr int kLanes = kHeadLanes;
  int64_t N, H, d;
  const float* gates;
  const T* y;  // [N, H d]
  T* out;      // may be y

  double bytes() const { return static_cast<double>(2 * N * H * d * int64_t{sizeof(T)}); }
  int64_t units() const { return N * H; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    for (int64_t i = unit * d + lanes.first(); i < (unit + 1) * d; i += lanes.count()) out[i] = To<T>(gates[unit] * ToFloat(y[i]));
  }
};

template <class T>
struct GateHeadsBackward {
  static constexpr int kLanes = kHeadLanes;
  int64_t N, H, d;
  float scale;
  const float* gates;
  const T* y;
  T* out;          // computed again; may be y
  T* dout;         // becomes dy in place
  float* dlogits;  // [N, H], of w_h . u, `scale` included

  double bytes() const { return static_cast<double>(4 * N * H * d * int64_t{sizeof(T)}); }
  int64_t units() const { return N * H; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t unit) const {
    const float g = gates[unit];
    float product = 0;
    for (int64_t i = unit * d + lanes.first(); i < (unit + 1) * d; i += lanes.count()) {
      const float own = ToFloat(y[i]), down = ToFloat(dout[i]);
      product += own * down;
      out[i] = To<T>(g * own);
      dout[i] = To<T>(g * down);
    }
    product = lanes.Sum(product);
    if (lanes.first() == 0) dlogits[unit] = product * g * (1.0f - g) * scale;
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

// --- ops/relu2.h

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
    for (int64_t i = row * F + lanes.first(); i < (row + 1) * F; i += lanes.count()) a[i] = To<T>(formula::Relu2(ToFloat(h[i]), negative));
  }
};

template <class T>
struct Relu2Backward {
  static constexpr int kLanes = kRowLanes;
  int64_t N, F;
  float negative;
  const T* h;
  T* a;   // computed again
  T* da;  // becomes dh in place

  double bytes() const { return static_cast<double>(4 * N * F * int64_t{sizeof(T)}); }
  int64_t units() const { return N; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t row) const {
    for (int64_t i = row * F + lanes.first(); i < (row + 1) * F; i += lanes.count()) {
      const float x = ToFloat(h[i]);
      a[i] = To<T>(formula::Relu2(x, negative));
      da[i] = To<T>(ToFloat(da[i]) * formula::Relu2Slope(x, negative));
    }
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
    for (int64_t v = lanes.first(); v < V; v += lanes.count()) {
      const float z = formula::Softcap(logit[v], cap);
      largest = z > largest ? z : largest;
    }
    largest = lanes.Max(largest);
    float sum = 0;
    for (int64_t v = lanes.first(); v < V; v += lanes.count()) sum += formula::Exp(formula::Softcap(logit[v], cap) - largest);
    sum = lanes.Sum(sum);
    if (lanes.first() == 0) losses[row] = logf(sum) + largest - capped;
    if (dlogits == nullptr) return;
    for (int64_t v = lanes.first(); v < V; v += lanes.count()) {
      const float z = formula::Softcap(logit[v], cap), p = formula::Exp(z - largest) / sum;
      dlogits[row * V + v] = To<T>(share * (v == target ? p - 1.0f : p) * formula::SoftcapSlope(z, cap));
    }
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

// sums[j] += rows' values in column j; the rows are `stride` apart.
struct AddColumns {
  static constexpr int kLanes = kRowLanes;
  int64_t rows, stride, columns;
  const float* values;
  float* sums;

  double bytes() const { return static_cast<double>(rows * columns * 4); }
  int64_t units() const { return columns; }
  template <class Lanes>
  FAIRWAY_BODY void operator()(const Lanes& lanes, int64_t column) const {
    float sum = 0;
    for (int64_t row = lanes.first(); row < rows; row += lanes.count()) sum += values[row * stride + column];
    sum = lanes.Sum(sum);
    if (lanes.first() == 0) sums[column] += sum;
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
    EmbedForward<float>, EmbedForward<BFloat16>, SmearForward, EmbedBackward<float>, EmbedBackward<BFloat16>, SmearGateForward<float>,
    SmearGateForward<BFloat16>, SmearGateBackward<float>, SmearGateBackward<BFloat16>, SmearGateInputs<float>, SmearGateInputs<BFloat16>,
    ScatterPieces<float>, ScatterPieces<BFloat16>, JoinPieces, MixNormForward<float>, MixNormForward<BFloat16>, MixNormBackward<float>,
    MixNormBackward<BFloat16>, LanesForward<float>, LanesForward<BFloat16>, LanesBackward<float>, LanesBackward<BFloat16>, QkForward<float>,
    QkForward<BFloat16>, QkBackward<float>, QkBackward<BFloat16>, XsaForward<float>, XsaForward<BFloat16>, XsaBackward<float>,
    XsaBackward<BFloat16>, AttentionGates<float>, AttentionGates<BFloat16>, GateHeads<float>, GateHeads<BFloat16>, GateHeadsBackward<float>,
    GateHeadsBackward<BFloat16>, AttentionGatesBackward<float>, AttentionGatesBackward<BFloat16>, Relu2Forward<float>,
    Relu2Forward<BFloat16>, Relu2Backward<float>, Relu2Backward<BFloat16>, CrossEntropy<float>, CrossEntropy<BFloat16>, PrepareRows<float>,
    PrepareRows<BFloat16>, FinishRows, AddColumns, MuonMomentum, MuonUpdate>;

}  // namespace fairway::cuda
