#include "common/submission/train_log.h"

#include <algorithm>
#include <map>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"

namespace fairway {
namespace {

// One line `key:value key:value …`, or `key: value key: value …`, and the numbers in it.
class Fields {
 public:
  Fields(std::string_view line, std::string where, const std::string& path) : where_(std::move(where)), path_(path) {
    std::string key;
    for (const std::string& field : Split(line, ' ')) {
      const size_t colon = field.find(':');
      if (colon == std::string::npos) {
        if (!key.empty()) values_.emplace(key, field);
        key.clear();
      } else if (colon + 1 == field.size()) {
        key = field.substr(0, colon);
      } else {
        values_.emplace(field.substr(0, colon), field.substr(colon + 1));
        key.clear();
      }
    }
  }

  bool Has(const std::string& key) const { return values_.contains(key); }

  // The number before `unit`, which must be all that follows it.
  double Number(const std::string& key, std::string_view unit = "") const {
    const std::string& text = Text(key);
    double number;
    if (!text.ends_with(unit) || !ParseDouble(std::string_view(text).substr(0, text.size() - unit.size()), &number)) {
      Fail("'" + key + ":" + Shorten(text, 100) + "' is not a number" + (unit.empty() ? "" : " of " + std::string(unit)));
    }
    return number;
  }

  // In ms; minutes (`0.8m`) are taken too.
  double Milliseconds(const std::string& key) const {
    const std::string& text = Text(key);
    return text.ends_with('m') ? 60000 * Number(key, "m") : Number(key, "ms");
  }

  int64_t Integer(const std::string& key) const {
    int64_t number;
    if (!ParseInt(Text(key), &number)) Fail("'" + key + ":" + Shorten(Text(key), 100) + "' is not an integer");
    return number;
  }

  [[noreturn]] void Fail(const std::string& cause) const { throw InputError(path_, where_ + ": " + cause); }

 private:
  const std::string& Text(const std::string& key) const {
    const auto found = values_.find(key);
    if (found == values_.end()) Fail("misses " + key);
    return found->second;
  }

  std::map<std::string, std::string> values_;
  std::string where_;
  const std::string& path_;
};

// The first of `5700/20000`, or false.
bool ParseStep(std::string_view text, int64_t* step) {
  int64_t of;
  const size_t slash = text.find('/');
  return slash != std::string_view::npos && ParseInt(text.substr(0, slash), step) && ParseInt(text.substr(slash + 1), &of) && *step >= 0;
}

template <typename Point>
void DropFrom(std::vector<Point>& points, int64_t step) {
  while (!points.empty() && points.back().step >= step) points.pop_back();
}

}  // namespace

int64_t TrainLog::LastStep() const {
  return std::max(train.empty() ? 0 : train.back().step, validation.empty() ? 0 : validation.back().step);
}

TrainLogReader::Line TrainLogReader::Add(std::string_view line, int64_t number) {
  if (line.ends_with(AppendedFile::kCutOff)) return Line::kOther;  // what a killed run got to say of it; the next one said it again
  constexpr std::string_view kStep = "step:", kSeed = "seed:";
  const bool seed_line = line.starts_with(kSeed), step_line = line.starts_with(kStep);
  std::string_view first = line.substr(step_line ? kStep.size() : 0);
  first = first.substr(0, first.find(' '));
  int64_t step = 0;
  const bool has_step = ParseStep(first, &step);
  if (!seed_line && !step_line && !has_step) {
    for (const char* program : {"ema-finalize", "gptq-lite", "pack-zstd", "eval-sliding"}) {
      const std::string head = std::string(program) + ": ";
      double seconds;
      if (line.starts_with(head) && line.ends_with(" s") && ParseDouble(line.substr(head.size(), line.size() - head.size() - 2), &seconds))
        log.seconds[program] = seconds;
    }
    return Line::kOther;
  }
  try {
    const Fields fields(line, "line " + std::to_string(number), path_);
    if (seed_line) {
      log.seed = fields.Integer("seed");
      return Line::kOther;
    }
    if (!step_line && !fields.Has("train_loss") && !fields.Has("val_loss")) return Line::kOther;  // another sort of progress
    if (!has_step) fields.Fail("'step:" + Shorten(first, 100) + "' is not a step of a run");
    if (fields.Has("train_loss")) {
      const double loss = fields.Number("train_loss"), time = fields.Milliseconds("train_time");
      const double average = fields.Has("step_avg") || step_line ? fields.Number("step_avg", "ms") : step > 0 ? time / step : 0;
      DropFrom(log.train, step);
      DropFrom(log.validation, step + 1);
      log.train.push_back({step, loss, time, average});
      return Line::kTrain;
    }
    const double loss = fields.Number("val_loss"), bpb = fields.Number("val_bpb");
    DropFrom(log.train, step + 1);
    DropFrom(log.validation, step);
    log.validation.push_back({step, loss, bpb, fields.Has("train_time") ? std::optional(fields.Milliseconds("train_time")) : std::nullopt});
    return Line::kValidation;
  } catch (const InputError&) {
    if (strict_ && (step_line || seed_line)) throw;
    return Line::kOther;
  }
}

TrainLog ParseTrainLog(std::string_view text, const std::string& path) {
  TrainLogReader reader(path, true);
  for (int64_t number = 1; !text.empty(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    reader.Add(line, number);
  }
  return reader.log;
}

}  // namespace fairway
