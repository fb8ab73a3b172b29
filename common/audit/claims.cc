// What submission.json states in numbers, against the logs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numbers>
#include <regex>

#include "common/audit/context.h"
#include "common/base/text.h"
#include "common/submission/record.h"
#include "common/submission/statistics.h"

namespace fairway::audit {
namespace {

enum class Quantity {
  kNone,
  kBpb,
  kLoss,
  kBpbDeviation,
  kLossDeviation,
  kBytes,
  kModelBytes,
  kCodeBytes,
  kSteps,
  kStepMs,
  kTrainSeconds,
  kEvalSeconds,
  kTokens,
  kParameters
};

constexpr char kSeedsScores[] = "the seeds' scores";

bool Is(const std::string& text, std::initializer_list<const char*> names) {
  return std::ranges::any_of(names, [&](const char* name) { return text == name; });
}

Quantity QuantityOf(const std::string& key) {
  const std::string name = Lower(key);
  if (Contains(name, {"delta",    "baseline", "gap",      "improvement", "limit",     "_cap",    "budget",
                      "required", "p_value",  "welch",    "t_stat",      "original",  "prev",    "beats",
                      "ratio",    "margin",   "headroom", "_mb",         "threshold", "reserve", "max_wallclock"}))
    return Quantity::kNone;
  const bool deviation = Contains(name + "_", {"_std_", "_stdev_", "_deviation_", "_sd_"});
  if (Contains(name, {"bpb"}) || name == "seed_scores") return deviation ? Quantity::kBpbDeviation : Quantity::kBpb;
  if (Contains(name, {"loss"})) return deviation ? Quantity::kLossDeviation : Quantity::kLoss;
  if (Contains(name, {"byte_count"})) return Quantity::kNone;
  if (Contains(name, {"bytes"}) || (Contains(name, {"size"}) && Contains(name, {"artifact", "submission", "total"}))) {
    return Contains(name, {"code"}) ? Quantity::kCodeBytes : Contains(name, {"model"}) ? Quantity::kModelBytes : Quantity::kBytes;
  }
  if (Is(name, {"steps", "train_steps", "step_stop", "num_steps", "training_steps", "steps_mean", "train_steps_mean",
                "total_steps", "final_step"}))
    return Quantity::kSteps;
  if (Is(name, {"step_avg_ms", "ms_per_step", "step_avg_ms_mean", "avg_step_ms", "step_ms"})) return Quantity::kStepMs;
  if (Contains(name, {"eval", "ttt"}) && Contains(name, {"time", "seconds"}) && !Contains(name, {"_min"}))
    return Quantity::kEvalSeconds;
  if (Contains(name, {"train", "wallclock"}) && Contains(name, {"time", "wallclock", "seconds"}) && !Contains(name, {"_min", "plus"}))
    return Quantity::kTrainSeconds;
  if (Contains(name, {"val_tokens", "target_tokens", "eval_token"})) return Quantity::kTokens;
  if (Is(name, {"model_params", "num_params", "n_params", "params", "parameters", "total_params", "param_count"}))
    return Quantity::kParameters;
  return Quantity::kNone;
}

// In seconds, whatever the key's unit is.
Figure InSeconds(const std::string& key, Figure figure) {
  if (Contains(Lower(key), {"_ms"})) figure = {figure.value / 1000, figure.decimals + 3};
  return figure;
}

bool IsExact(Quantity quantity) {
  return quantity == Quantity::kBytes || quantity == Quantity::kModelBytes || quantity == Quantity::kCodeBytes ||
         quantity == Quantity::kSteps || quantity == Quantity::kTokens || quantity == Quantity::kParameters;
}

void Push(std::vector<Source>& sources, const FolderLog& log, const std::optional<LoggedNumber>& number,
          const char* what, double scale = 1, int decimals = 0) {
  if (number) sources.push_back({{number->value * scale, decimals}, what, log.At(number->line)});
}

// Every number of that sort that a log has.
std::vector<Source> SourcesOf(Quantity quantity, const FolderLog& file) {
  const PublicLog& log = file.log;
  std::vector<Source> sources;
  switch (quantity) {
    case Quantity::kBpb:
    case Quantity::kLoss:
      // The last line of a label counts; later stages first.
      for (const auto stage :
           {LoggedScore::Stage::kFinal, LoggedScore::Stage::kBefore, LoggedScore::Stage::kTraining}) {
        for (auto score = log.scores.rbegin(); score != log.scores.rend(); ++score) {
          if (score->stage != stage || (quantity == Quantity::kLoss && !score->loss)) continue;
          const std::string label =
              stage == LoggedScore::Stage::kTraining ? "validation in training, " + score->label : score->label;
          sources.push_back({quantity == Quantity::kLoss ? *score->loss : score->bpb, label, file.At(score->line)});
        }
      }
      break;
    case Quantity::kBytes:
      Push(sources, file, log.total_bytes, "artifact and code");
      if (log.model_bytes && log.code_bytes)
        sources.push_back(
            {{log.model_bytes->value + log.code_bytes->value, 0}, "artifact and code", file.At(log.model_bytes->line)});
      Push(sources, file, log.model_bytes, "artifact");
      break;
    case Quantity::kModelBytes:
      Push(sources, file, log.model_bytes, "artifact");
      break;
    case Quantity::kCodeBytes:
      Push(sources, file, log.code_bytes, "code");
      Push(sources, file, log.raw_code_bytes, "code, uncompressed");
      break;
    case Quantity::kSteps:
      Push(sources, file, log.stop_step, "steps");
      if (!log.stop_step && log.HasSteps())
        sources.push_back({{static_cast<double>(log.curve.LastStep()), 0}, "steps", file.name});
      break;
    case Quantity::kStepMs:
      if (log.stop_ms && log.stop_step && log.stop_step->value > 0)
        sources.push_back({{log.stop_ms->value / log.stop_step->value, 6}, "ms per step", file.At(log.stop_ms->line)});
      if (!log.curve.train.empty()) sources.push_back({{log.curve.train.back().step_ms, 2}, "ms per step", file.name});
      // Ours counts calibration on the clock.
      if (const auto& end = log.stop_ms ? log.stop_ms : log.last_ms; end && log.calibration_seconds && log.HasSteps())
        sources.push_back({{(end->value + 1000 * log.calibration_seconds->value) / static_cast<double>(log.curve.LastStep()), 6},
                           "ms per step, calibration included", file.At(log.calibration_seconds->line)});
      // Some divide the time that there was.
      if (log.stop_step && log.stop_step->value > 0)
        sources.push_back({{600'000 / log.stop_step->value, 6}, "600 s over its steps", file.At(log.stop_step->line)});
      break;
    case Quantity::kTrainSeconds:
      Push(sources, file, log.stop_ms, "seconds of training", 1e-3, 3);
      Push(sources, file, log.last_ms, "seconds of training", 1e-3, 3);
      break;
    case Quantity::kEvalSeconds: {
      Push(sources, file, log.evaluation_seconds, "seconds of evaluation", 1, 3);
      double sum = 0;
      for (auto score = log.scores.rbegin(); score != log.scores.rend(); ++score) {
        if (!score->seconds) continue;
        sources.push_back({{*score->seconds, 3}, "seconds of " + score->label, file.At(score->line)});
        if (score->stage == LoggedScore::Stage::kFinal) sum += *score->seconds;
      }
      if (sum > 0) sources.push_back({{sum, 3}, "seconds of all its evaluations", file.name});
      break;
    }
    case Quantity::kTokens:
      Push(sources, file, log.validation_tokens, "validation tokens");
      for (const LoggedScore& score : log.scores)
        if (score.tokens) sources.push_back({{*score.tokens, 0}, "tokens of " + score.label, file.At(score.line)});
      break;
    case Quantity::kParameters:
      Push(sources, file, log.parameters, "parameters");
      break;
    default:
      break;
  }
  return sources;
}

constexpr double kStepMsSlack = 0.005;  // of a step time: how far from the log's it may be without being another

// 15,900,000 bytes are a rounded figure: the place of its last digit that is not zero; 0 where it is exact.
double RoundedTo(const Figure& claim) {
  double unit = 1;
  while (claim.value >= 10 * unit && std::fmod(claim.value, 10 * unit) == 0) unit *= 10;
  return claim.decimals == 0 && unit >= 10'000 ? unit : 0;
}

bool Matches(Quantity quantity, const Figure& claim, const Figure& found) {
  if (const double unit = RoundedTo(claim); quantity == Quantity::kBytes && unit > 0)
    return found.value >= claim.value - unit / 2 && found.value < claim.value + unit;
  if (IsExact(quantity) && claim.decimals == 0 && found.decimals == 0) return claim.value == found.value;
  return Agrees(claim, found);
}

class Statements {
 public:
  explicit Statements(Context& context) : context_(context) {}

  void Run() {
    std::vector<std::string> unchecked;
    std::vector<std::string> done;
    for (const Statement& statement : context_.folder.statements) {
      if (std::ranges::find(done, statement.group + (statement.seed ? "*" : "")) != done.end()) continue;
      done.push_back(statement.group + (statement.seed ? "*" : ""));
      std::vector<const Statement*> group;
      for (const Statement& other : context_.folder.statements)
        if (other.group == statement.group && other.seed.has_value() == statement.seed.has_value())
          group.push_back(&other);
      if (statement.kind == Statement::Kind::kSwitch) {
        for (const Statement* flag : group) CheckSwitch(*flag, unchecked);
      } else if (statement.kind == Statement::Kind::kNumber) {
        CheckGroup(group, unchecked);
      } else {
        for (const Statement* text : group) CheckText(*text);
      }
    }
    CheckPair();
    CheckName();
    CheckBaseline();
    if (!unchecked.empty()) {
      std::vector<std::string> some(unchecked.begin(), unchecked.begin() + std::min<std::ptrdiff_t>(std::ssize(unchecked), 12));
      context_.Add("other", StringPrintf("%zu other statements", unchecked.size()), context_.folder.submission,
                   "not compared: " + Shorten(Join(some, ", "), 240) + (some.size() < unchecked.size() ? ", …" : ""),
                   "", Verdict::kUnknown);
    }
  }

 private:
  struct Outcome {
    Verdict verdict;
    std::string files, at;
  };

  static std::string CheckName(Quantity quantity) {
    switch (quantity) {
      case Quantity::kBpb:
      case Quantity::kLoss:
      case Quantity::kBpbDeviation:
      case Quantity::kLossDeviation:
        return "score";
      case Quantity::kBytes:
      case Quantity::kModelBytes:
      case Quantity::kCodeBytes:
        return "bytes";
      case Quantity::kSteps:
      case Quantity::kStepMs:
        return "steps";
      case Quantity::kTrainSeconds:
      case Quantity::kEvalSeconds:
        return "seconds";
      default:
        return "data";
    }
  }

  void CheckGroup(const std::vector<const Statement*>& group, std::vector<std::string>& unchecked) {
    const Quantity quantity = QuantityOf(group[0]->key);
    if (quantity == Quantity::kNone || IsAside(*group[0]) || Contains(Lower(group[0]->section), {"extended"})) {
      if (CheckSetting(group)) return;
      if (group[0]->group != "seeds" && !Contains(Lower(group[0]->name), {"p_value", "delta_vs", "baseline"}) &&
          group[0]->key != "seed" && !Contains(Lower(group[0]->key), {"_pr", "pr_"}))
        unchecked.push_back(group[0]->group);
      return;
    }
    std::vector<const Statement*> held;
    std::vector<std::string> texts, places;
    for (const Statement* statement : group) {
      const Outcome outcome = Compare(quantity, *statement);
      if (outcome.verdict == Verdict::kHolds) {
        held.push_back(statement);
        if (std::ranges::find(texts, outcome.files) == texts.end()) texts.push_back(outcome.files);
        places.push_back(outcome.at);
      } else {
        context_.Add(CheckName(quantity), ClaimOf(*statement), context_.folder.At(*statement), outcome.files,
                     outcome.at, outcome.verdict);
      }
    }
    if (held.empty()) return;
    std::vector<std::string> values;
    for (const Statement* statement : held) values.push_back(statement->text);
    context_.Add(CheckName(quantity),
                 (held.size() == 1 ? Shorten(held[0]->name, 60) : Shorten(held[0]->group, 60)) + " " +
                     Shorten(Join(values, ", "), 80),
                 context_.folder.At(*held[0]), Shorten(Join(texts, "; "), 160), Locations(places), Verdict::kHolds);
  }

  static std::string ClaimOf(const Statement& statement) {
    return Shorten(statement.name, 80) + " " + Shorten(statement.text, 40);
  }

  std::vector<const FolderLog*> AllLogs() const {
    std::vector<const FolderLog*> logs;
    for (const FolderLog& log : context_.folder.logs) logs.push_back(&log);
    return logs;
  }

  // Of every label: its last value in each seed's log; where seeds are not known, in each log.
  std::map<std::string, std::vector<Source>> ByLabel(Quantity quantity) const {
    std::vector<std::vector<const FolderLog*>> runs;
    for (const FolderLog* log : context_.counted) {
      const auto same =
          std::ranges::find_if(runs, [&](const auto& run) { return log->Seed() && run[0]->Seed() == log->Seed(); });
      if (same == runs.end() || context_.seeds.empty()) {
        runs.push_back({log});
      } else {
        same->push_back(log);
      }
    }
    std::map<std::string, std::vector<Source>> labels;
    for (const auto& run : runs) {
      std::map<std::string, Source> own;
      for (const FolderLog* log : run)
        for (const Source& source : SourcesOf(quantity, *log)) own.emplace(source.what, source);
      for (const auto& [label, source] : own) labels[label].push_back(source);
    }
    // The scores that are claimed, which may have different labels.
    std::vector<Source> claimed;
    if (quantity == Quantity::kBpb || quantity == Quantity::kLoss) {
      for (const FolderLog* log : context_.counted) {
        const auto found = context_.headline.find(log);
        if (found == context_.headline.end() || (quantity == Quantity::kLoss && !found->second->loss)) continue;
        claimed.push_back({quantity == Quantity::kLoss ? *found->second->loss : found->second->bpb, kSeedsScores,
                           log->At(found->second->line)});
      }
      if (!claimed.empty()) labels[kSeedsScores] = claimed;
    }
    return labels;
  }

  Outcome Compare(Quantity quantity, const Statement& statement) const {
    const Figure claim = quantity == Quantity::kTrainSeconds || quantity == Quantity::kEvalSeconds
                             ? InSeconds(statement.key, statement.number)
                             : statement.number;
    if (quantity == Quantity::kBpbDeviation || quantity == Quantity::kLossDeviation)
      return Deviation(quantity, statement);
    const std::vector<const FolderLog*> logs = statement.seed ? context_.LogsOf(*statement.seed) : AllLogs();
    if (logs.empty())
      return {Verdict::kUnknown,
              statement.seed ? "there is no log of seed " + std::to_string(*statement.seed) : "there is no log", ""};
    const bool headline = (quantity == Quantity::kBpb && IsHeadline(statement.key, "bpb")) ||
                          (quantity == Quantity::kLoss && IsHeadline(statement.key, "loss"));

    // A mean that has all the claim's decimals; else one log's number; else a mean that rounding may have moved by a
    // unit.
    if (quantity == Quantity::kCodeBytes) {
      if (auto counted = OtherThanInTotal(claim, logs)) return *counted;
    }
    if (auto mean = MeanOf(quantity, statement, claim, headline, true)) return *mean;
    const Source* nearest = nullptr;
    std::optional<Outcome> earlier;
    std::vector<std::vector<Source>> all;
    for (const FolderLog* log : logs) all.push_back(SourcesOf(quantity, *log));
    for (const auto& sources : all) {
      for (const Source& source : sources) {
        if (Matches(quantity, claim, source.figure)) {
          if (headline && Stage(source) != LoggedScore::Stage::kFinal) {
            const Source& final = sources.front();
            const auto last = std::ranges::find_if(
                sources, [](const Source& one) { return Stage(one) == LoggedScore::Stage::kTraining; });
            if (Stage(source) == LoggedScore::Stage::kTraining && Stage(final) == LoggedScore::Stage::kFinal &&
                &source > &*last) {
              earlier = {context_.all_logged ? Verdict::kContradicted : Verdict::kUnknown,
                         "the artifact scores " + Decimal(final.figure) + " (" + final.what + "); the log has " +
                             Decimal(source.figure) + " only as " + source.what,
                         final.at + ", " + source.at};
              break;
            }
            return {Verdict::kUnknown, "the log has it as " + source.what + ", not as a score of the artifact",
                    source.at};
          }
          return {Verdict::kHolds, source.what, source.at};
        }
        if (!nearest ||
            (Stage(source) == LoggedScore::Stage::kFinal) > (Stage(*nearest) == LoggedScore::Stage::kFinal) ||
            ((Stage(source) == LoggedScore::Stage::kFinal) == (Stage(*nearest) == LoggedScore::Stage::kFinal) &&
             std::fabs(source.figure.value - claim.value) < std::fabs(nearest->figure.value - claim.value)))
          nearest = &source;
      }
    }
    if (auto mean = MeanOf(quantity, statement, claim, headline, false)) return *mean;
    for (const FolderFile& artifact : context_.folder.artifacts) {
      if ((quantity == Quantity::kBytes || quantity == Quantity::kModelBytes) &&
          static_cast<double>(artifact.bytes) == claim.value)
        return {Verdict::kHolds, "size of the file", artifact.name};
      if (quantity == Quantity::kBytes && context_.folder.script &&
          static_cast<double>(artifact.bytes + context_.folder.script->bytes) == claim.value)
        return {Verdict::kHolds, "sizes of the files", artifact.name + ", " + context_.folder.script->name};
    }
    if (quantity == Quantity::kCodeBytes && context_.folder.script &&
        static_cast<double>(context_.folder.script->bytes) == claim.value)
      return {Verdict::kHolds, "size of the script as shipped", context_.folder.script->name};
    if (quantity == Quantity::kBpb) {
      if (auto corrected = Corrected(claim, logs)) return *corrected;
    }
    if (quantity == Quantity::kLoss && headline) {
      // One unit under the other's name.
      for (const auto& [label, sources] : ByLabel(Quantity::kBpb)) {
        std::vector<double> values;
        for (const Source& source : sources) values.push_back(source.figure.value);
        if (nearest && Agrees(claim, {Mean(values), 8}))
          return {Verdict::kContradicted,
                  StringPrintf("is the score in bits per byte (%s); the loss is %s nats per token", label.c_str(),
                               Decimal(nearest->figure).c_str()),
                  nearest->at};
      }
    }
    if (earlier) return *earlier;
    if (quantity == Quantity::kBytes) {
      if (auto counted = WithClaimedCode(claim, logs)) return *counted;
    }
    if (quantity == Quantity::kCodeBytes && nearest && !context_.folder.script) {
      const bool near = std::fabs(nearest->figure.value - claim.value) <= kSameScript;
      return {Verdict::kUnknown,
              "the logs count " + Count(nearest->figure.value) + (near ? ": as little as a line end apart" : "") +
                  "; the script as shipped is not here",
              nearest->at};
    }
    if (!nearest) return {Verdict::kUnknown, "no log states it", ""};

    // Not one number of the logs is it. That is a contradiction where the logs are whole and the claim is of them.
    const bool whole = statement.seed
                           ? std::ranges::any_of(logs, [](const FolderLog* log) { return log->log.HasFinalScore(); })
                           : context_.all_logged && !IsOverOtherSeeds(statement);
    const bool time = quantity == Quantity::kTrainSeconds || quantity == Quantity::kEvalSeconds;
    // A mean step time depends on where the clock of the log is read: only what is far from all of them is another
    // run's.
    const bool other_step =
        quantity == Quantity::kStepMs && std::fabs(nearest->figure.value - claim.value) > kStepMsSlack * claim.value;
    bool strict = headline || (IsExact(quantity) && quantity != Quantity::kTokens) || other_step ||
                  (time && claim.decimals > 0 && statement.seed);
    if (quantity == Quantity::kCodeBytes && !context_.folder.script &&
        Contains(Lower(statement.key), {"wrapped", "compressed", "minified", "packed"}))
      strict = false;
    std::string files = IsExact(quantity) ? Count(nearest->figure.value) : Decimal(nearest->figure);
    if (quantity == Quantity::kTrainSeconds && std::fabs(nearest->figure.value - claim.value) <= StepSeconds(logs))
      return {Verdict::kUnknown, "the log has " + files + " (" + nearest->what + "): less than a step apart",
              nearest->at};
    files = "no log has it; the nearest is " + files + " (" + nearest->what + ")";
    if (!whole) files += statement.seed ? "" : "; not every seed's log is here";
    return {whole && strict ? Verdict::kContradicted : Verdict::kUnknown, files, nearest->at};
  }

  // Of a claim on all seeds: the mean that it is.
  std::optional<Outcome> MeanOf(Quantity quantity, const Statement& statement, const Figure& claim, bool headline,
                                bool close) const {
    if (statement.seed) return std::nullopt;
    for (const auto& [label, sources] : ByLabel(quantity)) {
      if (sources.size() < 2 || sources.size() < context_.seeds.size()) continue;
      std::vector<double> values;
      std::vector<std::string> places;
      int decimals = 30;
      for (const Source& source : sources) {
        values.push_back(source.figure.value);
        decimals = std::min(decimals, source.figure.decimals);
        if (std::ranges::find(places, source.at) == places.end()) places.push_back(source.at);
      }
      if (close && !IsExact(quantity) && decimals < claim.decimals) continue;
      const double unit =
          IsExact(quantity) && claim.decimals == 0 ? 1 : std::pow(10, -std::min(claim.decimals, decimals));
      // Of whole numbers that are all the same the mean is that number.
      const bool one = IsExact(quantity) && std::ranges::adjacent_find(values, std::not_equal_to<>()) == values.end();
      if (std::fabs(claim.value - Mean(values)) > (one ? 0 : close ? 0.501 : 1.001) * unit) continue;
      if (headline && IsOfAnEarlierStep(label)) continue;
      const std::string files = StringPrintf("mean over %zu logs of %s", sources.size(), label.c_str());
      if (headline && Stage(sources[0]) != LoggedScore::Stage::kFinal)
        return Outcome{Verdict::kUnknown, files + ", not a score of the artifact", Locations(places)};
      return Outcome{Verdict::kHolds, files, Locations(places)};
    }
    return std::nullopt;
  }

  // Whether it is a validation in training that a later one followed, and a score of the artifact.
  bool IsOfAnEarlierStep(const std::string& label) const {
    return std::ranges::all_of(context_.counted, [&](const FolderLog* log) {
      const LoggedScore* last = nullptr;
      for (const LoggedScore& score : log->log.scores)
        if (score.stage == LoggedScore::Stage::kTraining) last = &score;
      return label.starts_with("validation in training") && last && !label.ends_with(", " + last->label) &&
             log->log.HasFinalScore();
    });
  }

  static LoggedScore::Stage Stage(const Source& source) {
    if (source.what.starts_with("validation in training")) return LoggedScore::Stage::kTraining;
    const std::string lower = Lower(source.what);
    return Contains(lower, {"pre-quant", "prequant", "pre_quant", "post_ema", "post-ema", "post_swa", "post-swa"})
               ? LoggedScore::Stage::kBefore
               : LoggedScore::Stage::kFinal;
  }

  // A score whose line counted the bytes otherwise, computed anew from its loss over the split's text.
  std::optional<Outcome> Corrected(const Figure& claim, const std::vector<const FolderLog*>& logs) const {
    std::vector<double> values;
    for (const FolderLog* log : logs) {
      const PublishedSet* set = SetOf(log->log);
      if (!set) continue;
      for (const LoggedScore& score : log->log.scores) {
        const double own = TokensPerByte(score);
        if (own == 0 || std::fabs(own / set->tokens_per_byte - 1) < 2e-3) continue;
        const double bpb = score.loss->value / std::numbers::ln2 * set->targets / set->bytes;
        values.push_back(bpb);
        if (std::fabs(bpb - claim.value) < 2e-5)
          return Outcome{Verdict::kHolds,
                         StringPrintf("the loss of %s over the %s bytes of the text; the line itself says %s",
                                      score.label.c_str(), Count(set->bytes).c_str(), Decimal(score.bpb).c_str()),
                         log->At(score.line)};
      }
    }
    if (values.size() > 1 && std::fabs(Mean(values) - claim.value) < 2e-5)
      return Outcome{
          Verdict::kHolds,
          StringPrintf(
              "mean of the losses of %zu lines over the bytes of the text; the lines themselves count other bytes",
              values.size()),
          ""};
    return std::nullopt;
  }

  // Whether it is the largest or smallest over seeds some of which have no log here: "extended_seeds" beside "seeds".
  bool IsOverOtherSeeds(const Statement& statement) const {
    const std::string name = Lower(statement.key);
    return (name.ends_with("_max") || name.ends_with("_min")) &&
           std::ranges::any_of(context_.folder.statements, [&](const Statement& other) {
             if (other.kind != Statement::Kind::kNumber || !Lower(other.group).ends_with("seeds")) return false;
             const std::optional<int64_t> seed = WholeNumber(other.number.value);
             return !seed || context_.LogsOf(*seed).empty();
           });
  }

  // The longest mean time of a step. Where in a step a clock was read is not in the logs.
  static double StepSeconds(const std::vector<const FolderLog*>& logs) {
    double seconds = 0;
    for (const FolderLog* log : logs)
      if (log->log.stop_ms && log->log.stop_step && log->log.stop_step->value > 0)
        seconds = std::max(seconds, log->log.stop_ms->value / log->log.stop_step->value / 1000);
    return seconds;
  }

  // A size of the code that is not the one in the record's own total, which is a log's.
  std::optional<Outcome> OtherThanInTotal(const Figure& claim, const std::vector<const FolderLog*>& logs) const {
    if (context_.folder.script && static_cast<double>(context_.folder.script->bytes) == claim.value)
      return std::nullopt;
    std::optional<Outcome> other;
    for (const Statement& total : context_.folder.statements) {
      if (total.kind != Statement::Kind::kNumber || IsAside(total) || QuantityOf(total.key) != Quantity::kBytes)
        continue;
      for (const FolderLog* log : logs) {
        const PublicLog& of = log->log;
        if (!of.model_bytes || !of.code_bytes) continue;
        if (std::fabs(of.model_bytes->value + claim.value - total.number.value) <= kSameScript) return std::nullopt;
        if (of.model_bytes->value + of.code_bytes->value != total.number.value || other) continue;
        if (of.raw_code_bytes && of.raw_code_bytes->value == claim.value) return std::nullopt;
        other = {Verdict::kContradicted,
                 StringPrintf("%s %s (line %jd) counts %s bytes of code", total.name.c_str(), total.text.c_str(), total.line,
                              Count(of.code_bytes->value).c_str()),
                 log->At(of.code_bytes->line)};
      }
    }
    return other;
  }

  // A total that counts other code than the logs: what submission.json says of its code.
  std::optional<Outcome> WithClaimedCode(const Figure& claim, const std::vector<const FolderLog*>& logs) const {
    std::vector<double> models;
    for (const FolderLog* log : logs)
      if (log->log.model_bytes) models.push_back(log->log.model_bytes->value);
    if (models.empty()) return std::nullopt;
    const double mean = std::round(Mean(models));
    for (const Statement& code : context_.folder.statements) {
      if (code.kind != Statement::Kind::kNumber || QuantityOf(code.key) != Quantity::kCodeBytes) continue;
      for (const double model : models) {
        if (model + code.number.value == claim.value || std::fabs(mean + code.number.value - claim.value) <= 1)
          return Outcome{
              Verdict::kUnknown,
              StringPrintf("is the logged artifact and %s %s (line %jd); the logs count other code, and the packed "
                           "script is not here",
                           code.name.c_str(), Count(code.number.value).c_str(), code.line),
              logs[0]->name};
      }
    }
    return std::nullopt;
  }

  Outcome Deviation(Quantity quantity, const Statement& statement) const {
    const Quantity of = quantity == Quantity::kBpbDeviation ? Quantity::kBpb : Quantity::kLoss;
    std::optional<double> shown;
    const bool plain =
        IsHeadline(statement.key.substr(0, Lower(statement.key).find("_std")), of == Quantity::kBpb ? "bpb" : "loss");
    for (const auto& [label, sources] : ByLabel(of)) {
      if (sources.size() < 2 || (plain && label != kSeedsScores)) continue;
      std::vector<double> values;
      for (const Source& source : sources) values.push_back(source.figure.value);
      const double sample = SampleStandardDeviation(values),
                   population = sample * std::sqrt((values.size() - 1.0) / values.size());
      if (label == kSeedsScores) shown = sample;
      // A spread over few seeds is an estimate: what rounding does to it is no matter.
      const auto close = [&](double value) {
        return Agrees(statement.number, {value, 30}) || std::fabs(statement.number.value / value - 1) < 0.05;
      };
      if (close(sample))
        return {Verdict::kHolds, StringPrintf("sample deviation over %zu logs of %s", values.size(), label.c_str()),
                ""};
      if (close(population))
        return {Verdict::kHolds,
                StringPrintf("deviation over n, not n - 1, of %zu logs of %s", values.size(), label.c_str()), ""};
    }
    // Over what submission.json itself says of its seeds.
    std::vector<double> stated;
    for (const Statement& other : context_.folder.statements)
      if (other.seed && other.kind == Statement::Kind::kNumber && !IsAside(other) &&
          IsHeadline(other.key, of == Quantity::kBpb ? "bpb" : "loss"))
        stated.push_back(other.number.value);
    if (stated.size() > 1 && Agrees(statement.number, {SampleStandardDeviation(stated), 30}))
      return {Verdict::kUnknown,
              "is the deviation of the scores that submission.json states; the logs have others or are not all here",
              ""};
    if (!shown) return {Verdict::kUnknown, "the logs here do not have two seeds' scores", ""};
    std::vector<std::string> places;
    for (const auto& [log, score] : context_.headline) places.push_back(log->At(score->line));
    return {context_.all_logged && statement.number.decimals >= 4 ? Verdict::kContradicted : Verdict::kUnknown,
            StringPrintf("the sample deviation of the logs' scores is %.*f", std::max(4, statement.number.decimals),
                         *shown),
            Locations(places)};
  }

  // Settings under `key_settings` and the like, and reserves that have the name of a setting.
  bool CheckSetting(const std::vector<const Statement*>& group) {
    if (IsAside(*group[0])) return false;
    const std::string section = Lower(group[0]->section), name = Lower(group[0]->key);
    if (!Contains(section, {"setting", "hyperparam", "config", "env"}) && name != "gptq_reserve_seconds") return false;
    std::string held, held_at;
    bool any = false;
    for (const Statement* statement : group) {
      for (const FolderLog* log : context_.counted) {
        if (statement->seed && log->Seed() != statement->seed) continue;
        const LoggedLine* logged = log->log.Setting({name.c_str()});
        Figure figure;
        if (!logged || statement->kind != Statement::Kind::kNumber) continue;
        const std::string lower = Lower(logged->text);
        if (lower == "true" || lower == "false") {
          figure = {lower == "true" ? 1.0 : 0.0, 0};
        } else if (!ReadFigure(logged->text, &figure)) {
          continue;
        }
        any = true;
        const double difference = std::fabs(figure.value - statement->number.value);
        if (difference <= 1e-9 * std::max(1.0, std::fabs(figure.value))) {
          if (held.empty()) held = name + ": " + logged->text, held_at = log->At(logged->line);
        } else {
          context_.Add("settings", ClaimOf(*statement), context_.folder.At(*statement),
                       "the log has " + name + ": " + logged->text, log->At(logged->line), Verdict::kContradicted);
        }
      }
    }
    if (!held.empty())
      context_.Add("settings", ClaimOf(*group[0]), context_.folder.At(*group[0]), held, held_at, Verdict::kHolds);
    return any;
  }

  void CheckSwitch(const Statement& statement, std::vector<std::string>& unchecked) {
    const std::string name = Lower(statement.key);
    if (!statement.on) return;
    const auto by_finding = [&](const char* check, std::initializer_list<const char*> words) {
      for (const Finding& finding : context_.findings) {
        if (finding.check != check || !std::ranges::any_of(words, [&](const char* word) {
              return finding.claim.find(word) != std::string::npos;
            }))
          continue;
        context_.Add(check, Shorten(statement.name, 60) + " true", context_.folder.At(statement), finding.files,
                     finding.files_at, finding.verdict);
        return true;
      }
      return false;
    };
    if (Contains(name, {"artifact_under", "under_16mb", "size_under"})) {
      if (by_finding("size", {""})) return;
    } else if (Contains(name, {"train"}) && Contains(name, {"under_600", "under_10"})) {
      if (by_finding("clock", {"training"})) return;
    } else if (Contains(name, {"eval"}) && Contains(name, {"under_600", "under_10"})) {
      if (by_finding("clock", {"evaluation"})) return;
    } else if (name == "three_seeds") {
      size_t scored = 0;
      for (const FolderLog* log : context_.counted) scored += log->log.HasFinalScore();
      context_.Add("seeds", statement.name + " true", context_.folder.At(statement),
                   StringPrintf("%zu logs with a score", scored), "",
                   scored >= 3 ? Verdict::kHolds : Verdict::kUnknown);
      return;
    } else if (Contains(name, {"no_slot", "no_ngram", "no_n_gram", "no_ttt", "no_prequant", "no_pre_quant"})) {
      std::vector<std::string> signs;
      if (Contains(name, {"slot"})) signs = {"slot"};
      if (Contains(name, {"gram"})) signs = {"ngram", "n-gram"};
      if (Contains(name, {"quant"})) signs = {"prequant_ttt", "pre-quant ttt", "ttt_adamw"};
      if (name == "no_ttt") signs = {"ttt"};
      for (const FolderLog* log : context_.counted) {
        for (const std::string& sign : signs) {
          if (const LoggedLine* note = log->log.Note({sign})) {
            context_.Add("techniques", statement.name + " true", context_.folder.At(statement),
                         "the log says: " + Shorten(note->text, 80), log->At(note->line), Verdict::kContradicted);
            return;
          }
        }
      }
      context_.Add("techniques", statement.name + " true", context_.folder.At(statement),
                   "the logs have no sign of it; that it did not act cannot be seen", "", Verdict::kUnknown);
      return;
    }
    unchecked.push_back(statement.group);
  }

  void CheckText(const Statement& statement) {
    if (IsAside(statement)) return;
    const std::string name = Lower(statement.key);
    if (name == "pytorch_version" || name == "torch_version") {
      for (const FolderLog* log : context_.counted) {
        if (!log->log.torch) continue;
        // "2.9+" and "2.9.1" of "2.9.1+cu128" are no other version.
        std::string claim = Trim(statement.text);
        const bool least = claim.ends_with('+');
        if (least) claim.pop_back();
        const std::string& found = log->log.torch->text;
        const auto number = [](const std::string& version) {
          int major = 0, minor = 0;
          std::sscanf(version.c_str(), "%d.%d", &major, &minor);
          return 1000 * major + minor;
        };
        const bool same = least ? number(found) >= number(claim)
                                : found.starts_with(claim) || claim.starts_with(found.substr(0, found.find('+')));
        context_.Add("environment", "pytorch_version " + Shorten(Printable(statement.text), 40),
                     context_.folder.At(statement), "Running PyTorch " + found, log->At(log->log.torch->line),
                     same ? Verdict::kHolds : Verdict::kContradicted);
        if (!same) return;
        break;
      }
    } else if (name == "hardware" || name == "gpu" || name == "gpus") {
      Figure gpus;
      size_t length;
      const std::string text = Trim(statement.text);
      if (!ReadFigure(text, &gpus, &length) || length >= text.size() || (text[length] != 'x' && text[length] != ' '))
        return;
      for (const FolderLog* log : context_.counted) {
        if (!log->log.world_size) continue;
        const bool same = log->log.world_size->value == gpus.value;
        context_.Add("environment", "hardware " + Shorten(Printable(text), 40), context_.folder.At(statement),
                     "world_size " + Count(log->log.world_size->value), log->At(log->log.world_size->line),
                     same ? Verdict::kHolds : Verdict::kContradicted);
        return;
      }
    }
  }

  // A score in the name: "…, val_bpb=1.1630", "Mixer_0.979556".
  void CheckName() {
    const Statement *name = context_.folder.Top("name"), *bpb = context_.folder.Top("val_bpb");
    if (!name || !bpb || name->kind != Statement::Kind::kText || bpb->kind != Statement::Kind::kNumber) return;
    static const std::regex score(R"((?:bpb[ =:]*([0-9]\.[0-9]{3,}))|(?:(?:^|[^0-9.])([0-9]\.[0-9]{6,})))",
                                  std::regex::icase);
    const std::string text = name->text.substr(0, 300);
    if (Contains(Lower(text), {"baseline", " vs", "from ", "->", "\xe2\x86\x92"})) return;
    std::smatch match;
    Figure figure;
    if (!std::regex_search(text, match, score) || !ReadFigure(match.str(1) + match.str(2), &figure)) return;
    context_.Add("score", "\"" + match.str(1) + match.str(2) + "\" in name", context_.folder.At(*name),
                 "val_bpb is " + bpb->text, context_.folder.At(*bpb),
                 Agrees(figure, bpb->number) ? Verdict::kHolds : Verdict::kContradicted);
  }

  // val_loss and val_bpb of one place must be of one text.
  void CheckPair() {
    const Statement *loss = context_.folder.Top("val_loss"), *bpb = context_.folder.Top("val_bpb");
    if (!loss || !bpb || loss->kind != Statement::Kind::kNumber || bpb->kind != Statement::Kind::kNumber ||
        loss->number.value <= 0)
      return;
    const double stated = bpb->number.value * std::numbers::ln2 / loss->number.value;
    for (const FolderLog* log : context_.counted) {
      const PublishedSet* set = SetOf(log->log);
      if (!set) continue;
      bool same = std::fabs(stated / set->tokens_per_byte - 1) < 2e-3;
      std::string files = StringPrintf("%.4f tokens per byte; the published %s split has %.4f", stated, set->name,
                                       set->tokens_per_byte),
                  at = log->At(log->log.validation_tokens->line);
      // Of a part of the split the log has the ratio.
      if (const auto found = context_.headline.find(log); !same && found != context_.headline.end()) {
        if (const double own = TokensPerByte(*found->second); own > 0) {
          same = std::fabs(stated / own - 1) < 2e-3;
          files += StringPrintf(", the log's own score %.4f", own);
          at = log->At(found->second->line);
        }
      }
      context_.Add("text", "val_loss " + loss->text + " and val_bpb " + bpb->text + " are of one text",
                   context_.folder.At(*bpb), files, at, same ? Verdict::kHolds : Verdict::kContradicted);
      return;
    }
  }

  void CheckBaseline() {
    std::vector<double> losses, bpbs;
    std::vector<std::string> places;
    for (const FolderLog* log : context_.counted) {
      const auto found = context_.headline.find(log);
      if (found == context_.headline.end()) continue;
      if (found->second->loss) losses.push_back(found->second->loss->value);
      bpbs.push_back(found->second->bpb.value);
      places.push_back(log->At(found->second->line));
    }
    std::optional<double> loss = context_.options.baseline_loss, bpb = context_.options.baseline_bpb;
    std::string at = "--baseline";
    const bool asked = loss || bpb;
    if (!asked) {
      for (const Statement& statement : context_.folder.statements) {
        const std::string name = Lower(statement.name);
        if (statement.kind != Statement::Kind::kNumber) continue;
        if (Is(name, {"comparison_baseline_bpb", "baseline_bpb", "baseline.val_bpb"}))
          bpb = statement.number.value, at = context_.folder.At(statement);
        if (Is(name, {"comparison_baseline_loss", "baseline_loss", "baseline.val_loss"})) loss = statement.number.value;
      }
    }
    // Stated differences.
    for (const Statement& statement : context_.folder.statements) {
      const std::string name = Lower(statement.name);
      if (statement.kind != Statement::Kind::kNumber || !name.starts_with("delta_vs") || asked) continue;
      const Statement* own = context_.folder.Top(name.ends_with("_nats") ? "val_loss" : "val_bpb");
      const std::optional<double>& base = name.ends_with("_nats") ? loss : bpb;
      if (!own || !base || Contains(name, {"quant"})) {
        context_.Add("baseline", ClaimOf(statement), context_.folder.At(statement),
                     "what it is a difference to is not stated in that unit", "", Verdict::kUnknown);
        continue;
      }
      const double difference = own->number.value - *base;
      context_.Add("baseline", ClaimOf(statement), context_.folder.At(statement),
                   StringPrintf("%s minus the stated baseline is %.8g", own->name.c_str(), difference),
                   context_.folder.At(*own),
                   Agrees({std::fabs(statement.number.value), statement.number.decimals}, {std::fabs(difference), 30})
                       ? Verdict::kHolds
                       : Verdict::kContradicted);
    }
    if (!loss && !bpb) {
      if (const Statement* p = context_.folder.Top("p_value"))
        context_.Add("baseline", "p_value " + p->text, context_.folder.At(*p),
                     "no baseline is stated to compute it against (--baseline-bpb gives one)", "", Verdict::kUnknown);
      return;
    }
    const bool in_nats = loss && losses.size() == bpbs.size() && losses.size() > 1;
    if (bpbs.size() < 2 || (!in_nats && losses.size() != bpbs.size())) {
      context_.Add("baseline", "beats the baseline by 0.005 nats, p < 0.01", at,
                   "needs the scores of two seeds or more", Locations(places), Verdict::kUnknown);
      return;
    }
    const double nats_per_bit = Mean(losses) / Mean(bpbs);
    const double base = in_nats && loss ? *loss : *bpb * nats_per_bit;
    const double improvement = base - Mean(losses), p = ProbabilityNotBelow(losses, base - kRequiredNats);
    const Statement* stated = context_.folder.Top("p_value");
    Verdict verdict = p < kRequiredProbability ? Verdict::kHolds
                      : asked || stated        ? Verdict::kContradicted
                                               : Verdict::kUnknown;
    context_.Add("baseline",
                 StringPrintf("beats %s by 0.005 nats, p < 0.01",
                              loss && in_nats ? StringPrintf("%.6f nats per token", base).c_str()
                                              : StringPrintf("%.6f bits per byte", *bpb).c_str()),
                 at, StringPrintf("better by %.6f nats over %zu seeds, p = %.3g", improvement, losses.size(), p),
                 Locations(places), verdict);
  }

  Context& context_;
};

}  // namespace

void CheckStatements(Context& context) {
  Statements(context).Run();
}

}  // namespace fairway::audit
