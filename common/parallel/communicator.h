// Communication between the ranks of one run. Three implementations: a single process, which communicates with no other; MPI, in
// memory of the CPU (mpi.cc); NCCL, in memory of the GPUs (nccl.cc). The last two are plug-ins that are loaded where they are used.
//
// They move bytes, and nothing more. Who sends what to whom, and in which order sums are taken, is decided once for all of them,
// by those who use this (optim/exchange.h, evaluate/).
//
// REQUIRES, of everything here: all ranks make the same calls in the same order, from one thread.
//
// Where a rank has ended, or does not answer within the time limit, calls that wait for it throw IoError.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/base/launch.h"
#include "common/settings/settings.h"

namespace fairway {

// Memory to send or to receive into: the CPU's, or with NCCL the GPU's.
struct Message {
  void* data;
  int64_t bytes;
  int64_t rank;  // to which it goes, or from which it comes
};

class Communicator {
 public:
  Communicator(int64_t rank, int64_t world_size) : rank_(rank), world_size_(world_size) {}
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  // The communicator of a single process.
  static Communicator& Single();

  int64_t rank() const { return rank_; }
  int64_t world_size() const { return world_size_; }
  virtual std::string name() const = 0;  // single, mpi, nccl

  // A transfer that runs while this rank computes. Its memory must not be used until Wait.
  class Transfer {
   public:
    virtual ~Transfer() = default;

   private:
    friend class Communicator;
    // Returns when it is done; on a GPU, when what this thread puts on the stream next will find it done.
    virtual void Finish() = 0;
  };

  // Sends and receives side by side. Messages of one pair of ranks arrive in the order in which both list them.
  std::unique_ptr<Transfer> Exchange(std::span<const Message> sends, std::span<const Message> receives);
  // Each message from its rank to all others; all list them alike.
  std::unique_ptr<Transfer> Broadcast(std::span<const Message> messages);
  void Wait(std::unique_ptr<Transfer> transfer);
  // Gives time to transfers that progress only inside calls of the library (MPI's).
  virtual void Progress() {}

  // As many numbers from each rank, in the order of the ranks. Always in the CPU's memory; waits for no GPU. Ranks use it to
  // agree on a decision.
  std::vector<double> Gather(std::span<const double> mine);
  // The same for texts.
  std::vector<std::string> Gather(const std::string& mine);

  // Calls work() on rank 0; the others wait for it however long it takes, because rank 0 keeps sending signs of life. There it
  // runs on a thread of its own. What it throws is thrown on rank 0; on the others an IoError that says so.
  void OnRankZero(const std::function<void()>& work);
  // How often rank 0 sends them: more often than the others' patience lasts.
  void set_sign_of_life_seconds(double seconds) { sign_of_life_seconds_ = seconds; }

  // Bytes that have come to this rank from others so far: by Exchange and Broadcast, and by Gather.
  int64_t bulk_bytes() const { return bulk_bytes_; }
  int64_t gathered_bytes() const { return gathered_bytes_; }

 private:
  // They throw std::runtime_error with what is wrong; a plug-in knows no other errors.
  virtual std::unique_ptr<Transfer> StartExchange(std::span<const Message> sends, std::span<const Message> receives) = 0;
  virtual std::unique_ptr<Transfer> StartBroadcast(std::span<const Message> messages) = 0;
  virtual void GatherBytes(const void* mine, int64_t bytes, void* all) = 0;

  const int64_t rank_, world_size_;
  double sign_of_life_seconds_ = 1;
  int64_t bulk_bytes_ = 0, gathered_bytes_ = 0;
};

// The run's communicator, by settings.backend: on a GPU (`on_gpu`) auto is nccl, else mpi, and in a world of one single. Throws
// UsageError where the backend does not fit how the process was started or where it computes, or is not in this build; IoError
// where it cannot be loaded or started.
std::unique_ptr<Communicator> MakeCommunicator(const Settings& settings, bool on_gpu);

// Something that all ranks must have in common: a setting, a digest.
struct RankInvariant {
  std::string name, value;
};
// What every program's ranks have in common: version, sources, and the settings of `stages` but for where things are on a host, how
// many threads it has, and what rank 0 alone uses.
std::vector<RankInvariant> ProgramInvariants(const std::string& version, const std::string& source_digest, const Settings& settings, unsigned stages);
// Throws InputError on every rank where one of them differs from rank 0, and says which, and in what.
void RequireAgreement(Communicator& communicator, const std::vector<RankInvariant>& invariants);

// What the plug-ins export: makes the communicator of this process. Throws std::runtime_error.
struct PluginOptions {
  Launch launch;
  double timeout_seconds;
  // Ends the process with `cause` as an error of this run would: for a thread that watches over a call which does not return.
  void (*abort_run)(const std::string& cause);
};
using CommunicatorFunction = Communicator*(const PluginOptions& options);
inline constexpr char kMpiSymbol[] = "FairwayMpiCommunicator", kNcclSymbol[] = "FairwayNcclCommunicator";

}  // namespace fairway
