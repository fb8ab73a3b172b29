// From a set of weights to codes and scales: every tensor of a checkpoint takes the form of pull request 531.
#pragma once

#include <array>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "common/checkpoint/checkpoint.h"
#include "common/quantise/coded.h"
#include "common/quantise/quantiser.h"
#include "common/quantise/steps.h"
#include "common/settings/settings.h"

namespace fairway {

// What became of one tensor.
struct ExportedTensor {
  std::string name;
  std::string form;  // "int5", "int6", "int8"; "float16", "float32" where it was kept
  int64_t numel = 0;
  uint64_t bytes = 0;  // of its payload, scales included
  bool coded = false;
  double entropy_bits = 0;                                 // bits per code (order 0), of codes
  double step_width = 0;                                   // of rtn and gptq: the geometric mean over all elements
  double squared_error = 0;                                // sum of (weight - what comes back)^2
  double squared_norm = 0;                                 // sum of weight^2
  std::array<int64_t, kClipPercentiles.size()> wins = {};  // rows won by each percentile

  int64_t rows_searched() const { return std::accumulate(wins.begin(), wins.end(), int64_t{0}); }
  double mean_squared_error() const { return numel == 0 ? 0 : squared_error / numel; }
  double relative_error() const;  // sqrt(squared_error / squared_norm); 0 for zeros
};

// Writes every tensor of `weights` to `out`: codes as NAME.q (int8, one per byte) with scales NAME.scale (float16, one a
// row), kept ones under their own name. Throws InputError naming the tensor where a weight is not finite or float16
// cannot hold it or its row's scale. REQUIRES: settings.quantiser is `published`.
std::vector<ExportedTensor> ExportWeights(const TensorSource& weights, const Settings& settings,
                                          TensorSink& out);

// The same on uniform steps of the given size (steps.h), with factors NAME.column (float16, one per column) where columns differ:
// rounded with feedback where the calibration has it for the matrix, else to the nearest code.
std::vector<ExportedTensor> ExportWeights(const TensorSource& weights, const Settings& settings, const Calibration& calibration,
                                          double step, TensorSink& out);

// The same of a quantiser that has coded the matrices already (coded.h): `coded` are written as they are, corrections as the codes
// NAME.lqA and NAME.lqB of two factors with their scales; all other tensors are kept.
std::vector<ExportedTensor> ExportWeights(const TensorSource& weights, const Settings& settings, const CodedMatrices& coded,
                                          TensorSink& out);

// A step of about `budget` bytes, were rows Gaussian: where a search begins.
double GuessStep(const TensorSource& weights, const Settings& settings, const Calibration& calibration, uint64_t budget);

// Bytes of memory that a program takes in which ExportWeights does its work, at most: the weights, the largest tensor on its way
// to codes, and the program itself.
double EstimateExport(const TensorSource& weights, const Settings& settings);

// The sum of what happened (its name is empty; entropy_bits is the mean over all codes).
ExportedTensor Total(const std::vector<ExportedTensor>& tensors);

}  // namespace fairway
