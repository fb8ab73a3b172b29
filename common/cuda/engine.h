// The engine on a device: forward and backward passes (backend.h) on one stream, a micro-step replayed from a captured graph.
//
// The host sorts a micro-batch's positions (inputs.h) into page-locked memory and copies it while the GPU still computes the
// one before; it waits only where it would get more than two micro-steps ahead, or where a loss is asked for.
#pragma once

#include <memory>

#include "common/cuda/device.h"
#include "common/model/engine.h"
#include "common/model/transformer.h"

namespace fairway::cuda {

// Works on the storage of `parameters` and, for training, `gradients`, on the device. Throws as MakeBackend does.
std::unique_ptr<Engine> MakeEngine(const Settings& settings, NamedTensors parameters, NamedTensors gradients, Device& device);

}  // namespace fairway::cuda
