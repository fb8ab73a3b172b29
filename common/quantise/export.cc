#include "common/quantise/export.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <span>

#include "common/base/error.h"
#include "common/base/text.h"

namespace fairway {
namespace {

class Exporter {
 public:
  Exporter(const CheckpointReader& weights, const Settings& settings, CheckpointWriter& out)
      : weights_(weights), settings_(settings), out_(out) {}

  ExportedTensor Export(const TensorInfo& info) {
    if (!IsFloatingPoint(info.dtype)) return Copy(info);
    const std::vector<float> values = weights_.Floats(info.name);
    ExportedTensor report{.name = info.name, .numel = info.numel()};
    for (size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(values[i])) Refuse(info, StringPrintf("element %zu is not a finite number", i));
      report.squared_norm += static_cast<double>(values[i]) * values[i];
    }
    // Scales go by row, so only matrices have a grid.
    std::optional<Grid> grid;
    if (info.shape.size() == 2) grid = ExportGrid(info.name, info.shape[0], info.shape[1], settings_);
    if (grid) {
      Encode(info, values, *grid, report);
    } else {
      Keep(info, values, report);
    }
    return report;
  }

 private:
  [[noreturn]] void Refuse(const TensorInfo& info, const std::string& cause) const {
    throw InputError(weights_.path(), "tensor " + info.name + ": " + cause);
  }

  // `made` of `from`: the names of codes and scales are new, and may be too long or another tensor's.
  void Add(const TensorInfo& from, const TensorInfo& made, std::span<const std::byte> data) {
    if (made.name.size() > 255 || !names_.insert(made.name).second)
      Refuse(from, "cannot be exported as " + made.name + ", a name that is too long or another tensor's");
    out_.Add(made, data);
  }
  template <typename T>
  void Add(const TensorInfo& from, const TensorInfo& made, const std::vector<T>& values) {
    Add(from, made, std::as_bytes(std::span<const T>(values)));
  }

  ExportedTensor Copy(const TensorInfo& info) {
    Add(info, info, weights_.Data(info.name));
    return {
        .name = info.name, .form = std::string(DTypeName(info.dtype)), .numel = info.numel(), .bytes = info.bytes()};
  }

  void Encode(const TensorInfo& info, const std::vector<float>& values, const Grid& grid, ExportedTensor& report) {
    const int64_t rows = info.shape[0];
    const QuantisedMatrix matrix = QuantiseMatrix(values, rows, grid, settings_.compat, settings_.ThreadCount());
    for (int64_t row = 0; row < rows; ++row) {
      if (!std::isfinite(HalfToFloat(matrix.scales[row]))) {
        Refuse(info, StringPrintf("row %lld is too large for a float16 scale", static_cast<long long>(row)));
      }
    }
    const TensorInfo scales{.name = info.name + ".scale", .dtype = DType::kFloat16, .shape = {rows}};
    const TensorInfo codes{.name = info.name + ".q",
                           .dtype = DType::kInt8,
                           .shape = info.shape,
                           .quantisation = Quantisation{std::string(grid.name), grid.q_min, grid.q_max, scales.name}};
    Add(info, codes, matrix.codes);
    Add(info, scales, matrix.scales);
    report.form = grid.name;
    report.coded = true;
    report.bytes = codes.bytes() + scales.bytes();
    report.entropy_bits = EntropyBits(matrix.codes);
    report.squared_error = matrix.squared_error;
    report.wins = matrix.wins;
  }

  void Keep(const TensorInfo& info, const std::vector<float>& values, ExportedTensor& report) {
    TensorInfo kept{.name = info.name, .dtype = KeptDType(info.name, info.numel(), settings_), .shape = info.shape};
    report.form = DTypeName(kept.dtype);
    report.bytes = kept.bytes();
    if (kept.dtype == DType::kFloat32) {
      Add(info, kept, values);
      return;
    }
    std::vector<uint16_t> halves(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      halves[i] = FloatToHalf(values[i]);
      const double error = static_cast<double>(HalfToFloat(halves[i])) - values[i];
      if (!std::isfinite(error)) Refuse(info, StringPrintf("element %zu (%g) is too large for float16", i, values[i]));
      report.squared_error += error * error;
    }
    Add(info, kept, halves);
  }

  const CheckpointReader& weights_;
  const Settings& settings_;
  CheckpointWriter& out_;
  std::set<std::string> names_;  // in `out_`
};

}  // namespace

double ExportedTensor::relative_error() const {
  return squared_norm == 0 ? 0 : std::sqrt(squared_error / squared_norm);
}

std::vector<ExportedTensor> ExportWeights(const CheckpointReader& weights, const Settings& settings,
                                          CheckpointWriter& out) {
  Exporter exporter(weights, settings, out);
  std::vector<ExportedTensor> tensors;
  for (const TensorInfo& info : weights.tensors()) tensors.push_back(exporter.Export(info));
  return tensors;
}

double EstimateExport(const CheckpointReader& weights, const Settings& settings) {
  double all = 0, largest = 0;
  for (const TensorInfo& info : weights.tensors()) {
    const double numel = info.numel(), rows = info.shape.empty() ? 1 : info.shape[0];
    all += info.bytes();
    // float32, and beside it codes or float16; what a row's search keeps; a sorted row for each thread.
    largest = std::max(largest, 6 * numel + 160 * rows + (rows > 0 ? 4 * numel / rows : 0) * settings.ThreadCount());
  }
  return all + largest + 48e6;
}

ExportedTensor Total(const std::vector<ExportedTensor>& tensors) {
  ExportedTensor total;
  double code_bits = 0;
  int64_t codes = 0;
  for (const ExportedTensor& tensor : tensors) {
    total.numel += tensor.numel;
    total.bytes += tensor.bytes;
    total.squared_error += tensor.squared_error;
    total.squared_norm += tensor.squared_norm;
    for (size_t i = 0; i < total.wins.size(); ++i) total.wins[i] += tensor.wins[i];
    if (!tensor.coded) continue;
    total.coded = true;
    codes += tensor.numel;
    code_bits += tensor.entropy_bits * tensor.numel;
  }
  if (codes > 0) total.entropy_bits = code_bits / codes;
  return total;
}

}  // namespace fairway
