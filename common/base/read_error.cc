#include "common/base/read_error.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <map>

#include "common/base/error.h"

namespace fairway {
namespace {

struct Mapping {
  const std::byte* end;
  std::string path;
};

// By their first byte. A handler must not wait, so this is a flag rather than a mutex; and it allocates nothing.
// Both live until the process is gone.
std::atomic_flag busy;
std::map<const std::byte*, Mapping>& Mappings() {
  static auto& mappings = *new std::map<const std::byte*, Mapping>;
  return mappings;
}
std::string& Program() {
  static auto& program = *new std::string;
  return program;
}

struct Busy {
  Busy() {
    while (busy.test_and_set(std::memory_order_acquire)) continue;
  }
  ~Busy() { busy.clear(std::memory_order_release); }
};

void Say(const std::string& text) {
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}

void OnBusError(int, siginfo_t* info, void*) {
  static const std::string kCause = "cannot be read any more: it was cut, or its disk failed\n",
                           kSomeFile = "a file: ", kColon = ": ";
  Say(Program());
  const auto* address = static_cast<const std::byte*>(info->si_addr);
  const std::string* path = nullptr;
  if (!busy.test_and_set(std::memory_order_acquire)) {
    auto after = Mappings().upper_bound(address);
    if (after != Mappings().begin() && address < (--after)->second.end) path = &after->second.path;
  }
  if (path) {
    Say(*path);
    Say(kColon);
  } else {
    Say(kSomeFile);
  }
  Say(kCause);
  _exit(static_cast<int>(ExitStatus::kIo));
}

}  // namespace

void CatchReadErrors(const std::string& program) {
  Program() = program + ": ";
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
}

void NameMapping(std::span<const std::byte> bytes, const std::string& path) {
  const Busy lock;
  Mappings()[bytes.data()] = {bytes.data() + bytes.size(), Printable(path)};
}

void ForgetMapping(std::span<const std::byte> bytes) {
  const Busy lock;
  Mappings().erase(bytes.data());
}

}  // namespace fairway
