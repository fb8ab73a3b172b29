#include "common/parallel/communicator.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <future>
#include <stdexcept>

#include "common/base/error.h"
#include "common/base/hardware.h"
#include "common/base/log.h"
#include "common/base/plugin.h"
#include "common/base/text.h"

namespace fairway {
namespace {

class SingleProcess : public Communicator {
 public:
  SingleProcess() : Communicator(0, 1) {}
  std::string name() const override { return "single"; }

 private:
  class Done : public Transfer {
    void Finish() override {}
  };
  std::unique_ptr<Transfer> StartExchange(std::span<const Message>, std::span<const Message>) override {
    return std::make_unique<Done>();
  }
  std::unique_ptr<Transfer> StartBroadcast(std::span<const Message>) override { return std::make_unique<Done>(); }
  void GatherBytes(const void* mine, int64_t bytes, void* all) override {
    std::copy_n(static_cast<const char*>(mine), bytes, static_cast<char*>(all));
  }
};

// Calls a plug-in, and says what it reports as an error of this run.
template <class Call>
auto AsIoError(const Communicator& communicator, Call call) {
  try {
    return call();
  } catch (const std::runtime_error& error) {
    throw IoError(communicator.name(), error.what());
  }
}

void AbortRun(const std::string& cause) {
  try {
    LogFailure(cause);
  } catch (const IoError&) {
    // The log's file, which standard error has reported.
  }
  _exit(static_cast<int>(ExitStatus::kIo));
}

std::unique_ptr<Communicator> Load(const char* library, const char* symbol, const PluginOptions& options, const char* backend) {
  const auto make = reinterpret_cast<CommunicatorFunction*>(LoadPlugin(library, symbol));
  try {
    std::unique_ptr<Communicator> communicator(make(options));
    communicator->set_sign_of_life_seconds(std::min(1.0, options.timeout_seconds / 4));
    return communicator;
  } catch (const std::exception& error) {
    throw IoError(backend, "does not start: " + FirstLine(error.what()));
  }
}

}  // namespace

Communicator& Communicator::Single() {
  static SingleProcess single;
  return single;
}

std::unique_ptr<Communicator::Transfer> Communicator::Exchange(std::span<const Message> sends, std::span<const Message> receives) {
  for (const Message& message : receives) bulk_bytes_ += message.bytes;
  return AsIoError(*this, [&] { return StartExchange(sends, receives); });
}

std::unique_ptr<Communicator::Transfer> Communicator::Broadcast(std::span<const Message> messages) {
  for (const Message& message : messages) bulk_bytes_ += message.rank == rank_ ? 0 : message.bytes;
  return AsIoError(*this, [&] { return StartBroadcast(messages); });
}

void Communicator::Wait(std::unique_ptr<Transfer> transfer) {
  AsIoError(*this, [&] { transfer->Finish(); });
}

std::vector<double> Communicator::Gather(std::span<const double> mine) {
  std::vector<double> all(mine.size() * world_size_);
  gathered_bytes_ += static_cast<int64_t>(mine.size_bytes()) * (world_size_ - 1);
  AsIoError(*this, [&] { GatherBytes(mine.data(), static_cast<int64_t>(mine.size_bytes()), all.data()); });
  return all;
}

std::vector<std::string> Communicator::Gather(const std::string& mine) {
  const double size = static_cast<double>(mine.size());
  const std::vector<double> sizes = Gather(std::span(&size, 1));
  const auto longest = static_cast<int64_t>(*std::max_element(sizes.begin(), sizes.end()));
  std::string padded = mine, all(longest * world_size_, '\0');
  padded.resize(longest);
  gathered_bytes_ += longest * (world_size_ - 1);
  AsIoError(*this, [&] { GatherBytes(padded.data(), longest, all.data()); });
  std::vector<std::string> texts;
  for (int64_t rank = 0; rank < world_size_; ++rank)
    texts.push_back(all.substr(rank * longest, static_cast<size_t>(sizes[rank])));
  return texts;
}

void Communicator::OnRankZero(const std::function<void()>& work) {
  if (world_size_ == 1) return work();
  enum State { kAtWork, kDone, kFailed };
  // Only this thread may talk to the others (MPI_THREAD_FUNNELED).
  const auto tell = [&](State state) {
    const double mine = state;
    return static_cast<State>(Gather({&mine, 1})[0]);
  };
  if (rank_ > 0) {
    State state;
    do state = tell(kAtWork);
    while (state == kAtWork);
    if (state == kFailed) throw IoError("rank 0", "has failed; its own message says why");
    return;
  }
  std::future<void> working = std::async(std::launch::async, work);
  const std::chrono::duration<double> pause(sign_of_life_seconds_);
  std::exception_ptr lost;  // an answer from the others: what is being written is finished first
  while (working.wait_for(lost ? std::chrono::duration<double>(3600) : pause) != std::future_status::ready) {
    if (lost) continue;
    try {
      tell(kAtWork);
    } catch (const IoError&) {
      lost = std::current_exception();
    }
  }
  try {
    working.get();
  } catch (...) {
    try {
      if (!lost) tell(kFailed);
    } catch (const IoError&) {  // the first cause is the one to report
    }
    throw;
  }
  if (lost) std::rethrow_exception(lost);
  tell(kDone);
}

std::unique_ptr<Communicator> MakeCommunicator(const Settings& settings, bool on_gpu) {
  const PluginOptions options{ReadLaunch(), settings.comm_timeout_seconds, AbortRun};
  const int64_t world_size = options.launch.world_size;
  const std::string& asked = settings.backend;
  const std::string backend = asked != "auto" ? asked : world_size == 1 ? "single" : on_gpu ? "nccl" : "mpi";
  if (backend == "single") {
    if (world_size > 1) throw UsageError(StringPrintf("BACKEND=single: started as one of %jd ranks", world_size));
    return std::make_unique<SingleProcess>();
  }
  if (asked == "auto" && !on_gpu && options.launch.launcher == "torchrun") {
    throw IoError("torchrun", std::string(GpuCount() == 0 ? "no GPU" : "this rank computes on the CPU") +
                                  ", and its ranks talk by NCCL, which is for GPUs; on CPUs: mpirun");
  }
  if (backend == "nccl") {
    if (!BuiltWithCuda()) throw UsageError("BACKEND=nccl: this build is for CPUs only; it was made without nvcc");
    if (!on_gpu) throw UsageError("BACKEND=nccl: NCCL is for GPUs, and this rank computes on the CPU");
    return Load("libfairway_nccl.so", kNcclSymbol, options, "nccl");
  }
  if (on_gpu) throw UsageError("BACKEND=mpi: MPI is for CPUs here, and this rank computes on a GPU (DEVICE=cpu)");
  if (!BuiltWithMpi()) throw UsageError("BACKEND=mpi: this build has no MPI; it was made without an MPI library (libopenmpi-dev)");
  return Load("libfairway_mpi.so", kMpiSymbol, options, "mpi");
}

std::vector<RankInvariant> ProgramInvariants(const std::string& version, const std::string& source_digest, const Settings& settings, unsigned stages) {
  constexpr std::string_view kOwn[] = {"data_path", "tokenizer_path", "byte_table", "threads", "memory_limit", "run_id"};
  std::vector<RankInvariant> invariants = {{"the program's version", version}, {"its sources", source_digest}};
  for (const auto& [name, value] : settings.Select(stages, /*with_run=*/true))
    if (std::find(std::begin(kOwn), std::end(kOwn), name) == std::end(kOwn)) invariants.push_back({name, value});
  return invariants;
}

void RequireAgreement(Communicator& communicator, const std::vector<RankInvariant>& invariants) {
  // A line each; none has several. The first two, the program's version and its sources, settle that all ranks name the same ones.
  std::string mine;
  for (const RankInvariant& invariant : invariants) mine += invariant.name + "=" + invariant.value + "\n";
  const std::vector<std::string> all = communicator.Gather(mine);
  const std::vector<std::string> expected = Split(all.front(), '\n');
  for (int64_t rank = 1; rank < communicator.world_size(); ++rank) {
    const std::vector<std::string> other = Split(all[rank], '\n');
    for (size_t i = 0; i < std::max(expected.size(), other.size()); ++i) {
      const std::string here = i < expected.size() ? expected[i] : "", there = i < other.size() ? other[i] : "";
      if (here == there) continue;
      const auto value = [](const std::string& line) {
        const size_t begin = line.find('=') + 1;  // 0 where there is no such line
        return begin == 0 ? "missing" : begin == line.size() ? "nothing" : line.substr(begin);
      };
      const std::string& named = here.empty() ? there : here;
      throw InputError(StringPrintf("rank %jd", rank), "disagrees with rank 0: " + named.substr(0, named.find('=')) + " is " + value(there) +
                                                           " there and " + value(here) + " on rank 0");
    }
  }
}

}  // namespace fairway
