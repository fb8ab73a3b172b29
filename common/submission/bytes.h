// The bytes of a record: all that scoring its artifact needs, and what of it counts against the limit. The record's size follows
// from it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/submission/run.h"

namespace fairway {

// Bytes of artifact and code, and of anything else that counts (README of openai/parameter-golf: decimal, compressed artifact and
// code).
inline constexpr uint64_t kTrackBytes = 16'000'000;

struct ByteLine {
  std::string what;
  std::optional<uint64_t> bytes;  // unknown ones are of records that older programs made
  bool counts;
  std::string why;
};

// Artifact, code, tokenizer, and the programs that scored the artifact. Counted: artifact and code as they are shipped, and every
// library that is neither built from that code nor part of LibTorch or the system.
std::vector<ByteLine> ByteLedger(const FinishedRun& run);

// The sum of what counts.
uint64_t CountedBytes(const FinishedRun& run);

}  // namespace fairway
