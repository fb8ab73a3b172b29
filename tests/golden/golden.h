// The numbers that the published script computed (the golden folder's README says how), for tests that compare with
// them.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/base/file.h"
#include "common/checkpoint/safetensors.h"
#include "common/model/transformer.h"
#include "common/settings/settings.h"

namespace fairway::golden {

inline const std::filesystem::path kFolder = std::filesystem::path(SHARED_DIR) / "golden";

#define SKIP_WITHOUT_GOLDEN() \
  if (!std::filesystem::exists(golden::kFolder)) GTEST_SKIP() << "skipped: no " << golden::kFolder

inline nlohmann::json Result(const std::string& name) {
  return nlohmann::json::parse(InputFile((kFolder / name / "result.json").string()).text());
}

// The log line that starts with `start`, blanks in front left out; empty where there is none.
inline std::string LogLine(const nlohmann::json& result, const std::string& start) {
  for (const std::string line : result["log"]) {
    const size_t text = line.find_first_not_of(' ');
    if (text != std::string::npos && line.compare(text, start.size(), start) == 0) return line.substr(text);
  }
  return "";
}

// The number after `label` in a line: Number("step:0/60 val_loss:6.9319 …", "val_loss:") is 6.9319.
inline double Number(const std::string& line, const std::string& label) {
  const size_t at = line.find(label);
  if (at == std::string::npos) throw std::runtime_error("no " + label + " in '" + line + "'");
  return std::stod(line.substr(at + label.size()));
}

// What a case was run with: published_quirks, the golden shards and tokenizer, and the case's own environment.
inline Settings CaseSettings(const nlohmann::json& result, const std::string& precision) {
  Settings settings;
  const auto set = [&](std::string name, const std::string& value) {
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    settings.Set(name, value, Origin::kCommandLine, "result.json");
  };
  for (const auto& [name, value] : result["env"].items()) set(name, value);
  set("precision", precision);
  set("published_quirks", "1");
  set("data_path", (kFolder / "data").string());
  set("tokenizer_path", (std::filesystem::path(SHARED_DIR) / "fineweb" / "fineweb_1024_bpe.model").string());
  return settings;
}

inline SafetensorsReader File(const std::string& name, const std::string& file) {
  return SafetensorsReader((kFolder / name / (file + ".safetensors")).string());
}

// A tensor of a file, in its own dtype.
inline at::Tensor TensorOf(const SafetensorsReader& file, const std::string& name) {
  const std::map<DType, at::ScalarType> dtypes = {{DType::kFloat32, at::kFloat}, {DType::kFloat16, at::kHalf},
                                                  {DType::kBFloat16, at::kBFloat16}, {DType::kInt32, at::kInt}};
  const TensorInfo& info = file.Find(name);
  const auto data = file.Data(name);
  const at::Tensor tensor = at::empty(info.shape, dtypes.at(info.dtype));
  std::memcpy(tensor.mutable_data_ptr(), data.data(), data.size());
  return tensor;
}

// CASE/FILE.safetensors as the parameters of a model of these settings, in its storage dtypes.
inline NamedTensors Parameters(const std::string& name, const std::string& file, const Settings& settings) {
  const SafetensorsReader tensors = File(name, file);
  NamedTensors parameters;
  for (const ParameterSpec& spec : ParameterSpecs(settings)) {
    parameters.emplace_back(spec.name, TensorOf(tensors, spec.name).to(spec.dtype));
  }
  if (parameters.size() != tensors.tensors().size()) throw std::runtime_error(file + " holds other tensors than the model");
  return parameters;
}

}  // namespace fairway::golden
