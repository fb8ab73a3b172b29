// The clock of a record: how long each part took, and which parts read training data. The ten-minute track follows from it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/submission/run.h"

namespace fairway {

// Training, and everything that reads training data, within this; evaluation within this too (README of openai/parameter-golf).
inline constexpr double kTrackSeconds = 600;

// Seconds; unknown ones are of records that older programs made.
struct ClockLedger {
  std::optional<double> warm_up;      // on training data; undone
  double training = 0;                // warm-up and validation left out
  double calibration = 0;             // of training, for the quantiser, on training data
  std::optional<double> averaging, quantising, packing;  // whole programs
  int64_t calibration_tokens = 0;     // of training data, that quantising read: after training
  std::optional<double> evaluation;
};

ClockLedger ClockOf(const FinishedRun& run);

// Why such runs are not of the ten-minute track, by their clock and their bytes; empty where they are.
std::vector<std::string> OutsideTrack(const std::vector<FinishedRun>& runs);

}  // namespace fairway
