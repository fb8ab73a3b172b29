// How long a rank waits for others. Shared by the plug-ins, which link no module: all of it is here.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>

#include "common/parallel/communicator.h"

namespace fairway {

inline std::string TimeoutMessage(const std::string& who, double seconds) {
  return "no answer from " + who + " for " + std::to_string(static_cast<int64_t>(seconds + 0.5)) +
         " s (COMM_TIMEOUT_SECONDS): it has stopped, or the network has";
}

// For calls that wait for other ranks and cannot be interrupted: a thread that ends the process where the call has not returned within
// the time limit.
inline std::jthread AbortAfterTimeout(const PluginOptions& options, const std::string& backend, const std::string& call) {
  return std::jthread([abort_run = options.abort_run, seconds = options.timeout_seconds, backend, call](std::stop_token stop) {
    std::mutex mutex;
    std::condition_variable_any ended;
    std::unique_lock lock(mutex);
    ended.wait_for(lock, stop, std::chrono::duration<double>(seconds), [&] { return stop.stop_requested(); });
    // Not what wait_for returns: libstdc++'s is false, too, where the stop was requested just before it would have slept.
    if (!stop.stop_requested()) abort_run(backend + ": " + TimeoutMessage("another rank in " + call, seconds));
  });
}

}  // namespace fairway
