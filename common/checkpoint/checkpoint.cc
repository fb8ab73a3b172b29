#include "common/checkpoint/checkpoint.h"

#include <algorithm>
#include <stdexcept>

namespace fairway {

std::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kTraining:
      return "training";
    case Kind::kWeights:
      return "weights";
    case Kind::kQuantised:
      return "quantised";
  }
  throw std::logic_error("no such kind");
}

int64_t TensorInfo::numel() const {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

void Counters::Set(const std::string& name, double value) {
  const auto found = std::find_if(all_.begin(), all_.end(), [&](const auto& entry) { return entry.first == name; });
  if (found == all_.end())
    all_.emplace_back(name, value);
  else
    found->second = value;
}

double Counters::Get(const std::string& name) const {
  const auto found = std::find_if(all_.begin(), all_.end(), [&](const auto& entry) { return entry.first == name; });
  return found == all_.end() ? 0 : found->second;
}

bool Counters::Has(const std::string& name) const {
  return std::any_of(all_.begin(), all_.end(), [&](const auto& entry) { return entry.first == name; });
}

Lineage OpenLineage(const std::string& tool, const std::string& version, const std::string& source_digest,
                    const Settings& settings, unsigned stages) {
  return {tool, version, source_digest, settings.NonDefault(stages), {}};
}

void AddInput(Lineage& lineage, const std::string& role, const CheckpointReader& input) {
  lineage.inputs.push_back({role, input.identity(), input.lineage()});
}

void CopyTensor(const CheckpointReader& from, std::string_view name, CheckpointWriter& to, std::string_view new_name) {
  TensorInfo info = from.Find(name);
  if (!new_name.empty()) info.name = new_name;
  to.Add(info, from.Data(name));
}

}  // namespace fairway
