#include "common/checkpoint/checkpoint.h"

#include <algorithm>
#include <stdexcept>

#include "common/base/error.h"
#include "common/base/text.h"

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
  const auto [place, added] = places_.emplace(name, all_.size());
  if (added) all_.emplace_back(name, 0);
  all_[place->second].second = value;
}

double Counters::Get(const std::string& name) const {
  const auto found = places_.find(name);
  return found == places_.end() ? 0 : all_[found->second].second;
}

bool Counters::Has(const std::string& name) const {
  return places_.contains(name);
}

Lineage OpenLineage(const std::string& tool, const std::string& version, const std::string& source_digest,
                    const Settings& settings, unsigned stages) {
  return {tool, version, source_digest, settings.NonDefault(stages), {}};
}

namespace {

int Depth(const Lineage& lineage) {
  int deepest = 0;
  for (const Lineage::Input& input : lineage.inputs) deepest = std::max(deepest, Depth(input.lineage));
  return deepest + 1;
}

}  // namespace

void AddInput(Lineage& lineage, const std::string& role, const CheckpointReader& input) {
  if (Depth(input.lineage()) >= CheckpointWriter::kMaxLineageDepth)
    throw InputError(input.path(), StringPrintf("its lineage is %d generations deep; nothing can be made from it",
                                                Depth(input.lineage())));
  lineage.inputs.push_back({role, input.identity(), input.lineage()});
}

void CopyTensor(const CheckpointReader& from, std::string_view name, CheckpointWriter& to, std::string_view new_name) {
  TensorInfo info = from.Find(name);
  if (!new_name.empty()) info.name = new_name;
  to.Add(info, from.Data(name));
}

}  // namespace fairway
