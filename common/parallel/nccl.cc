// libfairway_nccl.so: ranks that compute on GPUs, by NCCL through LibTorch's ProcessGroupNCCL. They meet at a TCPStore (MASTER_ADDR,
// MASTER_PORT), as torchrun's processes do.
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <cctype>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "common/parallel/c10d.h"

namespace fairway {
namespace {

std::string Needed(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == 0) throw std::runtime_error(std::string("the environment has no ") + name + ", by which ranks find each other");
  return value;
}

uint16_t Port() {
  const std::string text = Needed("MASTER_PORT");
  int64_t port = 0;
  for (const char c : text) port = std::isdigit(static_cast<unsigned char>(c)) && port < 100000 ? 10 * port + (c - '0') : 100000;
  if (port < 1 || port > 65535) throw std::runtime_error("environment MASTER_PORT = '" + text + "' is no port, 1 to 65535");
  return static_cast<uint16_t>(port);
}

c10::intrusive_ptr<c10d::Store> MeetingPlace(const PluginOptions& options) {
  const std::string host = Needed("MASTER_ADDR");
  const char* agent = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
  c10d::TCPStoreOptions store;
  store.port = Port();
  store.isServer = options.launch.rank == 0 && !(agent != nullptr && std::strcmp(agent, "True") == 0);
  store.numWorkers = static_cast<size_t>(options.launch.world_size);
  store.waitWorkers = false;  // the first gathering does, and says who is missing
  store.timeout = std::chrono::milliseconds(static_cast<int64_t>(1e3 * options.timeout_seconds));
  // A restart under the same agent finds what the attempt before left there.
  const char* attempt = std::getenv("TORCHELASTIC_RESTART_COUNT");
  return c10::make_intrusive<c10d::PrefixStore>(std::string("fairway/") + (attempt != nullptr ? attempt : "0"),
                                                c10::make_intrusive<c10d::TCPStore>(host, store));
}

c10::intrusive_ptr<c10d::Backend> MakeNccl(const PluginOptions& options, const c10::intrusive_ptr<c10d::Store>& store) {
  const auto nccl = c10d::ProcessGroupNCCL::Options::create();
  // The group's own watchdog ends a process without a word of ours: it comes second.
  nccl->timeout = std::chrono::milliseconds(static_cast<int64_t>(1e3 * options.timeout_seconds)) + std::chrono::seconds(60);
  // A connection of its own: its threads ask while this one waits.
  const auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(store->clone(), static_cast<int>(options.launch.rank),
                                                                   static_cast<int>(options.launch.world_size), nccl);
  backend->eagerConnectSingleDevice(at::Device(at::kCUDA, c10::cuda::current_device()));
  return backend;
}

bool OnGpu(const void* memory) {
  cudaPointerAttributes attributes;
  if (cudaPointerGetAttributes(&attributes, memory) != cudaSuccess) throw std::runtime_error("CUDA does not know what memory a transfer has");
  return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
}

// The watching thread asks for events of this rank's GPU, also while another thread captures a graph. A new thread's GPU is the
// first one, where it would open a context of its own.
void MayAskDuringCapture(c10::DeviceIndex gpu) {
  c10::cuda::set_device(gpu);
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
}

}  // namespace
}  // namespace fairway

extern "C" __attribute__((visibility("default"))) fairway::Communicator* FairwayNcclCommunicator(
    const fairway::PluginOptions& options) {
  using namespace fairway;
  const c10::intrusive_ptr<c10d::Store> store = MeetingPlace(options);
  const auto gpu = std::make_shared<c10::DeviceIndex>();  // asked for where the backend starts: without a GPU that says so
  return MakeC10dCommunicator(options, {.name = "nccl",
                                        .store = store,
                                        .make_backend =
                                            [&, gpu] {
                                              *gpu = c10::cuda::current_device();
                                              return MakeNccl(options, store);
                                            },
                                        .device = at::kCUDA,
                                        .on_device = OnGpu,
                                        .on_watch_thread = [gpu] { MayAskDuringCapture(*gpu); }})
      .release();
}
