// What needs no second process: the single one, the choice of a backend, and what ranks say who do not agree. Ranks themselves:
// tests/ranks.
#include "common/parallel/communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "common/base/error.h"
#include "common/base/hardware.h"
#include "common/parallel/waiting.h"

namespace fairway {
namespace {

using testing::HasSubstr;

template <class Error, class Call>
std::string MessageOf(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

Settings Backend(const std::string& name) {
  Settings settings;
  settings.Set("backend", name, Origin::kCommandLine, "test");
  return settings;
}

TEST(Communicator, ASingleProcessHearsItself) {
  Communicator& single = Communicator::Single();
  EXPECT_EQ(single.rank(), 0);
  EXPECT_EQ(single.world_size(), 1);
  EXPECT_EQ(single.name(), "single");
  const std::vector<double> numbers = {3, 1.5};
  EXPECT_EQ(single.Gather(numbers), numbers);
  EXPECT_EQ(single.Gather("text"), std::vector<std::string>{"text"});
  float x = 7;
  const Message own{&x, sizeof x, 0};
  single.Wait(single.Broadcast({&own, 1}));
  EXPECT_EQ(x, 7);
  EXPECT_EQ(single.bulk_bytes() + single.gathered_bytes(), 0);
}

TEST(Communicator, IsChosenByWhereRanksComputeAndHowManyThereAre) {
  for (const char* name : {"RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}) unsetenv(name);
  EXPECT_EQ(MakeCommunicator(Backend("auto"), /*on_gpu=*/false)->name(), "single");
  EXPECT_EQ(MakeCommunicator(Backend("auto"), /*on_gpu=*/true)->name(), "single");
  EXPECT_THAT(MessageOf<UsageError>([] { MakeCommunicator(Backend("mpi"), /*on_gpu=*/true); }), HasSubstr("BACKEND=mpi: MPI is for CPUs"));
  EXPECT_THAT(MessageOf<UsageError>([] { MakeCommunicator(Backend("nccl"), /*on_gpu=*/false); }),
              HasSubstr(BuiltWithCuda() ? "this rank computes on the CPU" : "made without nvcc"));
  setenv("RANK", "1", 1);
  setenv("WORLD_SIZE", "2", 1);
  EXPECT_EQ(MessageOf<UsageError>([] { MakeCommunicator(Backend("single"), false); }), "BACKEND=single: started as one of 2 ranks");
  EXPECT_THAT(MessageOf<IoError>([] { MakeCommunicator(Backend("auto"), false); }),
              HasSubstr("torchrun: " + std::string(GpuCount() == 0 ? "no GPU" : "this rank computes on the CPU") + ", and its ranks talk by NCCL"));
  unsetenv("RANK");
  unsetenv("WORLD_SIZE");
}

// Two ranks, of which this process is the first; the other sends what the test wants.
class Pair : public Communicator {
 public:
  explicit Pair(std::string other) : Communicator(0, 2), other_(std::move(other)) {}
  std::string name() const override { return "pair"; }

 private:
  std::unique_ptr<Transfer> StartExchange(std::span<const Message>, std::span<const Message>) override {
    throw std::runtime_error("no answer from rank 1");
  }
  std::unique_ptr<Transfer> StartBroadcast(std::span<const Message>) override { return nullptr; }
  void GatherBytes(const void* mine, int64_t bytes, void* all) override {
    char* to = static_cast<char*>(all);
    std::copy_n(static_cast<const char*>(mine), bytes, to);
    if (bytes == sizeof(double)) {
      const double size = static_cast<double>(other_.size());
      std::copy_n(reinterpret_cast<const char*>(&size), bytes, to + bytes);
    } else {
      std::copy_n(other_.c_str(), std::min<int64_t>(bytes, static_cast<int64_t>(other_.size())), to + bytes);
    }
  }
  std::string other_;
};

TEST(Communicator, ReportsWhatAPluginThrows) {
  Pair pair("");
  EXPECT_EQ(MessageOf<IoError>([&] { pair.Exchange({}, {}); }), "pair: no answer from rank 1");
}

// Ranks of one process, a thread each: they meet at every Gather.
class Rendezvous {
 public:
  explicit Rendezvous(int64_t ranks) : ranks_(ranks) {}
  void Gather(int64_t rank, const void* mine, int64_t bytes, void* all) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !leaving_; });
    said_.resize(ranks_ * bytes);
    std::copy_n(static_cast<const char*>(mine), bytes, said_.data() + rank * bytes);
    if (++arrived_ == ranks_) {
      leaving_ = true;
      ++rounds_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return leaving_; });
    std::ranges::copy(said_, static_cast<char*>(all));
    if (--arrived_ == 0) {
      leaving_ = false;
      changed_.notify_all();
    }
  }
  // Returns after so many more rounds.
  void Await(int64_t rounds) {
    std::unique_lock lock(mutex_);
    const int64_t until = rounds_ + rounds;
    changed_.wait(lock, [&] { return rounds_ >= until; });
  }

 private:
  const int64_t ranks_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<char> said_;
  int64_t arrived_ = 0, rounds_ = 0;
  bool leaving_ = false;
};

class Member : public Communicator {
 public:
  Member(Rendezvous& rendezvous, int64_t rank, int64_t ranks) : Communicator(rank, ranks), rendezvous_(rendezvous) { set_sign_of_life_seconds(0.00025); }
  std::string name() const override { return "member"; }

 private:
  std::unique_ptr<Transfer> StartExchange(std::span<const Message>, std::span<const Message>) override { return nullptr; }
  std::unique_ptr<Transfer> StartBroadcast(std::span<const Message>) override { return nullptr; }
  void GatherBytes(const void* mine, int64_t bytes, void* all) override { rendezvous_.Gather(rank(), mine, bytes, all); }
  Rendezvous& rendezvous_;
};

// The work does not end before the others have received three signs of life.
TEST(OnRankZero, TheOthersHearThatItIsAtWork) {
  Rendezvous rendezvous(3);
  std::atomic<int> calls = 0, over = 0;
  {
    std::vector<std::jthread> ranks;
    for (int64_t rank = 0; rank < 3; ++rank)
      ranks.emplace_back([&, rank] {
        Member member(rendezvous, rank, 3);
        member.OnRankZero([&] {
          EXPECT_EQ(rank, 0);
          ++calls;
          rendezvous.Await(3);
        });
        EXPECT_EQ(calls, 1);
        // Afterwards they are in step.
        const double mine = static_cast<double>(rank);
        EXPECT_EQ(member.Gather({&mine, 1}), (std::vector<double>{0, 1, 2}));
        ++over;
      });
  }
  EXPECT_EQ(over, 3);
}

TEST(OnRankZero, AFailureEndsAll) {
  Rendezvous rendezvous(2);
  std::string zero, one;
  {
    std::jthread other([&] {
      Member member(rendezvous, 1, 2);
      one = MessageOf<IoError>([&] { member.OnRankZero([] {}); });
    });
    Member member(rendezvous, 0, 2);
    zero = MessageOf<InputError>([&] { member.OnRankZero([] { throw InputError("file", "is bad"); }); });
  }
  EXPECT_EQ(zero, "file: is bad");
  EXPECT_EQ(one, "rank 0: has failed; its own message says why");
}

// Not that the others can no longer be told.
TEST(OnRankZero, AFailureIsTheCauseAlsoWhereTheOthersHaveGone) {
  class Alone : public Communicator {
   public:
    Alone() : Communicator(0, 2) {}
    std::string name() const override { return "alone"; }

   private:
    std::unique_ptr<Transfer> StartExchange(std::span<const Message>, std::span<const Message>) override { return nullptr; }
    std::unique_ptr<Transfer> StartBroadcast(std::span<const Message>) override { return nullptr; }
    void GatherBytes(const void*, int64_t, void*) override { throw std::runtime_error("no answer"); }
  } alone;
  EXPECT_EQ(MessageOf<InputError>([&] { alone.OnRankZero([] { throw InputError("file", "is bad"); }); }), "file: is bad");
}

// Where the others have gone, what was begun is finished all the same.
TEST(OnRankZero, IsFinishedAlsoWhereTheOthersHaveGone) {
  class Lonely : public Communicator {
   public:
    Lonely() : Communicator(0, 2) { set_sign_of_life_seconds(0.00025); }
    std::string name() const override { return "lonely"; }
    std::atomic<bool> asked = false;

   private:
    std::unique_ptr<Transfer> StartExchange(std::span<const Message>, std::span<const Message>) override { return nullptr; }
    std::unique_ptr<Transfer> StartBroadcast(std::span<const Message>) override { return nullptr; }
    void GatherBytes(const void*, int64_t, void*) override {
      asked = true;
      asked.notify_all();
      throw std::runtime_error("no answer");
    }
  } lonely;
  bool finished = false;
  EXPECT_EQ(MessageOf<IoError>([&] {
              lonely.OnRankZero([&] {
                lonely.asked.wait(false);
                finished = true;
              });
            }),
            "lonely: no answer");
  EXPECT_TRUE(finished);
}

TEST(OnRankZero, ASingleProcessWorksOnItsOwnThread) {
  std::thread::id where;
  Communicator::Single().OnRankZero([&] { where = std::this_thread::get_id(); });
  EXPECT_EQ(where, std::this_thread::get_id());
}

TEST(RequireAgreement, NamesWhoDiffersAndInWhat) {
  // A value that is not given is one too, and hides nothing that comes after it.
  const std::vector<RankInvariant> invariants = {{"seed", "1"}, {"patterns", ""}, {"model_dim", "512"}};
  Pair same("seed=1\npatterns=\nmodel_dim=512\n");
  RequireAgreement(same, invariants);
  Pair other("seed=2\npatterns=\nmodel_dim=512\n");
  EXPECT_EQ(MessageOf<InputError>([&] { RequireAgreement(other, invariants); }), "rank 1: disagrees with rank 0: seed is 2 there and 1 on rank 0");
  Pair last("seed=1\npatterns=\nmodel_dim=256\n");
  EXPECT_EQ(MessageOf<InputError>([&] { RequireAgreement(last, invariants); }),
            "rank 1: disagrees with rank 0: model_dim is 256 there and 512 on rank 0");
  Pair fewer("seed=1\npatterns=\n");
  EXPECT_EQ(MessageOf<InputError>([&] { RequireAgreement(fewer, invariants); }),
            "rank 1: disagrees with rank 0: model_dim is missing there and 512 on rank 0");
}

// abort_run is a function without a state.
std::atomic<int> aborted_runs = 0;
PluginOptions WithTimeout(double seconds) {
  return {{}, seconds, [](const std::string& cause) {
            EXPECT_THAT(cause, HasSubstr("test: no answer from another rank in a call for"));
            ++aborted_runs;
            aborted_runs.notify_all();
          }};
}

// The call returns before the watching thread runs, while it begins to wait, and after that.
TEST(AbortAfterTimeout, EndsNoRunWhoseCallReturnsInTime) {
  aborted_runs = 0;
  for (int round = 0; round < 10'000; ++round) {
    const std::jthread in_time = AbortAfterTimeout(WithTimeout(600), "test", "a call");
    const auto returns = std::chrono::steady_clock::now() + std::chrono::nanoseconds(round % 1000 * 100);
    while (std::chrono::steady_clock::now() < returns);
  }
  EXPECT_EQ(aborted_runs, 0);
}

TEST(AbortAfterTimeout, EndsTheRunWhoseCallDoesNotReturn) {
  aborted_runs = 0;
  const std::jthread in_time = AbortAfterTimeout(WithTimeout(0.01), "test", "a call");
  aborted_runs.wait(0);
  EXPECT_EQ(aborted_runs, 1);
}

}  // namespace
}  // namespace fairway
