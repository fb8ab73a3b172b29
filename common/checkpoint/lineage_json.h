// A lineage as JSON, for ckpt-inspect --json and eval.json.
#pragma once

#include <nlohmann/json.hpp>

#include "common/checkpoint/checkpoint.h"

namespace fairway {

// {"tool", "version", "source_digest", "settings": {name: value}, "inputs": [{"role", "identity", "lineage"}]}; null where `lineage`
// is empty.
inline nlohmann::ordered_json LineageJson(const Lineage& lineage) {
  using Json = nlohmann::ordered_json;
  if (lineage.tool.empty()) return nullptr;
  Json settings = Json::object(), inputs = Json::array();
  for (const auto& [name, value] : lineage.settings) settings[name] = value;
  for (const Lineage::Input& input : lineage.inputs)
    inputs.push_back({{"role", input.role}, {"identity", input.identity}, {"lineage", LineageJson(input.lineage)}});
  return {{"tool", lineage.tool},
          {"version", lineage.version},
          {"source_digest", lineage.source_digest},
          {"settings", settings},
          {"inputs", inputs}};
}

}  // namespace fairway
