// What a training log says (docs/formats.md): the curve of the losses.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fairway {

struct TrainPoint {
  int64_t step;
  double loss;      // nats per token
  double train_ms;  // training time so far
  double step_ms;   // mean of all steps so far
};

struct ValidationPoint {
  int64_t step;
  double loss;  // nats per token
  double bpb;   // bits per byte
  std::optional<double> train_ms = {};  // training time so far, where the line states it
};

struct TrainLog {
  std::optional<int64_t> seed;
  std::vector<TrainPoint> train;            // steps ascend
  std::vector<ValidationPoint> validation;  // steps ascend
  std::map<std::string, double, std::less<>> seconds;  // that a program took from beginning to end, the last time that it ran: `gptq-lite: 3.1 s`

  int64_t LastStep() const;  // of either kind; 0 where there is none
};

// Reads a log line by line. A step that does not come after the last one takes its place and that of all later ones: a resumed run
// continues where it was interrupted, and one that starts again replaces the run before. Other lines are skipped.
class TrainLogReader {
 public:
  // `path` is what errors name. A strict reader throws InputError, with the line's number, for a line `step:…` or `seed:…` that
  // misses a field or holds something else than numbers; the other one passes it over: logs of other programs.
  TrainLogReader(std::string path, bool strict) : path_(std::move(path)), strict_(strict) {}

  enum class Line { kOther, kTrain, kValidation };
  // Layouts: `step:5700/20000 train_loss:1.9548 train_time:596112ms step_avg:104.58ms …`,
  // `step:5500/20000 val_loss:1.9427 val_bpb:1.1506 …`, the same without `step:` and with blanks after the colons
  // (`500/20000 train_loss: 3.33 train_time: 0.8m tok/s: 8242436`), and `seed:1337`.
  Line Add(std::string_view line, int64_t number);

  TrainLog log;

 private:
  std::string path_;
  bool strict_;
};

// A strict reader over a whole log: of our programs', and of all that write these lines as they do.
TrainLog ParseTrainLog(std::string_view text, const std::string& path);

}  // namespace fairway
