// Rows of a matrix shared out over threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace fairway {

// Calls body(first, last) on consecutive parts of [0, rows), each on its own thread.
template <typename Body>
void ParallelRows(int64_t rows, int threads, const Body& body) {
  const int64_t parts = std::clamp<int64_t>(threads, 1, std::max<int64_t>(rows, 1));
  std::vector<std::jthread> workers;
  for (int64_t part = 1; part < parts; ++part) {
    workers.emplace_back([&, part] { body(rows * part / parts, rows * (part + 1) / parts); });
  }
  body(0, rows / parts);
}

// Half to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no bits behind the point. Unlike a call of rint it vectorises.
inline float RoundHalfEven(float x) {
  constexpr float kShift = 0x1.8p23f;
  return (x + kShift) - kShift;
}

}  // namespace fairway
