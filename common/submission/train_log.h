// What a training log says (specification 2, section 5): the curve of the losses.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fairway {

struct TrainPoint {
  int64_t step;
  double loss;      // nats a token
  double train_ms;  // training time so far
  double step_ms;   // mean of all steps so far
};

struct ValidationPoint {
  int64_t step;
  double loss;  // nats a token
  double bpb;   // bits a byte
};

struct TrainLog {
  std::optional<int64_t> seed;
  std::vector<TrainPoint> train;            // steps ascend
  std::vector<ValidationPoint> validation;  // steps ascend

  int64_t LastStep() const;  // of either kind; 0 where there is none
};

// Reads the lines `step:5700/20000 train_loss:1.9548 …`, `step:5500/20000 val_loss:1.9427 val_bpb:1.1506 …` and
// `seed:1337` of our logs and the published ones; fields added at the end of a line are allowed, other lines are passed
// over. A step that does not come after the last one takes its place and that of all later ones: a resumed run goes on
// where it was cut off, and one that starts again replaces the run before. `path` is what errors name. Throws
// InputError, with the line's number, for a step line that misses a field or holds something else than numbers.
TrainLog ParseTrainLog(std::string_view text, const std::string& path);

}  // namespace fairway
