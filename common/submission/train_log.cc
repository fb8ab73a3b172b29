#include "common/submission/train_log.h"

#include <algorithm>
#include <map>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"

namespace fairway {
namespace {

// One line `key:value key:value …` and the numbers in it.
class Fields {
 public:
  Fields(std::string_view line, std::string where, const std::string& path) : where_(std::move(where)), path_(path) {
    for (const std::string& field : Split(line, ' ')) {
      const size_t colon = field.find(':');
      if (colon != std::string::npos) values_.emplace(field.substr(0, colon), field.substr(colon + 1));
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

  int64_t Integer(const std::string& key) const {
    int64_t number;
    if (!ParseInt(Text(key), &number)) Fail("'" + key + ":" + Shorten(Text(key), 100) + "' is not an integer");
    return number;
  }

  // The first of `step:5700/20000`.
  int64_t Step() const {
    const std::string& text = Text("step");
    int64_t step, of;
    const size_t slash = text.find('/');
    if (slash == std::string::npos || !ParseInt(text.substr(0, slash), &step) ||
        !ParseInt(text.substr(slash + 1), &of) || step < 0) {
      Fail("'step:" + Shorten(text, 100) + "' is not a step of a run");
    }
    return step;
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

template <typename Point>
void DropFrom(std::vector<Point>& points, int64_t step) {
  while (!points.empty() && points.back().step >= step) points.pop_back();
}

}  // namespace

int64_t TrainLog::LastStep() const {
  return std::max(train.empty() ? 0 : train.back().step, validation.empty() ? 0 : validation.back().step);
}

TrainLog ParseTrainLog(std::string_view text, const std::string& path) {
  TrainLog log;
  for (int64_t number = 1; !text.empty(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.ends_with(AppendedFile::kCutOff)) continue;  // what a killed run got to say of it; the next one said it again
    const bool seed_line = line.starts_with("seed:");
    if (!seed_line && !line.starts_with("step:")) continue;
    const Fields fields(line, "line " + std::to_string(number), path);
    if (seed_line) {
      log.seed = fields.Integer("seed");
    } else if (fields.Has("train_loss")) {
      const int64_t step = fields.Step();
      DropFrom(log.train, step);
      DropFrom(log.validation, step + 1);
      log.train.push_back(
          {step, fields.Number("train_loss"), fields.Number("train_time", "ms"), fields.Number("step_avg", "ms")});
    } else {
      const int64_t step = fields.Step();
      DropFrom(log.train, step + 1);
      DropFrom(log.validation, step);
      log.validation.push_back({step, fields.Number("val_loss"), fields.Number("val_bpb")});
    }
  }
  return log;
}

}  // namespace fairway
