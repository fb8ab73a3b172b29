// A communicator on LibTorch's process groups (c10d). A backend moves the bulk, in its device's memory, beside what the device
// computes. What ranks decide goes over the host through a store, so that a decision waits for no device.
//
// Time limits: a thread watches every transfer that has begun. Where one has not ended within the limit, or has failed, it ends the
// process with the cause: the host may be blocked in a read of the device, which a transfer that never ends would block forever.
#pragma once

#include <c10/core/Device.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <functional>
#include <memory>
#include <string>

#include "common/parallel/communicator.h"

namespace fairway {

struct C10dSetup {
  std::string name;  // of the backend, as messages have it
  c10::intrusive_ptr<c10d::Store> store;
  // Called once all ranks have met at the store; collective.
  std::function<c10::intrusive_ptr<c10d::Backend>()> make_backend;
  at::Device device = at::kCPU;
  // Whether memory is the device's. What is not passes through the device.
  std::function<bool(const void*)> on_device = [](const void*) { return true; };
  std::function<void()> on_watch_thread = [] {};  // before it watches
};

// Throws std::runtime_error, as do the communicator's calls: where a rank does not come, which one.
std::unique_ptr<Communicator> MakeC10dCommunicator(const PluginOptions& options, C10dSetup setup);

}  // namespace fairway
