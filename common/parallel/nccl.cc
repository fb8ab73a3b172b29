// libfairway_nccl.so: ranks that compute on GPUs, by NCCL. They meet at a TCPStore (MASTER_ADDR, MASTER_PORT), as torchrun's processes
// do, and give each other NCCL's identifiers there.
//
// There are two communicators, each with a stream of its own: one moves gradients and updates in the GPUs' memory, beside what the
// GPU computes; the other the few numbers by which ranks decide, so that a decision waits for no computation.
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime.h>
#include <nccl.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "common/parallel/waiting.h"

namespace fairway {
namespace {

void Check(cudaError_t code) {
  if (code != cudaSuccess) throw std::runtime_error(cudaGetErrorString(code));
}

class Deadline {
 public:
  explicit Deadline(double seconds) : seconds_(seconds) {}
  // Sleeps a moment; throws once the time is over.
  void Pause() const {
    const double waited = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    if (waited > seconds_)
      throw std::runtime_error(NoAnswer("another rank", seconds_));
    if (waited < 1e-2) std::this_thread::yield();
    else std::this_thread::sleep_for(std::chrono::microseconds(200));
  }

 private:
  const double seconds_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// One of NCCL's communicators, which does not block, and the stream that it works on.
class Group {
 public:
  Group(const PluginOptions& options, const ncclUniqueId& id) : options_(options) {
    Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    Require(ncclCommInitRankConfig(&group_, static_cast<int>(options.launch.world_size), id, static_cast<int>(options.launch.rank), &config));
  }
  // What is on its way to a rank that has gone never arrives: an error gives the group up.
  ~Group() {
    if (group_ == nullptr) return;
    const std::jthread watch = GiveUpInTime(options_, "nccl", "ncclCommDestroy");
    if (std::uncaught_exceptions() > 0) ncclCommAbort(group_);
    else ncclCommDestroy(group_);
  }

  ncclComm_t get() const { return group_; }
  cudaStream_t stream() const { return stream_; }

  // Waits until NCCL has taken on what it was told.
  void Require(ncclResult_t code) const {
    const Deadline deadline(options_.timeout_seconds);
    while (code == ncclInProgress) {
      deadline.Pause();
      const ncclResult_t asked = ncclCommGetAsyncError(group_, &code);
      if (asked != ncclSuccess) code = asked;
    }
    if (code != ncclSuccess) throw std::runtime_error(std::string(ncclGetErrorString(code)) + " (" + ncclGetLastError(group_) + ")");
  }
  // Waits until the stream has done everything up to `event`.
  void WaitFor(cudaEvent_t event) const {
    const Deadline deadline(options_.timeout_seconds);
    for (cudaError_t code; (code = cudaEventQuery(event)) != cudaSuccess; deadline.Pause()) {
      if (code != cudaErrorNotReady) Check(code);
      ncclResult_t state;
      if (ncclCommGetAsyncError(group_, &state) == ncclSuccess && state != ncclSuccess && state != ncclInProgress) Require(state);
    }
  }

 private:
  const PluginOptions options_;
  ncclComm_t group_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() { Check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

class Nccl : public Communicator {
 public:
  Nccl(const PluginOptions& options, const ncclUniqueId& bulk, const ncclUniqueId& decisions)
      : Communicator(options.launch.rank, options.launch.world_size), bulk_(options, bulk), decisions_(options, decisions) {}
  ~Nccl() override {
    cudaFree(device_);
    cudaFreeHost(host_);
  }

  std::string name() const override { return "nccl"; }

  // Returns when all ranks have come here.
  void Meet() {
    std::vector<char> all(world_size());
    GatherBytes(all.data(), 1, all.data());
  }

 private:
  // Computation goes on when the transfer is done; this thread goes on at once.
  struct OnStream : Transfer {
    void Finish() override { Check(cudaStreamWaitEvent(c10::cuda::getCurrentCUDAStream().stream(), done.get(), 0)); }
    Event done;
  };

  // Puts work(stream) on the stream of transfers, behind all that this thread has put on its own stream.
  template <class Work>
  std::unique_ptr<Transfer> Start(Work work) {
    const Event ready;
    Check(cudaEventRecord(ready.get(), c10::cuda::getCurrentCUDAStream().stream()));
    Check(cudaStreamWaitEvent(bulk_.stream(), ready.get(), 0));
    ncclGroupStart();
    work(bulk_.stream());
    bulk_.Require(ncclGroupEnd());
    auto transfer = std::make_unique<OnStream>();
    Check(cudaEventRecord(transfer->done.get(), bulk_.stream()));
    return transfer;
  }

  std::unique_ptr<Transfer> StartExchange(std::span<const Message> sends, std::span<const Message> receives) override {
    return Start([&](cudaStream_t stream) {
      for (const Message& message : receives)
        Told(ncclRecv(message.data, message.bytes, ncclUint8, static_cast<int>(message.rank), bulk_.get(), stream));
      for (const Message& message : sends)
        Told(ncclSend(message.data, message.bytes, ncclUint8, static_cast<int>(message.rank), bulk_.get(), stream));
    });
  }

  std::unique_ptr<Transfer> StartBroadcast(std::span<const Message> messages) override {
    return Start([&](cudaStream_t stream) {
      for (const Message& message : messages)
        Told(ncclBroadcast(message.data, message.data, message.bytes, ncclUint8, static_cast<int>(message.rank), bulk_.get(), stream));
    });
  }

  void GatherBytes(const void* mine, int64_t bytes, void* all) override {
    const int64_t everything = bytes * world_size();
    if (everything > held_) {
      cudaFree(device_);
      cudaFreeHost(host_);
      Check(cudaMalloc(&device_, everything));
      Check(cudaMallocHost(&host_, everything));
      held_ = everything;
    }
    const cudaStream_t stream = decisions_.stream();
    char* own = static_cast<char*>(device_) + bytes * rank();
    std::memcpy(host_, mine, bytes);
    Check(cudaMemcpyAsync(own, host_, bytes, cudaMemcpyHostToDevice, stream));
    decisions_.Require(ncclAllGather(own, device_, bytes, ncclUint8, decisions_.get(), stream));
    Check(cudaMemcpyAsync(host_, device_, everything, cudaMemcpyDeviceToHost, stream));
    const Event done;
    Check(cudaEventRecord(done.get(), stream));
    decisions_.WaitFor(done.get());
    std::memcpy(all, host_, everything);
  }

  // Inside a group, where NCCL says no more than that it has heard.
  void Told(ncclResult_t code) const {
    if (code != ncclSuccess && code != ncclInProgress) bulk_.Require(code);
  }

  const Group bulk_, decisions_;
  void *device_ = nullptr, *host_ = nullptr;
  int64_t held_ = 0;
};

std::string Needed(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr) throw std::runtime_error(std::string("the environment has no ") + name + ", by which ranks find each other");
  return value;
}

// The same identifier on all ranks.
ncclUniqueId Identifier(c10d::Store& store, const std::string& key, bool first) {
  ncclUniqueId id;
  if (first) {
    if (const ncclResult_t code = ncclGetUniqueId(&id); code != ncclSuccess) throw std::runtime_error(ncclGetErrorString(code));
    const auto* bytes = reinterpret_cast<const uint8_t*>(&id);
    store.set(key, std::vector<uint8_t>(bytes, bytes + sizeof id));
    return id;
  }
  const std::vector<uint8_t> bytes = store.get(key);
  if (bytes.size() != sizeof id) throw std::runtime_error("what rank 0 left at the meeting place is no identifier of NCCL's");
  std::memcpy(&id, bytes.data(), sizeof id);
  return id;
}

}  // namespace
}  // namespace fairway

extern "C" __attribute__((visibility("default"))) fairway::Communicator* FairwayNcclCommunicator(
    const fairway::PluginOptions& options) {
  using namespace fairway;
  const bool first = options.launch.rank == 0;
  const std::string host = Needed("MASTER_ADDR"), port = Needed("MASTER_PORT");
  const char* agent = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
  c10d::TCPStoreOptions store_options;
  store_options.port = static_cast<uint16_t>(std::strtoul(port.c_str(), nullptr, 10));
  store_options.isServer = first && !(agent != nullptr && std::strcmp(agent, "True") == 0);
  store_options.numWorkers = static_cast<size_t>(options.launch.world_size);
  store_options.timeout = std::chrono::milliseconds(static_cast<int64_t>(1e3 * options.timeout_seconds));
  // A restart under the same agent finds what the attempt before left there.
  const char* attempt = std::getenv("TORCHELASTIC_RESTART_COUNT");
  const auto store = c10::make_intrusive<c10d::PrefixStore>(std::string("fairway/") + (attempt != nullptr ? attempt : "0"),
                                                            c10::make_intrusive<c10d::TCPStore>(host, store_options));
  const ncclUniqueId bulk = Identifier(*store, "bulk", first), decisions = Identifier(*store, "decisions", first);
  auto communicator = std::make_unique<Nccl>(options, bulk, decisions);
  // Rank 0 may hold the store: it stays until all have read from it.
  communicator->Meet();
  return communicator.release();
}
