// The model of the arithmetic coder: it gives the probability of each decision; the caller encodes the decisions, decodes them or
// only counts their bits. docs/formats.md describes it.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <vector>

#include "common/checkpoint/coder.h"

namespace fairway::coder_model {

// Logarithms to base 2 in units of 1 / kOctave, good to 1% of the number. v > 0.
constexpr int kOctave = 256;
inline int Log2(uint64_t v) {
  const int whole = std::bit_width(v) - 1;
  const int64_t f = static_cast<int64_t>(v << (63 - whole) << 1 >> 48);
  return whole * kOctave + static_cast<int>((f + (f * (65536 - f) >> 16) * 22544 / 65536) >> 8);
}
// 2^(x / kOctave) in units of 2^-16, for results of 2^-16 to 2^16.
inline uint64_t Exp2(int x) {
  x = std::clamp(x, -16 * kOctave, 16 * kOctave);
  const int64_t f = (x & (kOctave - 1)) << 8;
  const int64_t mantissa = 65536 + f - (f * (65536 - f) >> 16) * 22544 / 65536;
  const int whole = x >> 8;
  return whole < 0 ? mantissa >> -whole : mantissa << whole;
}
// Of the float16 of these bits, its sign left out.
inline int Log2OfHalf(uint16_t bits) {
  const uint64_t exponent = bits >> 10 & 31, mantissa = bits & 1023;
  return Log2(std::max<uint64_t>(exponent == 0 ? mantissa : (1024 + mantissa) << (exponent - 1), 1)) - 24 * kOctave;
}

// Probabilities are in units of 2^-16, their logits ln(p / (1 - p)) in units of 1 / 256.
struct LogitTables {
  static constexpr int kLargest = 3071;
  std::array<uint16_t, 2 * kLargest + 1> squash;
  std::array<int16_t, 4096> stretch;  // by the upper 12 bits of a probability
  std::array<int32_t, 251> rate;      // 1 / (n + 1.5)

  LogitTables() {
    uint64_t power = 1ull << 32;  // exp(-x), x in steps of 1 / 256
    for (int x = 0; x <= kLargest; ++x, power = power * 4278222845 >> 32) {
      const auto p = static_cast<uint16_t>(std::min<uint64_t>((1ull << 48) / ((1ull << 32) + power), 65535));
      squash[kLargest + x] = p;
      squash[kLargest - x] = std::max(65536 - p, 1);
    }
    for (int p = 0, x = -kLargest; p < 4096; ++p) {
      while (x < kLargest && squash[kLargest + x] < 16 * p + 8) ++x;
      stretch[p] = static_cast<int16_t>(x);
    }
    for (int n = 0; n < 251; ++n) rate[n] = 131072 / (2 * n + 3);
  }
};
inline const LogitTables kLogits;

// The probability of a 1 at one place of a continuous context, and how much has been seen there, in 64ths.
struct Slot {
  uint16_t p, n;
};

// Two neighbouring slots, weighted by how near the context is to each.
struct Between {
  Slot* slots;
  int weight;  // of slots[1], 0 to 63

  int p() const { return (slots[0].p * (64 - weight) + slots[1].p * weight) >> 6; }
  void Learn(bool bit) const {
    for (int i = 0; i < 2; ++i) {
      const int w = i == 0 ? 64 - weight : weight;
      const int64_t rate = kLogits.rate[slots[i].n >> 6] * w >> 6;
      slots[i].p = static_cast<uint16_t>(slots[i].p + (((bit ? 65535 : 0) - slots[i].p) * rate >> 16));
      slots[i].n = static_cast<uint16_t>(std::min(slots[i].n + w, 250 * 64));
    }
  }
};

// A code is coded as: is it 0; of its magnitude less 1, with a shift by the expected magnitude, the high part in unary and then the
// low bits; its sign. `Coder` takes each decision and the probability of a 1, in units of 2^-16, and returns the decision.
template <typename Coder>
class Model {
 public:
  explicit Model(Coder& coder) : coder_(coder) {
    // The distribution to begin with is that of rounded Laplace variables: a magnitude of at least n has probability t^(2n - 1).
    for (int bucket = 0; bucket <= kBuckets; ++bucket) {
      const uint64_t mean = Exp2((bucket - kBuckets / 2) * kOctave / kPerOctave);
      uint64_t t = 0;  // the largest of mean magnitude t / (1 - t^2) <= mean
      for (uint64_t bit = 32768; bit > 0; bit /= 2)
        if ((t + bit) << 16 <= mean * (65536 - ((t + bit) * (t + bit) >> 16))) t += bit;
      const auto set = [&](int node, uint64_t p) {
        for (int input = 0; input < kTables; ++input)
          slots_[(input * kNodes + node) * (kBuckets + 1) + bucket] = {static_cast<uint16_t>(std::clamp<uint64_t>(p, 128, 65408)), 3 * 64};
      };
      set(0, t);
      uint64_t more = t * t >> 16;
      for (int shift = 0; shift < kShifts; ++shift, more = more * more >> 16) {
        for (int i = 0; i < kUnary; ++i) set(UnaryNode(shift, i), more);
        for (int i = 0; i < kLow; ++i) set(LowNode(shift, i), 32768);
      }
    }
    for (auto& weights : weights_) weights.fill(65536 / kInputs);
    for (int i = 0; i < kSigns; ++i)
      signs_[i] = {kLogits.squash[LogitTables::kLargest + 64 * i], static_cast<uint16_t>(i == 0 ? 250 * 64 : 20 * 64)};
  }

  void Code(const CodeMatrix& matrix) {
    const int64_t columns = matrix.columns;
    if (matrix.rows == 0 || columns == 0) return;
    const int first = Log2OfHalf(matrix.scales[0]);
    const bool fresh = static_cast<int64_t>(columns_.size()) != columns;
    if (fresh) columns_.assign(columns, {.log_weight = first + kOctave});
    rows_seen_ = fresh ? 0 : rows_seen_ / 8;
    for (int64_t j = 0; j < columns; ++j) {
      Column& column = columns_[j];
      const uint16_t factor = matrix.factors.empty() ? 0x3c00 : matrix.factors[j];
      column.log_factor = Log2OfHalf(factor) + first;
      column.size = Exp2(column.log_weight - column.log_factor);
      column.mean = 0;
      column.factor_class = factor >> 8 & 3;
      column.Derive();
    }
    for (int64_t row = 0; row < matrix.rows; ++row)
      CodeRow(matrix.codes + row * columns, Exp2(first - Log2OfHalf(matrix.scales[row])), (matrix.scales[row] >> 8 & 7) * 4);
  }

 private:
  static constexpr int kPerOctave = 3, kBuckets = 48;  // of expected magnitudes, from 2^-8 to 2^8
  static constexpr int kInputs = 2, kTables = 1 + 32;
  static constexpr int kShifts = 5, kUnary = 16, kLow = 8, kNodes = 1 + kShifts * (kUnary + kLow), kSigns = 18;
  static constexpr int UnaryNode(int shift, int i) { return 1 + shift * kUnary + std::min(i, kUnary - 1); }
  static constexpr int LowNode(int shift, int i) { return 1 + kShifts * kUnary + shift * kLow + std::min(i, kLow - 1); }

  // What is known of a column: magnitudes and mean of its codes over the level of their rows.
  struct Column {
    int64_t size = 65536, mean = 0;  // in units of 2^-16
    int log_weight = 0, log_size = 0, log_factor = 0, factor_class = 0;
    int64_t inverse = 0, tilt = 0;  // 1 / size in units of 2^-12; 1.28 mean / size^2 in units of 2^-8

    void Derive() {
      size = std::clamp<int64_t>(size, 1 << 8, 1 << 24);
      log_size = Log2(size) - 16 * kOctave;
      log_weight = log_size + log_factor;
      inverse = (1 << 28) / size;
      tilt = std::clamp<int64_t>(mean * 21474836 / (size * size), -(1 << 20), 1 << 20);
    }
  };

  // `level`: the magnitude to expect in a column of size 1, in units of 2^-16.
  void CodeRow(int8_t* codes, uint64_t level, int row_class) {
    level = std::clamp<uint64_t>(level >> 4, 4, 1 << 28);  // from here on in units of 2^-12
    const int log_level = Log2(level) - 12 * kOctave;
    const auto tilt_scale = static_cast<int64_t>((1 << 24) / level);
    const auto columns = static_cast<int64_t>(columns_.size());
    // The row's magnitudes so far over their columns' sizes; what was expected counts as eight of them.
    uint64_t sum = 8 * level;
    for (int64_t j = 0; j < columns; ++j) {
      const Column& column = columns_[j];
      const int expected = log_level + column.log_size;
      inputs_[0] = InputOf(0, column.log_size + Log2(sum) - Log2(j + 8) - 12 * kOctave);
      inputs_[1] = InputOf(1 + row_class + column.factor_class, expected);
      const int code = CodeOne(codes[j], std::clamp((expected - 160) >> 8, 0, kShifts - 1), column.tilt, tilt_scale);
      codes[j] = static_cast<int8_t>(code);
      sum += std::abs(code) * column.inverse;
    }
    const auto over_level = static_cast<int64_t>((1 << 28) / level);
    rows_seen_ = std::min(rows_seen_ + 1, 80);
    for (int64_t j = 0; j < columns; ++j) {
      Column& column = columns_[j];
      const int64_t value = std::clamp<int64_t>(codes[j] * over_level, -(1 << 25), 1 << 25);
      column.size += (std::abs(value) - column.size) / (rows_seen_ + 3);
      column.mean += (value - column.mean) / (rows_seen_ + 8);
      column.Derive();
    }
  }

  int CodeOne(int code, int shift, int64_t tilt, int64_t tilt_scale) {
    if (!Bit(0, code != 0)) return 0;
    int magnitude = std::abs(code) - 1, high = 0;  // of the decoder: not known yet
    const int upper = magnitude >> shift;
    while (high < (127 >> shift) && Bit(UnaryNode(shift, high), high < upper)) ++high;
    int value = high;
    for (int bit = shift - 1; bit >= 0; --bit) {
      const bool one = magnitude >> bit & 1;
      value = value * 2 + (bit == shift - 1 ? Bit(LowNode(shift, high), one) : coder_.Code(one, 32768));
    }
    magnitude = value + 1;
    // Of normal variables of mean m and deviation s, the positive one of magnitude x is exp(2 m x / s^2) times as likely.
    const int64_t place = std::min(std::abs(tilt) * magnitude * tilt_scale >> 12, int64_t{64 * (kSigns - 1) - 1});
    const Between sign{&signs_[place >> 6], static_cast<int>(place & 63)};
    const bool along = coder_.Code((code < 0) == (tilt < 0), std::clamp(sign.p(), 64, 65472));
    sign.Learn(along);
    return along == (tilt < 0) ? -magnitude : magnitude;
  }

  struct Input {
    int table, bucket, weight;
  };
  static Input InputOf(int table, int x) {
    const int place = std::clamp(x * kPerOctave * 64 / kOctave + kBuckets * 32, 0, kBuckets * 64 - 1);
    return {table, place >> 6, place & 63};
  }

  // Logistic mixing: the inputs' logits are added with weights that follow the gradient of the code's length.
  bool Bit(int node, bool bit) {
    std::array<Between, kInputs> slots;
    std::array<int, kInputs> logits;
    int64_t sum = 0;
    for (int i = 0; i < kInputs; ++i) {
      const Input& input = inputs_[i];
      slots[i] = {&slots_[(input.table * kNodes + node) * (kBuckets + 1) + input.bucket], input.weight};
      logits[i] = kLogits.stretch[slots[i].p() >> 4];
      sum += int64_t{logits[i]} * weights_[node][i];
    }
    const int p = kLogits.squash[LogitTables::kLargest + std::clamp<int64_t>(sum >> 16, -LogitTables::kLargest, LogitTables::kLargest)];
    bit = coder_.Code(bit, p);
    const int error = (bit ? 65536 : 0) - p;
    for (int i = 0; i < kInputs; ++i) {
      weights_[node][i] = std::clamp(weights_[node][i] + ((logits[i] * error + 32768) >> 16), -(1 << 20), 1 << 20);
      slots[i].Learn(bit);
    }
    return bit;
  }

  Coder& coder_;
  std::vector<Slot> slots_ = std::vector<Slot>(kTables * kNodes * (kBuckets + 1));
  std::array<std::array<int, kInputs>, kNodes> weights_;
  std::array<Slot, kSigns> signs_;
  std::array<Input, kInputs> inputs_;
  std::vector<Column> columns_;
  int rows_seen_ = 0;
};

}  // namespace fairway::coder_model
