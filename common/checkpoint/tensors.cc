// Tensors of a checkpoint or in memory.
#include <stdexcept>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/checkpoint/checkpoint.h"

namespace fairway {

std::vector<float> TensorSource::Floats(std::string_view name) const {
  const DType dtype = Find(name).dtype;
  if (!IsFloatingPoint(dtype))
    throw InputError(path(), StringPrintf("tensor %s is of dtype %s; expected floating point", std::string(name).c_str(), DTypeName(dtype).data()));
  return Widen(dtype, Data(name));
}

TensorsInMemory::TensorsInMemory(std::string name, Kind kind, SettingValues settings)
    : name_(std::move(name)), kind_(kind), settings_(std::move(settings)) {}

void TensorsInMemory::Add(const TensorInfo& info, std::span<const std::byte> data) {
  AddView(info, copies_.emplace_back(data.begin(), data.end()));
}

void TensorsInMemory::AddView(const TensorInfo& info, std::span<const std::byte> data) {
  if (data.size() != info.bytes()) throw std::logic_error("TensorsInMemory: the data of " + info.name + " are not of its size");
  if (!index_.emplace(info.name, tensors_.size()).second) throw std::logic_error("TensorsInMemory: " + info.name + " is added twice");
  tensors_.push_back(info);
  data_.push_back(data);
}

size_t TensorsInMemory::IndexOf(std::string_view name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) throw InputError(name_, "misses tensor " + std::string(name));
  return found->second;
}

}  // namespace fairway
