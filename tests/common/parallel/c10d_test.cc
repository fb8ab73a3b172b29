// The communicator on LibTorch's process groups without a GPU: ranks are threads, the backend is one of mailboxes in this process, the
// store LibTorch's own. What only NCCL has is common/parallel/nccl.cc alone.
#include "common/parallel/c10d.h"

#include <ATen/ops/empty.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>

#include "common/base/error.h"

namespace fairway {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;

std::mutex told_mutex;
std::string abort_message;  // to abort_run
void AbortRun(const std::string& cause) {
  const std::lock_guard lock(told_mutex);
  if (abort_message.empty()) abort_message = cause;
}
std::string AbortMessage() {
  const std::lock_guard lock(told_mutex);
  return abort_message;
}

// Messages between ranks, by sender and receiver.
struct Mail {
  std::mutex mutex;
  std::condition_variable arrived;
  std::map<std::pair<int, int>, std::deque<at::Tensor>> boxes;

  void Put(int from, int to, const at::Tensor& tensor) {
    const std::lock_guard lock(mutex);
    boxes[{from, to}].push_back(tensor.clone());
    arrived.notify_all();
  }
  bool Take(int from, int to, std::chrono::milliseconds wait, at::Tensor tensor) {
    std::unique_lock lock(mutex);
    auto& box = boxes[{from, to}];
    if (!arrived.wait_for(lock, wait, [&] { return !box.empty(); })) return false;
    tensor.copy_(box.front());
    box.pop_front();
    return true;
  }
};

struct MailBackend : c10d::Backend {
  MailBackend(int rank, int size, Mail& mail) : Backend(rank, size), mail(mail) {}

  // A group of receipts, carried out in order.
  struct MailWork : c10d::Work {
    bool isCompleted() override { return done; }
    bool wait(std::chrono::milliseconds) override {
      for (const auto& receive : receives)
        while (!receive(10ms)) {
          if (failed) throw c10::Error("no such peer\nstack trace", nullptr);
        }
      done = true;
      return true;
    }
    std::exception_ptr exception() const override {
      return failed ? std::make_exception_ptr(std::runtime_error("the peer is gone\nstack trace")) : nullptr;
    }
    std::vector<std::function<bool(std::chrono::milliseconds)>> receives;
    std::atomic<bool> done = false, failed = false;
  };

  void startCoalescing() override {
    EXPECT_EQ(group, nullptr) << "a group was left open";
    group = c10::make_intrusive<MailWork>();
  }
  c10::intrusive_ptr<c10d::Work> endCoalescing() override { return last = std::move(group); }
  c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor>& tensors, int to, int) override {
    if (refuse_sends) throw c10::Error("sending is refused\nstack trace", nullptr);
    mail.Put(getRank(), to, tensors.at(0));
    return nullptr;
  }
  c10::intrusive_ptr<c10d::Work> recv(std::vector<at::Tensor>& tensors, int from, int) override {
    group->receives.push_back([this, from, tensor = tensors.at(0)](auto wait) { return mail.Take(from, getRank(), wait, tensor); });
    return nullptr;
  }
  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor>& tensors, const c10d::BroadcastOptions& options) override {
    const auto root = static_cast<int>(options.rootRank);
    if (root != getRank()) return recv(tensors, root, 0);
    for (int to = 0; to < getSize(); ++to)
      if (to != root) mail.Put(root, to, tensors.at(0));
    return nullptr;
  }
  void shutdown() override { ++ends; }
  void abort() override { ++aborts; }

  Mail& mail;
  c10::intrusive_ptr<MailWork> group, last;
  bool refuse_sends = false;
  static inline std::atomic<int> ends = 0, aborts = 0;
};

class C10dTest : public testing::Test {
 protected:
  C10dTest() {
    MailBackend::ends = MailBackend::aborts = 0;
    abort_message.clear();
  }

  // As rank `rank` of `size`; `seconds`: the time limit.
  std::unique_ptr<Communicator> Join(int64_t rank, int64_t size, double seconds = 20) {
    PluginOptions options{{}, seconds, AbortRun};
    options.launch.rank = rank;
    options.launch.world_size = size;
    return MakeC10dCommunicator(options, {.name = "mail",
                                          .store = store,
                                          .make_backend = [this, rank, size]() -> c10::intrusive_ptr<c10d::Backend> {
                                            const auto made = c10::make_intrusive<MailBackend>(static_cast<int>(rank), static_cast<int>(size), mail);
                                            const std::lock_guard lock(mail.mutex);
                                            backends[rank] = made;
                                            return made;
                                          },
                                          .device = at::kCPU,
                                          .on_device = [this](const void* memory) { return memory != host; }});
  }
  // Calls body(communicator) as each of `size` ranks, a thread each.
  template <class Body>
  void AsRanks(int64_t size, Body body) {
    std::vector<std::thread> threads;
    for (int64_t rank = 0; rank < size; ++rank)
      threads.emplace_back([&, rank] {
        const auto communicator = Join(rank, size);
        body(*communicator);
      });
    for (std::thread& thread : threads) thread.join();
  }

  c10::intrusive_ptr<c10d::Store> store = c10::make_intrusive<c10d::PrefixStore>("test", c10::make_intrusive<c10d::HashStore>());
  Mail mail;
  std::map<int64_t, c10::intrusive_ptr<MailBackend>> backends;
  const void* host = nullptr;  // memory that is not the device's
};

TEST_F(C10dTest, GathersNumbersAndTextsInTheOrderOfTheRanks) {
  AsRanks(4, [](Communicator& communicator) {
    const double rank = static_cast<double>(communicator.rank());
    for (int round = 0; round < 20; ++round) {
      const std::vector<double> mine = {rank, round + 10 * rank};
      std::vector<double> expected;
      for (double other = 0; other < 4; ++other) expected.insert(expected.end(), {other, round + 10 * other});
      EXPECT_EQ(communicator.Gather(mine), expected);
    }
    const std::vector<std::string> texts = {"", "1", "22", "333"};
    EXPECT_EQ(communicator.Gather(texts[communicator.rank()]), texts);
    EXPECT_EQ(communicator.name(), "mail");
  });
  EXPECT_EQ(MailBackend::ends, 4);
  EXPECT_EQ(MailBackend::aborts, 0);
  EXPECT_EQ(AbortMessage(), "");
  // Nothing is left but the last round's whole and what ranks said when they left.
  EXPECT_LE(store->getNumKeys(), 1 + 3 + 1);
}

TEST_F(C10dTest, ExchangesAndBroadcasts) {
  AsRanks(3, [](Communicator& communicator) {
    const int64_t me = communicator.rank();
    std::vector<float> mine(5, static_cast<float>(me)), from[3];
    for (auto& values : from) values.assign(5, -1);
    std::vector<Message> sends, receives;
    for (int64_t other = 0; other < 3; ++other) {
      if (other == me) continue;
      sends.push_back({mine.data(), 4 * (other + 1), other});  // rank r takes r + 1 numbers of each
      receives.push_back({from[other].data(), 4 * (me + 1), other});
    }
    sends.push_back({nullptr, 0, (me + 1) % 3});  // nothing to say
    receives.push_back({nullptr, 0, (me + 2) % 3});
    communicator.Wait(communicator.Exchange(sends, receives));
    for (int64_t other = 0; other < 3; ++other)
      for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(from[other][i], other != me && i <= me ? static_cast<float>(other) : -1.0f);
    std::vector<float> roots = {-1, -1, -1};
    roots[me] = static_cast<float>(10 + me);
    std::vector<Message> all;
    for (int64_t root = 0; root < 3; ++root) all.push_back({&roots[root], 4, root});
    communicator.Wait(communicator.Broadcast(all));
    EXPECT_EQ(roots, (std::vector<float>{10, 11, 12}));
    communicator.Wait(communicator.Exchange({}, {}));
    EXPECT_EQ(communicator.bulk_bytes(), 2 * 4 * (me + 1) + 2 * 4);
  });
  EXPECT_EQ(AbortMessage(), "");
}

TEST_F(C10dTest, MemoryThatIsNotTheDevicesPassesThroughIt) {
  float on_host[2] = {1, 0};
  host = &on_host[0];
  AsRanks(2, [&](Communicator& communicator) {
    float own = 0;
    const Message give{communicator.rank() == 0 ? &on_host[0] : nullptr, 4, 1}, take{&own, 4, 0};
    if (communicator.rank() == 0) communicator.Wait(communicator.Exchange({&give, 1}, {}));
    else communicator.Wait(communicator.Exchange({}, {&take, 1}));
    if (communicator.rank() == 1) {
      EXPECT_EQ(own, 1);
    }
    communicator.Gather("both");
    // Back into it.
    if (communicator.rank() == 1) own = 7;
    const Message back{communicator.rank() == 0 ? &on_host[0] : &own, 4, 1};
    communicator.Wait(communicator.Broadcast({&back, 1}));
  });
  EXPECT_EQ(on_host[0], 7);
}

TEST_F(C10dTest, NamesTheRanksThatDoNotCome) {
  const auto said = [&](int64_t rank) -> std::string {
    try {
      Join(rank, 4, 0.3);
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "nothing";
  };
  std::string other;
  std::thread second([&] { other = said(2); });
  store->wait({"1/2"});  // it has come
  const std::string first = said(0);
  second.join();
  EXPECT_THAT(first, HasSubstr("no answer from ranks 1 3 for 0 s"));
  EXPECT_EQ(other, first);  // which only rank 0 knows itself
  EXPECT_THAT(said(1), HasSubstr("no answer from"));
}

TEST_F(C10dTest, RefusesPartsOfAnotherSize) {
  std::string said;
  std::thread second([&] {
    const auto communicator = Join(1, 2, 2);
    const double numbers[2] = {};
    try {
      communicator->Gather(numbers);
    } catch (const IoError&) {  // rank 0 has gone
    }
  });
  {
    const auto communicator = Join(0, 2, 2);
    const double number = 0;
    try {
      communicator->Gather({&number, 1});
    } catch (const IoError& error) {
      said = error.what();
    }
    second.join();
    store->set("left/1", std::vector<uint8_t>{1});
  }
  EXPECT_EQ(said, "mail: rank 1 left 16 bytes where 8 were due");
}

TEST_F(C10dTest, AnErrorInsideAGroupClosesIt) {
  const auto communicator = Join(0, 1);
  float x = 1;
  const Message message{&x, 4, 0};
  backends[0]->refuse_sends = true;
  for (int i = 0; i < 2; ++i) {  // the second finds no open group
    try {
      communicator->Exchange({&message, 1}, {});
      ADD_FAILURE() << "nothing was thrown";
    } catch (const IoError& error) {
      EXPECT_STREQ(error.what(), "mail: an exchange: sending is refused");
    }
  }
}

TEST_F(C10dTest, GivesUpOnATransferThatDoesNotEnd) {
  const auto communicator = Join(0, 1, 2);
  float x = 1;
  const Message message{&x, 4, 0};
  const auto transfer = communicator->Exchange({}, {&message, 1});  // nobody sends
  const auto begin = std::chrono::steady_clock::now();
  while (AbortMessage().empty() && std::chrono::steady_clock::now() - begin < 60s) std::this_thread::sleep_for(1ms);
  EXPECT_THAT(AbortMessage(), HasSubstr("mail: no answer from another rank in an exchange for 2 s"));
}

TEST_F(C10dTest, GivesUpOnATransferThatHasFailed) {
  const auto communicator = Join(0, 1, 600);
  float x = 1;
  const Message message{&x, 4, 0};
  const auto transfer = communicator->Broadcast({&message, 1});
  backends[0]->last->failed = true;
  const auto begin = std::chrono::steady_clock::now();
  while (AbortMessage().empty() && std::chrono::steady_clock::now() - begin < 60s) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(AbortMessage(), "mail: a broadcast failed: the peer is gone");
}

TEST_F(C10dTest, AnErrorOfThisRankAbortsTheBackend) {
  try {
    const auto communicator = Join(0, 1);
    throw std::runtime_error("of this rank");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(MailBackend::aborts, 1);
  EXPECT_EQ(MailBackend::ends, 0);
}

}  // namespace
}  // namespace fairway
