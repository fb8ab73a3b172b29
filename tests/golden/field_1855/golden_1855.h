// The numbers that the published script of pull request 1855 computed (the golden folder's README says how).
#pragma once

#include "tests/golden/golden.h"

namespace fairway::golden_1855 {

inline const std::filesystem::path kFolder = std::filesystem::path(SHARED_DIR) / "golden_1855";

#define SKIP_WITHOUT_GOLDEN_1855() \
  if (!std::filesystem::exists(golden_1855::kFolder)) GTEST_SKIP() << "skipped: no " << golden_1855::kFolder

inline nlohmann::json Json(const std::string& file) {
  return nlohmann::json::parse(InputFile((kFolder / file).string()).text());
}

inline SafetensorsReader File(const std::string& name) { return SafetensorsReader((kFolder / (name + ".safetensors")).string()); }

// The profile with a case's environment on top, on the golden shards.
inline Settings CaseSettings(const nlohmann::json& result, const std::string& precision) {
  Settings settings;
  settings.LoadProfile(SOURCE_DIR "/pipelines/field-1855.profile");
  const auto set = [&](const std::string& name, const std::string& value) { settings.Set(name, value, Origin::kCommandLine, "result.json"); };
  for (const auto& [name, value] : result["env"].items()) {
    std::string lower = name;
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
    if (lower == "val_batch_tokens") lower = "val_batch_size";
    const auto table = SettingTable();
    const bool known = std::any_of(table.begin(), table.end(), [&](const SettingInfo& info) { return info.name == lower; });
    if (known) set(lower, value.is_string() ? value.get<std::string>() : value.dump());
  }
  set("precision", precision);
  set("data_path", (kFolder / "data").string());
  set("tokenizer_path", (kFolder / "data" / "caseops_1024.model").string());
  set("keep_max_numel", "1024");
  return settings;
}

// A tensor of the published state dict by the name that it has here: matrices lie in banks there.
inline at::Tensor TensorOf(const SafetensorsReader& file, const std::string& name, int64_t layers) {
  const std::map<std::string, std::pair<const char*, int64_t>> banks = {
      {"attn.c_q.weight", {"qo_bank", 0}},      {"attn.proj.weight", {"qo_bank", layers}}, {"attn.c_k.weight", {"kv_bank", 0}},
      {"attn.c_v.weight", {"kv_bank", layers}}, {"mlp.fc.weight", {"mlp_up_bank", 0}},     {"mlp.proj.weight", {"mlp_down_bank", 0}}};
  const std::string prefix = "blocks.";
  if (!name.starts_with(prefix)) return golden::TensorOf(file, name);
  const size_t dot = name.find('.', prefix.size());
  const auto bank = banks.find(name.substr(dot + 1));
  if (bank == banks.end()) return golden::TensorOf(file, name);
  return golden::TensorOf(file, bank->second.first)[bank->second.second + std::stoll(name.substr(prefix.size(), dot - prefix.size()))];
}

// CASE/FILE.safetensors as the parameters of a model of these settings.
inline NamedTensors Parameters(const std::string& file, const Settings& settings) {
  const SafetensorsReader tensors = File(file);
  NamedTensors parameters;
  for (const ParameterSpec& spec : ParameterSpecs(settings))
    parameters.emplace_back(spec.name, TensorOf(tensors, spec.name, settings.num_layers).to(spec.dtype));
  return parameters;
}

}  // namespace fairway::golden_1855
