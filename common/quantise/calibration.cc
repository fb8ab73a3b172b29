#include "common/quantise/calibration.h"

#include <algorithm>
#include <cstring>

#include "common/average/source.h"
#include "common/base/error.h"
#include "common/base/text.h"
#include "common/checkpoint/counter_names.h"
#include "common/quantise/grid.h"

namespace fairway {
namespace {

const std::string kRows = "calibration/rows/", kColumns = "calibration/columns/", kOrder = "calibration/order/",
                  kUpper = "calibration/upper/", kMean = "calibration/mean";

void AddFloats(CheckpointWriter& writer, const std::string& name, const std::vector<double>& values) {
  writer.Add({.name = name, .dtype = DType::kFloat32, .shape = {static_cast<int64_t>(values.size())}, .quantisation = {}},
             std::vector<float>(values.begin(), values.end()));
}

std::vector<double> Doubles(const CheckpointReader& checkpoint, const std::string& name) {
  const std::vector<float> values = checkpoint.Floats(name);
  return {values.begin(), values.end()};
}

// The shares of the sets that weights were made of, as counters have them and as a source says.
std::vector<std::pair<std::string, double>> Shares(const Counters& counters) {
  std::vector<std::pair<std::string, double>> shares;
  for (const char* set : {"last", "ema", "swa"})
    if (const std::string name = std::string(counter::kFinalizePrefix) + set; counters.Has(name)) shares.emplace_back(set, counters.Get(name));
  return shares;
}

}  // namespace

bool TrainingCalibrates(const Settings& settings) {
  return HasSize(settings) && settings.calibration == "train" && settings.calibration_windows > 0;
}

void AddCalibration(const Calibration& calibration, CheckpointWriter& writer) {
  std::vector<double> means;
  for (const auto& [name, cost] : calibration.costs) {
    means.push_back(cost.mean);
    AddFloats(writer, kRows + name, cost.rows);
    AddFloats(writer, kColumns + name, cost.columns);
  }
  AddFloats(writer, kMean, means);
  for (const auto& [name, feedback] : calibration.feedback) {
    const auto size = static_cast<int64_t>(feedback.order.size());
    writer.Add({.name = kOrder + name, .dtype = DType::kInt32, .shape = {size}, .quantisation = {}}, feedback.order);
    writer.Add({.name = kUpper + name, .dtype = DType::kFloat32, .shape = {size, size}, .quantisation = {}}, feedback.upper);
  }
}

Calibration ReadCalibration(const CheckpointReader& training, const CheckpointReader& weights, const Settings& settings) {
  training.Expect({Kind::kTraining});
  const auto refuse = [&](const std::string& cause) { throw InputError(training.path(), cause); };
  const std::vector<Lineage::Input>& inputs = weights.lineage().inputs;
  if (std::ranges::none_of(inputs, [&](const Lineage::Input& input) { return input.identity == training.identity(); }))
    refuse(weights.path() + " was not made from it");
  if (!training.Has(kMean))
    refuse("holds no calibration: it was trained with CALIBRATION other than train, or with QUANTISER=published. Train again, or take "
           "CALIBRATION=self");
  for (const char* name : kCalibrationSettings) {
    const auto found = std::ranges::find(training.settings(), name, &SettingValues::value_type::first);
    if (found != training.settings().end() && found->second != settings.Get(name))
      refuse(StringPrintf("was calibrated with %s = %s, not %s. Train again, or take CALIBRATION=self", name, found->second.c_str(), settings.Get(name).c_str()));
  }
  const auto taken = Shares(weights.counters());
  bool of_these = false;
  for (const auto& [name, value] : training.counters().all()) {
    if (!name.starts_with(counter::kCalibrationOfPrefix)) continue;
    Counters counters;
    for (const SourcePart& part : ParseSource(std::string_view(name).substr(std::strlen(counter::kCalibrationOfPrefix))))
      counters.Set(counter::kFinalizePrefix + part.set, part.share);
    of_these |= Shares(counters) == taken;
  }
  if (!of_these) refuse("was calibrated for another SOURCE than that of " + weights.path() + ". Train again with this one, or take CALIBRATION=self");

  Calibration calibration;
  const std::vector<double> means = Doubles(training, kMean);
  for (const TensorInfo& info : training.tensors()) {
    if (info.name.starts_with(kRows)) calibration.costs[info.name.substr(kRows.size())].rows = Doubles(training, info.name);
    if (info.name.starts_with(kColumns)) calibration.costs[info.name.substr(kColumns.size())].columns = Doubles(training, info.name);
    if (settings.quantiser == "gptq" && info.name.starts_with(kOrder)) {
      const std::string name = info.name.substr(kOrder.size());
      Feedback& feedback = calibration.feedback[name];
      const auto order = training.Data(info.name);
      feedback.order.resize(info.numel());
      if (info.dtype != DType::kInt32) refuse("tensor " + info.name + " is no calibration");
      std::memcpy(feedback.order.data(), order.data(), order.size());
      feedback.upper = training.Floats(kUpper + name);
    }
  }
  // What steps and rounding count on.
  size_t matrix = 0;
  for (auto& [name, cost] : calibration.costs) {
    if (matrix < means.size()) cost.mean = means[matrix];
    ++matrix;
    const TensorInfo& info = weights.Find(name);
    if (info.shape.size() != 2 || static_cast<int64_t>(cost.rows.size()) != info.shape[0] || static_cast<int64_t>(cost.columns.size()) != info.shape[1] || !(cost.mean > 0))
      refuse("its calibration of " + name + " is not of that matrix");
  }
  if (matrix != means.size()) refuse("its calibration is not whole");
  for (const auto& [name, feedback] : calibration.feedback) {
    std::vector<int32_t> columns = feedback.order;
    std::ranges::sort(columns);
    const auto size = static_cast<int64_t>(columns.size());
    bool fits = weights.Find(name).shape.size() == 2 && weights.Find(name).shape[1] == size && static_cast<int64_t>(feedback.upper.size()) == size * size;
    for (int64_t j = 0; fits && j < size; ++j) fits = columns[j] == j && feedback.upper[j * size + j] > 0;
    if (!fits) refuse("its calibration of " + name + " is not of that matrix");
  }
  if (settings.quantiser == "gptq" && calibration.feedback.empty()) refuse("was calibrated for QUANTISER=rtn. Train again with gptq, or take CALIBRATION=self");
  return calibration;
}

}  // namespace fairway
