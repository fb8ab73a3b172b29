// Tensors in and out of checkpoints.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/checkpoint/checkpoint.h"

namespace fairway {

// Adds a contiguous CPU tensor of any dtype that checkpoints know.
void AddTensor(CheckpointWriter& writer, const std::string& name, const at::Tensor& tensor);

// Adds the tensor's own memory, which outlives `tensors`. REQUIRES: it is contiguous and on the CPU.
void AddView(TensorsInMemory& tensors, const std::string& name, const at::Tensor& tensor);

// Copies a checkpoint's tensor into `tensor`. Throws InputError where it is missing or has another shape or dtype.
void CopyTensor(const CheckpointReader& checkpoint, const std::string& name, at::Tensor tensor);

}  // namespace fairway
