#include "common/submission/public_log.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "common/base/text.h"

namespace fairway {
namespace {

constexpr size_t kMaxLine = 4096, kMaxNotes = 4000, kNotesOfAShape = 3, kMaxScores = 20000, kMaxSettings = 2000,
                 kMaxSource = 2 << 20;
constexpr size_t kMaxPoints = 1 << 20;

bool IsWord(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
}

// Where the value of `key` begins: after `key:`, `key=` or `"key":` and blanks; npos where there is none. What stands
// before the key must not be part of a word.
size_t ValueOf(std::string_view line, std::string_view key) {
  for (size_t at = line.find(key); at != std::string_view::npos; at = line.find(key, at + 1)) {
    if (at > 0 && IsWord(line[at - 1])) continue;
    size_t end = at + key.size();
    if (end < line.size() && line[end] == '"') ++end;
    if (end >= line.size() || (line[end] != ':' && line[end] != '=')) continue;
    ++end;
    while (end < line.size() && (line[end] == ' ' || line[end] == '\t')) ++end;
    return end;
  }
  return std::string_view::npos;
}

std::optional<Figure> Number(std::string_view line, std::string_view key, std::string_view* unit = nullptr) {
  const size_t at = ValueOf(line, key);
  if (at == std::string_view::npos) return std::nullopt;
  Figure figure;
  size_t length;
  if (!ReadFigure(line.substr(at), &figure, &length)) return std::nullopt;
  if (unit) {
    size_t end = at + length;
    while (end < line.size() && std::isalpha(static_cast<unsigned char>(line[end]))) ++end;
    *unit = line.substr(at + length, end - at - length);
  }
  return figure;
}

// `eval_time:186267ms`, `elapsed=289.8s`, `time:272066ms`.
std::optional<double> Seconds(std::string_view line, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) {
    std::string_view unit;
    const auto figure = Number(line, key, &unit);
    if (!figure) continue;
    if (unit == "ms" || key.ends_with("_ms")) return figure->value / 1000;
    if (unit == "m") return figure->value * 60;
    return figure->value;
  }
  return std::nullopt;
}

// The number of bytes after `after`: "Code size: 56639 bytes", "Code size (compressed): 27310 bytes".
std::optional<double> Bytes(std::string_view line, std::string_view after) {
  const size_t at = line.find(after);
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view rest = line.substr(at + after.size());
  const size_t colon = rest.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  rest.remove_prefix(colon + 1);
  std::string digits;
  for (const char c : rest.substr(
           rest.find_first_not_of(" \t") == std::string_view::npos ? rest.size() : rest.find_first_not_of(" \t"))) {
    if (std::isdigit(static_cast<unsigned char>(c))) {
      digits += c;
    } else if (c != ',' && c != '_') {
      break;
    }
  }
  int64_t value;
  if (digits.size() > 15 || !ParseInt(digits, &value)) return std::nullopt;
  return static_cast<double>(value);
}

// What is left of a line once its numbers are gone: lines of one kind of progress have one shape.
std::string Shape(std::string_view line) {
  std::string shape;
  for (const char c : line) {
    if (std::isdigit(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '+') continue;
    shape += c;
    if (shape.size() >= 40) break;
  }
  return shape;
}

LoggedScore::Stage StageOf(const std::string& label) {
  const std::string lower = Lower(label);
  if (Contains(lower, {"quantized", "roundtrip", "int6", "int8", "ttt"}) &&
      !Contains(lower, {"pre-quant", "prequant", "pre_quant", "post_ema", "post-ema"}))
    return LoggedScore::Stage::kFinal;
  if (Contains(lower, {"pre-quant", "prequant", "pre_quant", "post_ema", "post-ema", "post_swa", "post-swa",
                       "diagnostic", "before_quant"}))
    return LoggedScore::Stage::kBefore;
  return LoggedScore::Stage::kFinal;
}

// A line with a score in bits per byte, other than of progress.
std::optional<LoggedScore> ReadScore(std::string_view line, int64_t number) {
  if (line.find("bpb") == std::string_view::npos) return std::nullopt;
  // The key of the score: val_bpb, with what precedes it in one word, or another that ends so.
  size_t key = std::string_view::npos, key_end = 0;
  bool plain = false;
  for (size_t at = line.find("bpb"); at != std::string_view::npos; at = line.find("bpb", at + 1)) {
    size_t begin = at, end = at + 3;
    while (begin > 0 && IsWord(line[begin - 1])) --begin;
    if (end < line.size() && IsWord(line[end])) continue;
    const std::string_view word = line.substr(begin, end - begin);
    if (Contains(word, {"running", "batch", "delta", "best", "std"}) || (!word.ends_with("_bpb"))) continue;
    if (ValueOf(line.substr(begin), word) == std::string_view::npos) continue;
    if (plain && !word.ends_with("val_bpb")) continue;
    if (key != std::string_view::npos && (plain || !word.ends_with("val_bpb"))) continue;
    key = begin;
    key_end = end;
    plain = word.ends_with("val_bpb");
  }
  if (key == std::string_view::npos) return std::nullopt;
  const std::string_view word = line.substr(key, key_end - key);
  const std::optional<Figure> bpb = Number(line.substr(key), word);
  if (!bpb || !(bpb->value > 0 && bpb->value < 100)) return std::nullopt;
  LoggedScore score{number, "", LoggedScore::Stage::kFinal, {}, *bpb, {}, {}, {}};
  const std::string prefix(word.ends_with("val_bpb") ? word.substr(0, word.size() - 7) : word);
  score.loss = Number(line, prefix.ends_with("_bpb") ? "val_loss" : prefix + "val_loss");
  if (score.loss && !(score.loss->value > 0 && score.loss->value < 1000)) score.loss.reset();
  size_t label_end = std::min(key, line.find("val_loss"));
  std::string label = Trim(std::string(line.substr(0, label_end)) + prefix);
  while (!label.empty() && (label.back() == ':' || label.back() == '"' || label.back() == '|' || label.back() == ' '))
    label.pop_back();
  while (!label.empty() && (label.front() == '"' || label.front() == '-' || label.front() == ' ')) label.erase(0, 1);
  if (label.empty()) label = word;
  score.label = Shorten(Printable(label), 60);
  score.stage = StageOf(score.label);
  score.seconds = Seconds(line, {"eval_time_ms", "eval_time", "eval_seconds", "elapsed", "time"});
  if (const auto bytes = Number(line, "bytes")) score.bytes = bytes->value;
  if (const auto tokens = Number(line, "tokens")) score.tokens = tokens->value;
  return score;
}

bool IsSettingName(std::string_view name) {
  return !name.empty() && name.size() <= 60 && std::isalpha(static_cast<unsigned char>(name[0])) &&
         std::ranges::all_of(name, IsWord);
}

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  PublicLog Read() {
    SkipSource();
    for (std::string_view line; Next(&line);) ReadLine(line);
    PublicLog& log = log_;
    log.curve = std::move(curve_.log);
    std::ranges::stable_sort(log.notes, {}, &LoggedLine::line);
    if (const LoggedLine* seed = log.Setting({"seed"})) SetNumber(log.seed, *seed);
    if (const LoggedLine* size = log.Setting({"world_size"})) SetNumber(log.world_size, *size);
    if (const LoggedLine* shards = log.Setting({"train_shards"})) SetNumber(log.train_shards, *shards);
    if (const LoggedLine* parameters = log.Setting({"model_params"})) SetNumber(log.parameters, *parameters);
    if (const LoggedLine* tokens = log.Setting({"val_tokens"}); tokens && !log.validation_tokens)
      SetNumber(log.validation_tokens, *tokens);
    return std::move(log_);
  }

 private:
  // Many of the field's logs begin with their script, which ends with a line of `=`.
  void SkipSource() {
    size_t at = 0;
    int64_t lines = 0;
    bool code = false;
    for (int scanned = 0; at < text_.size() && scanned < 20000; ++scanned) {
      const size_t end = std::min(text_.find('\n', at), text_.size());
      const std::string_view line = text_.substr(at, end - at);
      ++lines;
      code |= line.starts_with("import ") || line.starts_with("def ") || line.starts_with("class ");
      const size_t bars = line.find_first_not_of('=');
      if (line.size() >= 60 && (bars == std::string_view::npos || line[bars] == '\r')) {
        if (!code) return;
        log_.source = text_.substr(0, std::min(at, kMaxSource));
        text_.remove_prefix(std::min(end + 1, text_.size()));
        number_ = lines;
        return;
      }
      at = end + 1;
    }
  }

  bool Next(std::string_view* line) {
    if (text_.empty()) return false;
    *line = text_.substr(0, text_.find('\n'));
    text_.remove_prefix(std::min(text_.size(), line->size() + 1));
    ++number_;
    // Of what was written over itself the last is what stood there.
    while (line->ends_with('\r')) line->remove_suffix(1);
    if (const size_t over = line->rfind('\r'); over != std::string_view::npos) line->remove_prefix(over + 1);
    *line = line->substr(0, kMaxLine);
    return true;
  }

  static void SetNumber(std::optional<LoggedNumber>& to, const LoggedLine& from) {
    Figure figure;
    if (ReadFigure(from.text, &figure)) to = {figure.value, from.line};
  }

  void Set(std::string_view name, std::string_view value) {
    if (log_.settings.size() < kMaxSettings)
      log_.settings.emplace(Lower(name), LoggedLine{Shorten(Printable(Trim(value)), kMaxLoggedText), number_});
  }

  void ReadSettings(std::string_view line) {
    if (line.starts_with("Hyperparameters")) {
      block_ = true;
      return;
    }
    const bool indented = line.starts_with("  ");
    if (!indented) block_ = false;
    if (indented && !block_) return;
    const std::string_view body = indented ? line.substr(2) : line;
    const size_t colon = body.find(':');
    if (colon == std::string_view::npos || !IsSettingName(body.substr(0, colon))) return;
    if (block_) {
      Set(body.substr(0, colon), body.substr(colon + 1));
      return;
    }
    if (colon + 1 < body.size() && body[colon + 1] == ' ') {  // `train_shards: 143`, alone in its line
      const std::string value = Trim(body.substr(colon + 1));
      if (value.find(' ') == std::string::npos) Set(body.substr(0, colon), value);
      return;
    }
    for (const std::string& field : Split(body, ' ')) {
      const size_t at = field.find(':');
      if (at != std::string::npos && at + 1 < field.size() && IsSettingName(std::string_view(field).substr(0, at)))
        Set(std::string_view(field).substr(0, at), std::string_view(field).substr(at + 1));
    }
  }

  void ReadSizes(std::string_view line) {
    const auto set = [&](std::optional<LoggedNumber>& to, const std::optional<double>& bytes) {
      if (bytes) to = {*bytes, number_};
    };
    if (line.find("ode size") != std::string_view::npos) {
      const std::string lower = Lower(line);
      const bool raw = lower.find("uncompressed") != std::string::npos;
      set(raw ? log_.raw_code_bytes : log_.code_bytes, Bytes(lower, "code size"));
      return;
    }
    if (line.find("Code:") != std::string_view::npos) set(log_.code_bytes, Bytes(line, "Code"));
    if (const size_t at = line.find("Total submission"); at != std::string_view::npos) {
      const std::string_view rest = line.substr(at);
      const bool labelled = !rest.starts_with("Total submission size:");
      if (labelled || packed_) set(log_.total_bytes, Bytes(rest, "Total submission"));
    }
    if (const size_t at = line.find("Serialized model "); at != std::string_view::npos) {
      packed_ = true;
      set(log_.model_bytes, Bytes(line, "Serialized model "));
    } else if (line.find(" model:") != std::string_view::npos && line.find('|') != std::string_view::npos &&
               line.find("Total submission") != std::string_view::npos) {
      set(log_.model_bytes, Bytes(line, " model"));
    }
  }

  void ReadLine(std::string_view line) {
    if (line.empty()) return;
    if (curve_.log.train.size() + curve_.log.validation.size() < kMaxPoints) {
      std::string_view step = line;
      if (step.starts_with("step ")) step.remove_prefix(5);
      const TrainLogReader::Line kind = curve_.Add(step, number_);
      if (kind == TrainLogReader::Line::kValidation && log_.scores.size() < kMaxScores) {
        const ValidationPoint& point = curve_.log.validation.back();
        LoggedScore score{number_,
                          "step " + std::to_string(point.step),
                          LoggedScore::Stage::kTraining,
                          Number(line, "val_loss"),
                          {},
                          {},
                          {},
                          {}};
        if (const auto bpb = Number(line, "val_bpb")) score.bpb = *bpb;
        log_.scores.push_back(score);
      }
      if (kind != TrainLogReader::Line::kOther) {
        training_ = true;
        std::string_view unit;
        if (const auto time = Number(line, "train_time", &unit); time && unit == "ms")
          log_.last_ms = {time->value, number_};
        return;
      }
    }
    if (line.starts_with("warmup_step") || line.find("warmup_step:") != std::string_view::npos) return;
    // Only before training: what comes later are results.
    if (!training_) ReadSettings(line);
    if (block_) return;
    if (!log_.validation_tokens && !training_ && Contains(line, {"val_loader", "val tokens"})) {
      for (const std::string_view key : {"tokens", "val tokens"})
        if (const auto tokens = Number(line, key); tokens && tokens->value > 1000)
          log_.validation_tokens = {tokens->value, number_};
    }
    if (!training_ && !log_.seed)
      if (const auto seed = Number(line, "seed"); seed && line.find("seed=") != std::string_view::npos)
        log_.seed = {seed->value, number_};
    if (line.starts_with("stopping_early")) {
      if (const auto time = Number(line, "train_time")) log_.stop_ms = {time->value, number_};
      if (const auto step = Number(line, "step")) log_.stop_step = {step->value, number_};
    }
    if (line.starts_with("Running PyTorch "))
      log_.torch = LoggedLine{Shorten(Printable(Trim(line.substr(16))), 60), number_};
    ReadSizes(line);
    ReadCalibration(line);
    if (const auto total = Seconds(line, {"total_eval_time"})) log_.evaluation_seconds = {*total, number_};
    if (const auto score = ReadScore(line, number_); score && log_.scores.size() < kMaxScores) {
      if (!Contains(line, {"_eval [", "_chunk [", "progress"})) log_.scores.push_back(*score);
    }
    Note(line);
  }

  // Of each shape the first ones and the last.
  void Note(std::string_view line) {
    if (shapes_.size() >= kMaxNotes && !shapes_.contains(Shape(line))) return;
    Seen& seen = shapes_[Shape(line)];
    if (seen.count < kNotesOfAShape) {
      if (log_.notes.size() >= kMaxNotes) return;
      ++seen.count;
      seen.last = log_.notes.size();
      log_.notes.emplace_back();
    }
    log_.notes[seen.last] = {Shorten(Printable(line), kMaxLoggedText), number_};
  }

  // `GPTQ:collected 66 Hessians in 8.2s`, `gptq:done layers=68 time=6504ms`; of ours `calibration: 32 windows of 256 tokens, … in
  // 1.2 s`.
  void ReadCalibration(std::string_view line) {
    const std::string lower = Lower(line.substr(0, 200));
    const bool ours = lower.starts_with("calibration: ") && !Contains(lower, {"read from"});
    if (!training_ || (!ours && !Contains(lower, {"gptq", "hessian"}))) return;
    std::optional<double> seconds;
    if (ours || Contains(lower, {"collected"})) {
      if (const size_t in = lower.rfind(" in "); in != std::string::npos) {
        Figure figure;
        size_t length;
        const std::string_view rest = std::string_view(lower).substr(in + 4);
        if (ReadFigure(rest, &figure, &length) && Trim(rest.substr(length)).starts_with('s')) seconds = figure.value;
      }
    } else if (Contains(lower, {"done"})) {
      seconds = Seconds(lower, {"time", "elapsed"});
    }
    if (seconds) log_.calibration_seconds = {*seconds, number_};
  }

  std::string_view text_;
  int64_t number_ = 0;
  bool block_ = false, training_ = false, packed_ = false;
  TrainLogReader curve_{"", false};
  struct Seen {
    size_t count = 0, last = 0;
  };
  std::map<std::string, Seen> shapes_;
  PublicLog log_;
};

}  // namespace

bool ReadFigure(std::string_view text, Figure* figure, size_t* length) {
  size_t end = 0;
  if (end < text.size() && (text[end] == '-' || text[end] == '+')) ++end;
  const size_t digits = end;
  while (end < text.size() && std::isdigit(static_cast<unsigned char>(text[end]))) ++end;
  const size_t whole = end;
  if (end + 1 < text.size() && text[end] == '.' && std::isdigit(static_cast<unsigned char>(text[end + 1]))) {
    ++end;
    while (end < text.size() && std::isdigit(static_cast<unsigned char>(text[end]))) ++end;
  }
  if (end == digits || end > 40) return false;
  int decimals = end > whole ? static_cast<int>(end - whole - 1) : 0;
  // An exponent.
  if (end + 1 < text.size() && (text[end] == 'e' || text[end] == 'E')) {
    size_t exponent = end + 1;
    if (text[exponent] == '-' || text[exponent] == '+') ++exponent;
    size_t last = exponent;
    while (last < text.size() && std::isdigit(static_cast<unsigned char>(text[last]))) ++last;
    int64_t power;
    if (last > exponent && last - exponent <= 3 && ParseInt(text.substr(exponent, last - exponent), &power)) {
      decimals = std::max<int>(0, decimals + static_cast<int>(text[end + 1] == '-' ? power : -power));
      end = last;
    }
  }
  std::string_view number = text.substr(0, end);
  if (number.starts_with('+')) number.remove_prefix(1);
  double value;
  if (!ParseDouble(number, &value)) return false;
  *figure = {value, std::min(decimals, 30)};
  if (length) *length = end;
  return true;
}

bool PublicLog::HasFinalScore() const {
  return std::ranges::any_of(scores,
                             [](const LoggedScore& score) { return score.stage == LoggedScore::Stage::kFinal && !Contains(Lower(score.label), {"diagnostic"}); });
}

const LoggedLine* PublicLog::Setting(std::initializer_list<const char*> names) const {
  for (const char* name : names)
    if (const auto found = settings.find(name); found != settings.end()) return &found->second;
  return nullptr;
}

const LoggedLine* PublicLog::Note(std::initializer_list<std::string_view> signs) const {
  for (const LoggedLine& note : notes)
    if (Contains(Lower(note.text), signs)) return &note;
  return nullptr;
}

PublicLog ParsePublicLog(std::string_view text) {
  std::string narrow;
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff")) {
    const size_t low = text[0] == '\xff' ? 0 : 1;
    for (size_t i = 2; i + 1 < text.size(); i += 2) narrow += text[i + 1 - low] == 0 ? text[i + low] : '?';
    text = narrow;
  } else if (text.starts_with("\xef\xbb\xbf")) {
    text.remove_prefix(3);
  }
  return Reader(text).Read();
}

}  // namespace fairway
