// Time that passes, whatever is done to the calendar's clock.
#pragma once

#include <chrono>

namespace fairway {

using Clock = std::chrono::steady_clock;

inline double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace fairway
