// What needs no second process: the single one, the choice of a backend, and what ranks say who do not agree. Ranks themselves:
// tests/ranks.
#include "common/parallel/communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "common/base/error.h"
#include "common/base/machine.h"

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

// Two ranks, of which this process is the first; the other says what it is told to.
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

TEST(RequireAgreement, NamesWhoDiffersAndInWhat) {
  const std::vector<Fact> facts = {{"seed", "1"}, {"model_dim", "512"}};
  Pair same("seed\n1\nmodel_dim\n512\n");
  RequireAgreement(same, facts);
  Pair other("seed\n2\nmodel_dim\n512\n");
  EXPECT_EQ(MessageOf<InputError>([&] { RequireAgreement(other, facts); }), "rank 1: disagrees with rank 0: seed is 2 there and 1 on rank 0");
  Pair fewer("seed\n1\n");
  EXPECT_EQ(MessageOf<InputError>([&] { RequireAgreement(fewer, facts); }),
            "rank 1: disagrees with rank 0: missing is missing there and 512 on rank 0");
}

}  // namespace
}  // namespace fairway
