// A monotonic clock: changes of the system's date and time do not affect it.
#pragma once

#include <chrono>

namespace fairway {

using Clock = std::chrono::steady_clock;

inline double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace fairway
