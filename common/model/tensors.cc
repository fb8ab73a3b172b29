#include "common/model/tensors.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>

#include "common/base/error.h"

namespace fairway {
namespace {

DType DTypeOf(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat: return DType::kFloat32;
    case at::kHalf: return DType::kFloat16;
    case at::kBFloat16: return DType::kBFloat16;
    case at::kChar: return DType::kInt8;
    case at::kInt: return DType::kInt32;
    case at::kLong: return DType::kInt64;
    default: throw std::logic_error(std::string("checkpoints hold no ") + c10::toString(tensor.scalar_type()));
  }
}

}  // namespace

void AddTensor(CheckpointWriter& writer, const std::string& name, const at::Tensor& tensor) {
  const at::Tensor whole = tensor.detach().cpu().contiguous();
  const TensorInfo info{.name = name, .dtype = DTypeOf(whole), .shape = whole.sizes().vec()};
  writer.Add(info, {static_cast<const std::byte*>(whole.const_data_ptr()), info.bytes()});
}

void AddView(TensorsInMemory& tensors, const std::string& name, const at::Tensor& tensor) {
  TORCH_INTERNAL_ASSERT(tensor.is_cpu() && tensor.is_contiguous());
  const TensorInfo info{.name = name, .dtype = DTypeOf(tensor), .shape = tensor.sizes().vec()};
  tensors.AddView(info, {static_cast<const std::byte*>(tensor.const_data_ptr()), info.bytes()});
}

void CopyTensor(const CheckpointReader& checkpoint, const std::string& name, at::Tensor tensor) {
  const TensorInfo& info = checkpoint.Find(name);
  if (info.shape != tensor.sizes().vec() || info.dtype != DTypeOf(tensor))
    throw InputError(checkpoint.path(), "tensor " + name + " has another shape or dtype than the settings give");
  const auto data = checkpoint.Data(name);
  TORCH_INTERNAL_ASSERT(tensor.is_contiguous());
  const at::Tensor host = tensor.is_cpu() ? tensor : at::empty(tensor.sizes(), tensor.scalar_type());
  std::memcpy(host.mutable_data_ptr(), data.data(), data.size());
  if (!tensor.is_cpu()) tensor.copy_(host);
}

}  // namespace fairway
