// libfairway_mpi.so: ranks that compute on CPUs, by MPI. Every transfer is one of MPI's that does not block, so that a rank can give
// up waiting.
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "common/parallel/waiting.h"

namespace fairway {
namespace {

void Check(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw std::runtime_error(std::string(what) + ": " + std::string(text, length));
}

class Mpi : public Communicator {
 public:
  explicit Mpi(const PluginOptions& options)
      : Communicator(options.launch.rank, options.launch.world_size), options_(options) {}

  // Where an error ends this rank the others may be gone, and waiting for them here would be for ever: who started them sees them end.
  ~Mpi() override {
    if (std::uncaught_exceptions() > 0) return;
    const std::jthread watch = AbortAfterTimeout(options_, "mpi", "MPI_Finalize");
    MPI_Finalize();
  }

  std::string name() const override { return "mpi"; }

  void Progress() override {
    int ignored;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &ignored, MPI_STATUS_IGNORE);
  }

 private:
  static constexpr int64_t kLargest = int64_t{1} << 30;  // of one transfer, which MPI counts in an int

  // Calls transfer(data, bytes) for as many parts of a message as it takes.
  template <class Part>
  static void InParts(const Message& message, Part part) {
    for (int64_t done = 0; done < message.bytes; done += kLargest)
      part(static_cast<char*>(message.data) + done, static_cast<int>(std::min(kLargest, message.bytes - done)));
  }

  struct Requests : Transfer {
    explicit Requests(const Mpi& own) : mpi(own) {}
    // Who is waited for is known of an exchange: -1 of a collective operation.
    MPI_Request* Add(int64_t rank) {
      ranks.push_back(rank);
      return &requests.emplace_back(MPI_REQUEST_NULL);
    }
    void Finish() override {
      const auto begin = std::chrono::steady_clock::now();
      for (int64_t tries = 0;; ++tries) {
        int done = 0;
        Check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE), "a transfer failed");
        if (done) return;
        if (tries < 1000) continue;
        const double waited = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        if (waited > mpi.options_.timeout_seconds) throw std::runtime_error(Missing());
        // Ranks may be more than processors: one that waits yields its processor to those that compute.
        if (waited < 1e-3) std::this_thread::yield();
        else std::this_thread::sleep_for(std::chrono::microseconds(waited < 0.1 ? 50 : 500));
      }
    }
    std::string Missing() const {
      std::vector<int64_t> missing;
      for (size_t i = 0; i < requests.size(); ++i)
        if (requests[i] != MPI_REQUEST_NULL && ranks[i] >= 0 && std::find(missing.begin(), missing.end(), ranks[i]) == missing.end())
          missing.push_back(ranks[i]);
      std::sort(missing.begin(), missing.end());
      std::string who = missing.empty() ? "another rank" : missing.size() == 1 ? "rank" : "ranks";
      for (int64_t rank : missing) who += " " + std::to_string(rank);
      return TimeoutMessage(who, mpi.options_.timeout_seconds);
    }
    const Mpi& mpi;
    std::vector<MPI_Request> requests;
    std::vector<int64_t> ranks;
  };

  std::unique_ptr<Transfer> StartExchange(std::span<const Message> sends, std::span<const Message> receives) override {
    auto started = std::make_unique<Requests>(*this);
    const int tag = tag_ = (tag_ + 1) % (1 << 15);  // the standard's largest
    started->requests.reserve(sends.size() + receives.size());
    for (const Message& message : receives) {
      InParts(message, [&](void* data, int bytes) {
        Check(MPI_Irecv(data, bytes, MPI_BYTE, static_cast<int>(message.rank), tag, MPI_COMM_WORLD, started->Add(message.rank)),
              "cannot receive");
      });
    }
    for (const Message& message : sends) {
      InParts(message, [&](void* data, int bytes) {
        Check(MPI_Isend(data, bytes, MPI_BYTE, static_cast<int>(message.rank), tag, MPI_COMM_WORLD, started->Add(message.rank)),
              "cannot send");
      });
    }
    return started;
  }

  std::unique_ptr<Transfer> StartBroadcast(std::span<const Message> messages) override {
    auto started = std::make_unique<Requests>(*this);
    for (const Message& message : messages) {
      InParts(message, [&](void* data, int bytes) {
        Check(MPI_Ibcast(data, bytes, MPI_BYTE, static_cast<int>(message.rank), MPI_COMM_WORLD, started->Add(-1)), "cannot broadcast");
      });
    }
    return started;
  }

  void GatherBytes(const void* mine, int64_t bytes, void* all) override {
    Requests gathering(*this);
    Check(MPI_Iallgather(mine, static_cast<int>(bytes), MPI_BYTE, all, static_cast<int>(bytes), MPI_BYTE, MPI_COMM_WORLD,
                         gathering.Add(-1)),
          "cannot gather");
    gathering.Finish();
  }

  const PluginOptions options_;
  int tag_ = 0;
};

}  // namespace
}  // namespace fairway

extern "C" __attribute__((visibility("default"))) fairway::Communicator* FairwayMpiCommunicator(
    const fairway::PluginOptions& options) {
  int provided = 0, rank = 0, size = 0;
  {
    const std::jthread watch = fairway::AbortAfterTimeout(options, "mpi", "MPI_Init");
    fairway::Check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "cannot start");
  }
  if (provided < MPI_THREAD_FUNNELED) throw std::runtime_error("this MPI library is not for programs with threads");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (rank != options.launch.rank || size != options.launch.world_size)
    throw std::runtime_error("MPI knows this process as rank " + std::to_string(rank) + " of " + std::to_string(size) +
                             ", its environment as rank " + std::to_string(options.launch.rank) + " of " +
                             std::to_string(options.launch.world_size) + "; ranks on CPUs are started by mpirun or srun --mpi");
  return new fairway::Mpi(options);
}
