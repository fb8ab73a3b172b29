// The clock of a record: what took how long, and which of it read training data. The ten-minute track follows from it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/submission/run.h"

namespace fairway {

// Training, and everything that reads training data, within this; evaluation within this too (README of openai/parameter-golf).
inline constexpr double kTrackSeconds = 600;

struct ClockLedger {
  double training = 0;                // seconds; warm-up and validation left out
  int64_t calibration_tokens = 0;     // of training data, read by gptq-lite after training
  std::optional<double> evaluation;   // seconds; unknown of records that old programs made
};

ClockLedger ClockOf(const FinishedRun& run);

// Why such runs are not of the ten-minute track; empty where they are.
std::vector<std::string> OutsideTrack(const std::vector<FinishedRun>& runs);

}  // namespace fairway
