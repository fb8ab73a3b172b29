// The picture of a record: training and validation loss against steps, every seed in its colour.
#pragma once

#include <span>
#include <string>

#include "common/submission/train_log.h"

namespace fairway {

struct Curve {
  std::string label;  // "seed 1337"
  TrainLog log;
};

// Writes loss-curve.svg and loss-curve.png into `directory`, drawn by gnuplot. The same curves give the same SVG byte
// for byte. Throws IoError where gnuplot is not installed or fails. REQUIRES: each log has a line with a loss.
void DrawLossCurve(const std::string& directory, std::span<const Curve> curves);

}  // namespace fairway
