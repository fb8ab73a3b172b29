// Averages of the weights, kept during training (pull request 531).
#pragma once

#include "common/model/flat.h"

namespace fairway {

// Exponential moving average in float32: avg <- decay * avg + (1 - decay) * weights, beginning with the weights as they are when it is
// made (from_init), or else after the first update.
class Ema {
 public:
  // Works on the memory of `parameters`.
  Ema(const FlatLayout& layout, const FlatTensors& parameters, double decay, bool from_init = false);
  void Update();

  const NamedTensors& values() const { return values_.tensors(); }  // float32; without from_init zeros before the first update
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

 private:
  FlatTensors parameters_, values_;
  double decay_;
  bool from_init_;
  int64_t updates_ = 0;
};

// Sum of snapshots of the weights; ema-finalize divides. Float32; under published_quirks in each weight's storage dtype, as published
// (a quirk of pull request 531).
class Swa {
 public:
  Swa(const NamedTensors& parameters, bool published_quirks);
  void AddSnapshot();

  const NamedTensors& sums() const { return sums_; }
  int64_t snapshots() const { return snapshots_; }
  void set_snapshots(int64_t snapshots) { snapshots_ = snapshots; }

 private:
  NamedTensors parameters_, sums_;
  int64_t snapshots_ = 0;
};

}  // namespace fairway
