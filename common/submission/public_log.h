// What any public training log says: of the field's scripts and of ours, in every layout that they have had so far.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/submission/train_log.h"

namespace fairway {

// A number as a file gives it. The decimals decide what it can agree with.
struct Figure {
  double value = 0;
  int decimals = 0;
};

// Reads the number at the beginning of `text`, and how long it is; false where there is none.
bool ReadFigure(std::string_view text, Figure* figure, size_t* length = nullptr);

struct LoggedNumber {
  double value;
  int64_t line;
};

struct LoggedLine {
  std::string text;  // at most kMaxLoggedText bytes of it
  int64_t line;
};

struct LoggedScore {
  enum class Stage {
    kTraining,  // a validation during training
    kBefore,    // of weights before quantisation
    kFinal
  };
  int64_t line;
  std::string label;  // what the line says before the score: "final_int8_zlib_roundtrip_exact"
  Stage stage;
  std::optional<Figure> loss;  // nats per token
  Figure bpb;
  std::optional<double> seconds;        // of this evaluation
  std::optional<double> bytes, tokens;  // that the line says it was counted over
};

inline constexpr size_t kMaxLoggedText = 300;

struct PublicLog {
  TrainLog curve;
  std::map<std::string, LoggedLine> settings;  // printed before training, names in lower case
  std::vector<LoggedScore> scores;
  std::vector<LoggedLine> notes;  // all other lines, a few of each shape
  std::string source;             // of the script, where the log begins with it; a bounded part

  std::optional<LoggedNumber> seed, world_size, train_shards, validation_tokens, parameters;
  std::optional<LoggedNumber> stop_ms, stop_step;          // where training ended
  std::optional<LoggedNumber> last_ms;                     // training time in the last line of a step
  std::optional<LoggedNumber> calibration_seconds;         // after training, as the log states it
  std::optional<LoggedNumber> evaluation_seconds;          // in total
  std::optional<LoggedNumber> model_bytes, total_bytes;    // packed; with the code that the log counts
  std::optional<LoggedNumber> code_bytes, raw_code_bytes;  // as counted; before it was compressed, where that is stated
  std::optional<LoggedLine> torch;                         // version

  // Whether training left a line at all, and whether the log reaches a score of what was trained.
  bool HasSteps() const { return !curve.train.empty() || !curve.validation.empty(); }
  bool HasFinalScore() const;
  // The setting of the first of these names that is there, or null.
  const LoggedLine* Setting(std::initializer_list<const char*> names) const;
  // The first note that has one of these, case aside, or null. REQUIRES: lower case.
  const LoggedLine* Note(std::initializer_list<std::string_view> signs) const;
};

// Never fails: lines that it does not know are kept as notes or skipped, and the memory that it takes is bounded.
// Text in UTF-16 is taken too (what a Windows shell redirects).
PublicLog ParsePublicLog(std::string_view text);

}  // namespace fairway
