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
  // Without a calibration as published.
  Exporter(const TensorSource& weights, const Settings& settings, const Calibration* calibration, double step,
           TensorSink& out)
      : weights_(weights), settings_(settings), calibration_(calibration), step_(step), out_(out) {}
  Exporter(const TensorSource& weights, const Settings& settings, const CodedMatrices& coded, TensorSink& out)
      : weights_(weights), settings_(settings), coded_(&coded), out_(out) {}

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
    if (coded_ != nullptr) {
      const auto found = coded_->find(info.name);
      if (found == coded_->end())
        Keep(info, values, report);
      else
        WriteCoded(info, values, found->second, report);
    } else if (grid && calibration_ != nullptr) {
      EncodeOnSteps(info, values, report);
    } else if (grid) {
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
    const QuantisedMatrix matrix = QuantiseMatrix(values, rows, grid, settings_.published_quirks, settings_.ThreadCount());
    for (int64_t row = 0; row < rows; ++row) {
      if (!std::isfinite(HalfToFloat(matrix.scales[row]))) {
        Refuse(info, StringPrintf("row %jd is too large for a float16 scale", row));
      }
    }
    AddCodes(info, grid, matrix.codes, matrix.scales, {}, report);
    report.squared_error = matrix.squared_error;
    report.wins = matrix.wins;
  }

  void EncodeOnSteps(const TensorInfo& info, const std::vector<float>& values, ExportedTensor& report) {
    const Feedback* const with = calibration_->FeedbackOf(info.name);
    const Steps steps = ChooseSteps(values, info.shape[0], calibration_->CostOf(info.name), with, step_);
    for (size_t row = 0; row < steps.rows.size(); ++row)
      if (!std::isfinite(steps.rows[row])) Refuse(info, StringPrintf("row %zu is too large for a float16 scale", row));
    const int threads = settings_.ThreadCount();
    const RoundedMatrix matrix =
        with != nullptr ? RoundWithFeedback(values, steps, *with, threads) : RoundToSteps(values, steps, threads);
    const auto halves = [](const std::vector<float>& floats) {
      std::vector<uint16_t> result(floats.size());
      std::ranges::transform(floats, result.begin(), FloatToHalf);
      return result;
    };
    const bool alike = std::ranges::all_of(steps.columns, [](float factor) { return factor == 1; });
    AddCodes(info, kEntropyCoded, matrix.codes, halves(steps.rows), alike ? std::vector<uint16_t>() : halves(steps.columns), report);
    report.squared_error = matrix.squared_error;
    report.step_width = steps.mean_width();
  }

  // `columns` is empty where there are no factors of columns.
  void AddCodes(const TensorInfo& info, const Grid& grid, const std::vector<int8_t>& values, const std::vector<uint16_t>& rows,
                const std::vector<uint16_t>& columns, ExportedTensor& report) {
    const TensorInfo scales{.name = info.name + ".scale", .dtype = DType::kFloat16, .shape = {info.shape[0]}};
    const TensorInfo factors{.name = info.name + ".column", .dtype = DType::kFloat16, .shape = {info.shape[1]}};
    const TensorInfo codes{.name = info.name + ".q",
                           .dtype = DType::kInt8,
                           .shape = info.shape,
                           .quantisation = Quantisation{std::string(grid.name), grid.q_min, grid.q_max, scales.name,
                                                        columns.empty() ? "" : factors.name}};
    Add(info, codes, values);
    Add(info, scales, rows);
    if (!columns.empty()) Add(info, factors, columns);
    report.form = grid.name;
    report.coded = true;
    report.bytes = codes.bytes() + scales.bytes() + (columns.empty() ? 0 : factors.bytes());
    report.entropy_bits = EntropyBits(values);
  }

  // Codes NAME + `suffix` [rows, columns] and their scales.
  TensorInfo WriteCodes(const TensorInfo& from, const std::string& name, const std::string& suffix, int64_t rows, int64_t columns,
                        const ScaledCodes& codes, const std::string& left, const std::string& right, ExportedTensor& report) {
    const auto count = static_cast<int64_t>(codes.scales.size());
    const TensorInfo scales{.name = name + (suffix == ".q" ? ".scale" : suffix + ".scale"), .dtype = DType::kFloat16, .shape = {count}};
    const TensorInfo made{.name = name + suffix,
                          .dtype = DType::kInt8,
                          .shape = {rows, columns},
                          .quantisation = Quantisation{std::string(codes.grid.name), codes.grid.q_min, codes.grid.q_max, scales.name, "",
                                                       count == rows ? 0 : rows * columns / count, left, right}};
    for (size_t i = 0; i < codes.scales.size(); ++i)
      if (!std::isfinite(HalfToFloat(codes.scales[i]))) Refuse(from, StringPrintf("%s %zu is too large for float16", scales.name.c_str(), i));
    Add(from, made, codes.codes);
    Add(from, scales, codes.scales);
    report.bytes += made.bytes() + scales.bytes();
    return made;
  }

  void WriteCoded(const TensorInfo& info, const std::vector<float>& values, const CodedMatrix& coded, ExportedTensor& report) {
    const int64_t rows = info.shape[0], columns = info.shape[1];
    std::string left, right;
    std::vector<float> back = coded.matrix.Values();
    if (coded.correction) {
      const LowRankCorrection& correction = *coded.correction;
      const int64_t rank = correction.rank;
      left = WriteCodes(info, info.name, ".lqA", rows, rank, correction.left, "", "", report).name;
      right = WriteCodes(info, info.name, ".lqB", rank, columns, correction.right, "", "", report).name;
      const std::vector<float> a = correction.left.Values(), b = correction.right.Values();
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t k = 0; k < rank; ++k)
          for (int64_t j = 0; j < columns; ++j) back[i * columns + j] += a[i * rank + k] * b[k * columns + j];
    }
    WriteCodes(info, info.name, ".q", rows, columns, coded.matrix, left, right, report);
    report.form = coded.matrix.grid.name;
    report.coded = true;
    report.entropy_bits = EntropyBits(coded.matrix.codes);
    for (size_t i = 0; i < values.size(); ++i) report.squared_error += (static_cast<double>(back[i]) - values[i]) * (static_cast<double>(back[i]) - values[i]);
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

  const TensorSource& weights_;
  const Settings& settings_;
  const Calibration* calibration_ = nullptr;
  const CodedMatrices* coded_ = nullptr;
  const double step_ = 0;
  TensorSink& out_;
  std::set<std::string> names_;  // in `out_`
};

std::vector<ExportedTensor> ExportAll(const TensorSource& weights, Exporter exporter) {
  std::vector<ExportedTensor> tensors;
  for (const TensorInfo& info : weights.tensors()) tensors.push_back(exporter.Export(info));
  return tensors;
}

}  // namespace

double ExportedTensor::relative_error() const {
  return squared_norm == 0 ? 0 : std::sqrt(squared_error / squared_norm);
}

std::vector<ExportedTensor> ExportWeights(const TensorSource& weights, const Settings& settings,
                                          TensorSink& out) {
  return ExportAll(weights, Exporter(weights, settings, nullptr, 0, out));
}

std::vector<ExportedTensor> ExportWeights(const TensorSource& weights, const Settings& settings, const Calibration& calibration,
                                          double step, TensorSink& out) {
  return ExportAll(weights, Exporter(weights, settings, &calibration, step, out));
}

std::vector<ExportedTensor> ExportWeights(const TensorSource& weights, const Settings& settings, const CodedMatrices& coded,
                                          TensorSink& out) {
  return ExportAll(weights, Exporter(weights, settings, coded, out));
}

double GuessStep(const TensorSource& weights, const Settings& settings, const Calibration& calibration, uint64_t budget) {
  double coded = 0, kept_bytes = 0, logs = 0;
  for (const TensorInfo& info : weights.tensors()) {
    const auto numel = static_cast<double>(info.numel());
    if (!IsFloatingPoint(info.dtype) || info.shape.size() != 2 || !ExportGrid(info.name, info.shape[0], info.shape[1], settings)) {
      kept_bytes += 2 * numel;
      continue;
    }
    double squares = 0;
    for (const float value : weights.Floats(info.name)) squares += static_cast<double>(value) * value;
    if (squares == 0) continue;
    coded += numel;
    logs += numel * std::log2(std::sqrt(squares / numel * calibration.CostOf(info.name).mean));
  }
  if (coded == 0) return 1;
  // A rounded normal of k steps a standard deviation has log2(k) + 2.05 bits of entropy.
  const double bits = std::max(8 * (static_cast<double>(budget) - kept_bytes), 0.0) / coded;
  return std::exp2(logs / coded - std::max(bits - 2.05, -1.0));
}

namespace {

double SearchBytes(const TensorSource& weights) {
  double content = 0;
  for (const TensorInfo& info : weights.tensors()) content += 1.1 * static_cast<double>(info.numel()) + 4096;
  return 7 * content + 2e6 + 900e6 * std::min(1.0, content / 30e6);
}

}  // namespace

double EstimateExport(const TensorSource& weights, const Settings& settings) {
  double all = 0, largest = 0;
  for (const TensorInfo& info : weights.tensors()) {
    const double numel = info.numel(), rows = info.shape.empty() ? 1 : info.shape[0];
    all += info.bytes();
    // float32, and beside it codes or float16; what a row's search keeps; a sorted row for each thread.
    largest = std::max(largest, 6 * numel + 160 * rows + (rows > 0 ? 4 * numel / rows : 0) * settings.ThreadCount());
  }
  // The search holds an artifact's content, its compressed form, what zstd takes at each level, and the content unpacked.
  if (HasSize(settings)) all += SearchBytes(weights);
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
