#include "common/parallel/c10d.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <list>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "common/parallel/waiting.h"

namespace fairway {
namespace {

using Clock = std::chrono::steady_clock;

std::string FirstLine(const std::exception& error) {
  const std::string text = error.what();  // LibTorch appends a stack trace
  return text.substr(0, text.find('\n'));
}

// Calls work. What LibTorch throws becomes a std::runtime_error that begins with `what`: plug-ins throw no other.
template <class Work>
auto Plainly(const char* what, Work work) {
  try {
    return work();
  } catch (const std::runtime_error&) {
    throw;
  } catch (const std::exception& error) {
    throw std::runtime_error(std::string(what) + ": " + FirstLine(error));
  }
}

// Watches over transfers until they have ended.
class Watch {
 public:
  Watch(const PluginOptions& options, const C10dSetup& setup)
      : options_(options), name_(setup.name), thread_([this, begin = setup.on_watch_thread](const std::stop_token& stop) {
          begin();
          while (!stop.stop_requested()) {
            Look();
            std::this_thread::sleep_for(std::chrono::duration<double>(std::min(0.1, options_.timeout_seconds / 10)));
          }
        }) {}

  void Add(c10::intrusive_ptr<c10d::Work> work, std::string what) {
    const std::lock_guard lock(mutex_);
    watched_.push_back({std::move(work), std::move(what), Clock::now()});
  }

 private:
  struct Watched {
    c10::intrusive_ptr<c10d::Work> work;
    std::string what;
    Clock::time_point begin;
  };

  void Look() {
    std::list<Watched> all;
    {
      const std::lock_guard lock(mutex_);
      all = watched_;
    }
    for (const Watched& watched : all) {
      std::string cause;
      bool ended = false;
      try {
        ended = watched.work->isCompleted();
        if (watched.work->exception()) std::rethrow_exception(watched.work->exception());
      } catch (const std::exception& error) {
        cause = watched.what + " failed: " + FirstLine(error);
      }
      const double waited = std::chrono::duration<double>(Clock::now() - watched.begin).count();
      if (cause.empty() && !ended && waited > options_.timeout_seconds)
        cause = TimeoutMessage("another rank in " + watched.what, options_.timeout_seconds);
      if (!cause.empty()) options_.abort_run(name_ + ": " + cause);
      if (!cause.empty() || ended) {
        const std::lock_guard lock(mutex_);
        watched_.remove_if([&](const Watched& other) { return other.work == watched.work; });
      }
    }
  }

  const PluginOptions options_;
  const std::string name_;
  std::mutex mutex_;
  std::list<Watched> watched_;
  std::jthread thread_;  // the last member: it uses the others
};

class C10d : public Communicator {
 public:
  C10d(const PluginOptions& options, C10dSetup setup)
      : Communicator(options.launch.rank, options.launch.world_size), options_(options), setup_(std::move(setup)) {
    char here = 0;
    std::vector<char> all(world_size());
    GatherBytes(&here, 1, all.data());
    const std::jthread in_time = AbortAfterTimeout(options_, setup_.name, "the backend's start");
    backend_ = Plainly("the backend does not start", setup_.make_backend);
    watch_ = std::make_unique<Watch>(options_, setup_);
  }

  // What is on its way to a rank that has gone never arrives: an error gives the backend up. Otherwise rank 0, which may hold the
  // store, stays until the others have left it.
  ~C10d() override {
    if (backend_ == nullptr) return;
    const bool failed = std::uncaught_exceptions() > 0;
    watch_.reset();
    const std::jthread in_time = AbortAfterTimeout(options_, setup_.name, "the backend's end");
    try {
      if (failed) {
        backend_->abort();
        return;
      }
      backend_->shutdown();
      if (rank() != 0) setup_.store->set(KeyOf("left", rank()), std::vector<uint8_t>{1});
      else if (world_size() > 1) setup_.store->wait(OthersKeys("left"), Limit());
    } catch (const std::exception& error) {
      options_.abort_run(setup_.name + ": the backend's end: " + FirstLine(error));
    }
  }

  std::string name() const override { return setup_.name; }

 private:
  struct Part {
    at::Tensor memory;  // bytes of the device
    void* host;         // where they come from or go to, if not there
    bool out;           // to the host, once they have come
  };

  struct Started : Transfer {
    void Finish() override {
      if (work == nullptr) return;
      // On a device, what this thread puts on its stream next will wait; this thread does not.
      if (!Plainly("a transfer", [&] { return work->wait(); })) throw std::runtime_error("a transfer was aborted");
      for (Part& part : parts)
        if (part.host != nullptr && part.out) at::from_blob(part.host, {part.memory.numel()}, at::kByte).copy_(part.memory);
    }
    c10::intrusive_ptr<c10d::Work> work;
    std::vector<Part> parts;
  };

  Part PartOf(const Message& message, bool in, bool out) const {
    const auto options = at::TensorOptions().dtype(at::kByte).device(setup_.device);
    if (setup_.on_device(message.data)) return {at::from_blob(message.data, {message.bytes}, options), nullptr, out};
    Part part{at::empty({message.bytes}, options), message.data, out};
    if (in) part.memory.copy_(at::from_blob(message.data, {message.bytes}, at::kByte));
    return part;
  }

  // One group of operations: put(tensors, i) begins that of message i, of `count`.
  template <class Put>
  std::unique_ptr<Transfer> Start(const char* what, std::vector<Part> parts, Put put) {
    auto started = std::make_unique<Started>();
    if (parts.empty()) return started;
    Plainly(what, [&] {
      backend_->startCoalescing();
      try {
        for (size_t i = 0; i < parts.size(); ++i) {
          std::vector<at::Tensor> tensors = {parts[i].memory};
          put(tensors, i);
        }
      } catch (...) {
        // A group that is left open would swallow all that comes after it.
        try {
          backend_->endCoalescing();
        } catch (const std::exception&) {  // the first cause is the one to report
        }
        throw;
      }
      started->work = backend_->endCoalescing();
    });
    started->parts = std::move(parts);
    watch_->Add(started->work, what);
    return started;
  }

  std::unique_ptr<Transfer> StartExchange(std::span<const Message> sends, std::span<const Message> receives) override {
    std::vector<Part> parts;
    std::vector<std::pair<int, bool>> peers;  // and whether it is sent to
    for (const bool sent : {false, true})
      for (const Message& message : sent ? sends : receives) {
        if (message.bytes == 0) continue;
        parts.push_back(PartOf(message, sent, !sent));
        peers.push_back({static_cast<int>(message.rank), sent});
      }
    return Start("an exchange", std::move(parts), [&](std::vector<at::Tensor>& tensors, size_t i) {
      const auto& [peer, sent] = peers[i];
      if (sent) backend_->send(tensors, peer, 0);
      else backend_->recv(tensors, peer, 0);
    });
  }

  std::unique_ptr<Transfer> StartBroadcast(std::span<const Message> messages) override {
    std::vector<Part> parts;
    std::vector<c10d::BroadcastOptions> roots;
    for (const Message& message : messages) {
      if (message.bytes == 0) continue;
      const bool own = message.rank == rank();
      parts.push_back(PartOf(message, own, !own));
      roots.emplace_back().rootRank = message.rank;
    }
    return Start("a broadcast", std::move(parts),
                 [&](std::vector<at::Tensor>& tensors, size_t i) { backend_->broadcast(tensors, roots[i]); });
  }

  // Each rank leaves its part at the store; rank 0 puts them together and leaves the whole, behind a byte that says whether it is one:
  // otherwise what follows is who has not come. Two requests a rank, and one to forget the part.
  void GatherBytes(const void* mine, int64_t bytes, void* all) override {
    const std::string round = std::to_string(++round_), whole = "whole/" + round;
    c10d::Store& store = *setup_.store;
    const auto* own = static_cast<const uint8_t*>(mine);
    Plainly("the meeting place", [&] {
      if (rank() == 0) {
        const std::vector<std::string> keys = OthersKeys(round);
        std::vector<uint8_t> put(1 + bytes * world_size(), 0);
        std::copy_n(own, bytes, put.data() + 1);
        RequireAll(keys, whole);
        for (size_t i = 0; i < keys.size(); ++i) {
          const std::vector<uint8_t> part = store.get(keys[i]);
          if (static_cast<int64_t>(part.size()) != bytes)
            throw std::runtime_error("rank " + std::to_string(i + 1) + " left " + std::to_string(part.size()) + " bytes where " +
                                     std::to_string(bytes) + " were due");
          std::copy_n(part.data(), bytes, put.data() + 1 + bytes * static_cast<int64_t>(i + 1));
        }
        store.set(whole, put);
        // All have read the whole before, or they would not have come to this one.
        if (round_ > 1 && world_size() > 1) store.deleteKey("whole/" + std::to_string(round_ - 1));
        std::memcpy(all, put.data() + 1, bytes * world_size());
        return;
      }
      const std::string key = KeyOf(round, rank());
      store.set(key, std::vector<uint8_t>(own, own + bytes));
      try {
        // A little longer than rank 0 waits, which knows who is missing.
        store.wait({whole}, Limit() + std::chrono::seconds(2));
      } catch (const std::exception&) {
        throw std::runtime_error(TimeoutMessage("rank 0", options_.timeout_seconds));
      }
      const std::vector<uint8_t> got = store.get(whole);
      if (got.empty() || got.front() != 0) throw std::runtime_error(got.empty() ? "nothing" : std::string(got.begin() + 1, got.end()));
      store.deleteKey(key);
      std::memcpy(all, got.data() + 1, bytes * world_size());
    });
  }

  void RequireAll(const std::vector<std::string>& keys, const std::string& whole) {
    if (keys.empty()) return;
    c10d::Store& store = *setup_.store;
    try {
      store.wait(keys, Limit());
    } catch (const std::exception&) {
      std::string who;
      int64_t missing = 0;
      for (size_t i = 0; i < keys.size(); ++i)
        if (!store.check({keys[i]})) who += (++missing > 1 ? " " : "") + std::to_string(i + 1);
      const std::string cause = missing == 0 ? "all ranks came too late" : TimeoutMessage((missing == 1 ? "rank " : "ranks ") + who, options_.timeout_seconds);
      const std::string put = '\1' + cause;
      store.set(whole, std::vector<uint8_t>(put.begin(), put.end()));
      throw std::runtime_error(cause);
    }
  }

  static std::string KeyOf(const std::string& what, int64_t rank) { return what + "/" + std::to_string(rank); }
  std::vector<std::string> OthersKeys(const std::string& what) const {
    std::vector<std::string> keys;
    for (int64_t rank = 1; rank < world_size(); ++rank) keys.push_back(KeyOf(what, rank));
    return keys;
  }
  std::chrono::milliseconds Limit() const { return std::chrono::milliseconds(static_cast<int64_t>(1e3 * options_.timeout_seconds)); }

  const PluginOptions options_;
  const C10dSetup setup_;
  c10::intrusive_ptr<c10d::Backend> backend_;
  std::unique_ptr<Watch> watch_;
  int64_t round_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> MakeC10dCommunicator(const PluginOptions& options, C10dSetup setup) {
  return std::make_unique<C10d>(options, std::move(setup));
}

}  // namespace fairway
