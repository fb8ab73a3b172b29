// The rules of the field (size, clocks, the text that is scored, the data that is read), and whether seeds and logs are
// what they are given as.
#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <regex>
#include <set>

#include "common/audit/context.h"
#include "common/base/text.h"

namespace fairway::audit {
namespace {

constexpr double kSeconds = 600;
constexpr int64_t kValidationDocuments = 50'000;  // of the published split

// Of the counted logs, or of all where none is counted.
std::vector<const FolderLog*> Logs(const Context& context) {
  if (!context.counted.empty()) return context.counted;
  std::vector<const FolderLog*> logs;
  for (const FolderLog& log : context.folder.logs) logs.push_back(&log);
  return logs;
}

void CheckSize(Context& context) {
  const double limit = static_cast<double>(context.options.limit);
  const std::string claim = "artifact and code within " + Count(limit) + " bytes";
  const auto over = [&](double bytes) {
    return Count(bytes) + " bytes, " +
           (bytes > limit ? "over by " + Count(bytes - limit) : "under by " + Count(limit - bytes));
  };
  // As the logs count.
  const FolderLog* largest = nullptr;
  double total = 0;
  int64_t line = 0;
  bool raw_total = false;
  for (const FolderLog* log : Logs(context)) {
    const PublicLog& of = log->log;
    const auto consider = [&](double bytes, int64_t at) {
      if (bytes > total) largest = log, total = bytes, line = at;
    };
    if (of.total_bytes) {
      consider(of.total_bytes->value, of.total_bytes->line);
    } else if (of.model_bytes) {
      consider(of.model_bytes->value + (of.code_bytes ? of.code_bytes->value : 0), of.model_bytes->line);
    }
  }
  // What submission.json says of itself.
  const Statement* stated = nullptr;
  const Statement* claimed_code = nullptr;
  for (const Statement& statement : context.folder.statements) {
    if (statement.kind != Statement::Kind::kNumber || IsAside(statement)) continue;
    const std::string name = Lower(statement.key);
    if (Contains(name, {"code"}) && Contains(name, {"bytes"})) claimed_code = &statement;
    if (!Contains(name, {"code", "model", "mean", "cap", "limit", "byte_count", "budget", "best_"}) &&
        Contains(name, {"bytes_total", "artifact_bytes", "submission_bytes", "artifact_size", "submission_size"}) &&
        (!stated || statement.number.value > stated->number.value))
      stated = &statement;
  }
  if (largest) {
    const PublicLog& of = largest->log;
    // The log may count its script as it runs, the record one that was packed.
    if (total > limit && of.model_bytes && of.code_bytes && claimed_code &&
        claimed_code->number.value < of.code_bytes->value &&
        of.model_bytes->value + claimed_code->number.value <= limit && !context.folder.script)
      raw_total = true;
    if (raw_total) {
      context.Add("size", claim, context.track_at,
                  over(total) + " with the log's code of " + Count(of.code_bytes->value) +
                      "; submission.json counts a packed script of " + Count(claimed_code->number.value) + " (line " +
                      std::to_string(claimed_code->line) + "), which is not here",
                  largest->At(line), Verdict::kUnknown);
    } else {
      context.Add("size", claim, context.track_at,
                  over(total) + (of.raw_code_bytes ? ", with the script compressed" : ""), largest->At(line),
                  total > limit ? Verdict::kContradicted : Verdict::kHolds);
    }
  } else if (!context.folder.artifacts.empty() && context.folder.script) {
    // The files are measured below.
  } else if (stated) {
    context.Add("size", claim, context.track_at,
                "submission.json itself says " + over(stated->number.value) + "; no log counts it",
                context.folder.At(*stated), stated->number.value > limit ? Verdict::kContradicted : Verdict::kUnknown);
  } else {
    context.Add("size", claim, context.track_at, "no file states a size", "", Verdict::kUnknown);
  }
  // With the script as it was shipped.
  const auto model = [&]() -> std::optional<std::pair<double, std::string>> {
    std::optional<std::pair<double, std::string>> found;
    for (const FolderFile& artifact : context.folder.artifacts)
      if (!found || static_cast<double>(artifact.bytes) > found->first)
        found = {static_cast<double>(artifact.bytes), artifact.name};
    for (const FolderLog* log : Logs(context))
      if (log->log.model_bytes && (!found || log->log.model_bytes->value > found->first))
        found = {log->log.model_bytes->value, log->At(log->log.model_bytes->line)};
    return found;
  }();
  const std::string shipped = "the same with the script as shipped";
  if (context.folder.script && model) {
    const double bytes = model->first + static_cast<double>(context.folder.script->bytes);
    context.Add("size", shipped, context.track_at,
                over(bytes) + ": " + context.folder.script->name + " has " +
                    Count(static_cast<double>(context.folder.script->bytes)),
                model->second + ", " + context.folder.script->name,
                bytes > limit ? Verdict::kContradicted : Verdict::kHolds);
  } else if (largest && largest->log.raw_code_bytes && model) {
    const double bytes = model->first + largest->log.raw_code_bytes->value;
    context.Add("size", shipped, context.track_at, "the script is not here; uncompressed it makes " + over(bytes),
                largest->At(largest->log.raw_code_bytes->line), Verdict::kUnknown);
  }
}

bool OnEight(const FolderLog& log) {
  return !log.log.world_size || log.log.world_size->value == 8;
}

// The longest training and calibration over the seeds where each has another whole run that takes at most 600 s; else
// 0.
double WithinBudgetElsewhere(const Context& context) {
  double longest = 0;
  for (const int64_t seed : context.seeds) {
    double shortest = 0;
    for (const FolderLog* log : context.LogsOf(seed)) {
      const PublicLog& of = log->log;
      if (!of.stop_ms || !of.calibration_seconds || !of.HasFinalScore()) continue;
      const double seconds = of.stop_ms->value / 1000 + of.calibration_seconds->value;
      if (shortest == 0 || seconds < shortest) shortest = seconds;
    }
    if (shortest == 0 || shortest > kSeconds) return 0;
    longest = std::max(longest, shortest);
  }
  return longest;
}

void CheckClocks(Context& context) {
  const std::string track = context.ClaimOfTrack();
  const FolderLog *slowest = nullptr, *calibrated = nullptr, *scored = nullptr;
  double training = 0, with_calibration = 0, evaluation = 0;
  int64_t evaluation_line = 0;
  bool elsewhere = false;
  for (const FolderLog* log : Logs(context)) {
    const PublicLog& of = log->log;
    const auto& end = of.stop_ms ? of.stop_ms : of.last_ms;
    if (!OnEight(*log)) {
      elsewhere = true;
      continue;
    }
    if (end && end->value / 1000 > training) slowest = log, training = end->value / 1000;
    if (end && of.calibration_seconds && end->value / 1000 + of.calibration_seconds->value > with_calibration)
      calibrated = log, with_calibration = end->value / 1000 + of.calibration_seconds->value;
    double seconds = 0;
    int64_t line = 0;
    if (const auto found = context.headline.find(log); found != context.headline.end()) {
      // Of lines that repeat a score with more digits, one has the time.
      for (const LoggedScore& score : of.scores) {
        if (score.stage != LoggedScore::Stage::kFinal || !score.seconds || !Agrees(score.bpb, found->second->bpb))
          continue;
        seconds = *score.seconds, line = score.line;
      }
      if (of.evaluation_seconds && of.evaluation_seconds->value > seconds && found->second == &of.scores.back())
        seconds = of.evaluation_seconds->value, line = of.evaluation_seconds->line;
    }
    if (seconds > evaluation) scored = log, evaluation = seconds, evaluation_line = line;
  }
  const auto step_of = [](const FolderLog& log) {
    const auto& end = log.log.stop_ms ? log.log.stop_ms : log.log.last_ms;
    const double steps = log.log.stop_step ? log.log.stop_step->value : static_cast<double>(log.log.curve.LastStep());
    return end && steps > 0 ? end->value / 1000 / steps : 0;
  };
  // Without a track, a run's own cap is what it says of its time.
  const bool timed = context.track == Track::kTenMinutes;
  std::string cap_at;
  if (context.track == Track::kUnstated && slowest) {
    const LoggedLine* cap = slowest->log.Setting({"max_wallclock_seconds"});
    Figure figure;
    if (cap && ReadFigure(cap->text, &figure) && figure.value == kSeconds) cap_at = slowest->At(cap->line);
  }
  const auto add = [&](const char* what, double seconds, const FolderLog& log, int64_t line, double slack,
                       const std::string& more, double rounding = 0) {
    std::string files = StringPrintf("%.3f s", seconds);
    if (seconds > kSeconds) files += StringPrintf(", over by %.3f s", seconds - kSeconds);
    Verdict verdict = seconds <= kSeconds ? Verdict::kHolds : Verdict::kContradicted;
    if (seconds > kSeconds && seconds - kSeconds <= slack) {
      files += StringPrintf(rounding > 0 ? ": no more than two steps (%.0f ms each) and the log's rounding"
                                         : ": the step under way ended (%.0f ms per step)",
                            step_of(log) * 1000);
      verdict = rounding > 0 ? Verdict::kUnknown : Verdict::kHolds;
    }
    const bool capped = !timed && !cap_at.empty() && std::string_view(what) == "training";
    // A script looks at its cap between steps, by the clock of a CPU that is ahead of the GPU.
    const bool late = capped && verdict == Verdict::kContradicted;
    if (!timed && (!capped || late)) {
      files += context.track == Track::kUnstated ? "; no track is stated that would limit it"
                                                 : "; the track does not limit it";
      verdict = Verdict::kUnknown;
    }
    context.Add("clock",
                std::string(what) + " within 600 s" +
                    (timed    ? " (" + track + ")"
                     : capped ? ", the cap of its settings"
                              : ""),
                capped ? cap_at : context.track_at, files + more, log.At(line), verdict);
  };
  if (slowest) {
    const auto& end = slowest->log.stop_ms ? slowest->log.stop_ms : slowest->log.last_ms;
    add("training", training, *slowest, end->line, 2 * step_of(*slowest), "");
  } else {
    context.Add("clock", "training within 600 s" + (timed ? " (" + track + ")" : std::string()), context.track_at,
                elsewhere ? "the logs are of other machines than 8 GPUs" : "no log says when training ended", "",
                Verdict::kUnknown);
  }
  if (calibrated) {
    const LoggedLine* own = calibrated->log.Note({"autoregressive", "self-gen", "self_gen", "selfgen"});
    const LoggedLine* named = calibrated->log.Note({"calibration data", "gptq:collected"});
    const double seconds = calibrated->log.calibration_seconds->value;
    if (own) {
      context.Add("clock", "nothing reads training data after 600 s", context.track_at,
                  "the calibration is of text that the model made: " + Shorten(own->text, 70),
                  calibrated->At(own->line), Verdict::kHolds);
    } else if (named) {
      // The log rounds the collection to tenths of a second.
      constexpr double kRounding = 0.05;
      const double slack = 2 * step_of(*calibrated) + kRounding;
      std::string more = StringPrintf("; %.1f s of it collecting Hessians", seconds);
      if (with_calibration > kSeconds + slack) {
        if (const LoggedLine* reserve = calibrated->log.Note({"gptq:reserving"}))
          more += " (" + Shorten(Trim(reserve->text), 60) + ")";
        if (const double again = WithinBudgetElsewhere(context); again > 0)
          more += StringPrintf(
              "; other runs of the same seeds, whose scores are not the claimed ones, took at most %.3f s", again);
      }
      add("training and calibration", with_calibration, *calibrated, calibrated->log.calibration_seconds->line, slack,
          more, kRounding);
    } else {
      context.Add("clock", "nothing reads training data after 600 s", context.track_at,
                  StringPrintf("training and calibration take %.3f s; of what the calibration is, the log does not say",
                               with_calibration),
                  calibrated->At(calibrated->log.calibration_seconds->line),
                  with_calibration <= kSeconds && timed ? Verdict::kHolds : Verdict::kUnknown);
    }
  }
  if (scored) {
    add("evaluation", evaluation, *scored, evaluation_line, 0, "");
  } else {
    context.Add("clock", "evaluation within 600 s" + (timed ? " (" + track + ")" : std::string()), context.track_at,
                elsewhere ? "the logs are of other machines than 8 GPUs" : "no log has its time beside the score", "",
                Verdict::kUnknown);
  }
}

// Whether submission.json states the scores of that label anew, from their losses over the split's own bytes.
bool IsCorrected(const Context& context, const std::string& label) {
  struct Own {
    double bpb, slack;
  };
  std::vector<Own> all;
  std::map<int64_t, Own> of_seed;
  Own mean{0, 0};
  for (const FolderLog* log : Logs(context)) {
    const PublishedSet* set = SetOf(log->log);
    if (!set) continue;
    for (const LoggedScore& score : log->log.scores) {
      if (score.label != label || !score.loss) continue;
      all.push_back({score.loss->value / std::numbers::ln2 * set->targets / set->bytes,
                     2e-5 + std::pow(10, -score.loss->decimals)});
      if (log->Seed()) of_seed[*log->Seed()] = all.back();
    }
  }
  for (const Own& own : all) mean.bpb += own.bpb / static_cast<double>(all.size()), mean.slack = own.slack;
  all.push_back(mean);
  bool any = false;
  for (const Statement& statement : context.folder.statements) {
    if (statement.kind != Statement::Kind::kNumber || IsAside(statement) || !IsHeadline(statement.key, "bpb")) continue;
    const auto is = [&](const Own& own) { return std::fabs(statement.number.value - own.bpb) <= own.slack; };
    if (statement.seed ? !of_seed.contains(*statement.seed) || !is(of_seed[*statement.seed])
                       : std::ranges::none_of(all, is))
      return false;
    any = true;
  }
  return any;
}

// Texts that say that documents of validation were left in training: CaseOps' script takes as validation only the first
// N of the 50,000 documents that are scored.
void CheckValidationInTraining(Context& context) {
  const bool whole =
      std::ranges::any_of(Logs(context), [](const FolderLog* log) { return SetOf(log->log) != nullptr; });
  if (!whole) return;
  static const std::regex option(R"(--val[-_]docs[= ]+([0-9]{1,7})\b)", std::regex::icase);
  const auto check = [&](const std::string& text, const std::string& at) {
    std::smatch match;
    int64_t documents;
    if (!std::regex_search(text, match, option) || !ParseInt(match.str(1), &documents)) return false;
    const bool left = documents < kValidationDocuments;
    context.Add(
        "data", "no validation document is in training: \"" + match.str() + "\"", at,
        left ? "the first " + Count(static_cast<double>(kValidationDocuments)) +
                   " documents are scored: " + Count(static_cast<double>(kValidationDocuments - documents)) +
                   " of them went into the training shards"
             : "that leaves out all " + Count(static_cast<double>(kValidationDocuments)) + " documents that are scored",
        at, left ? Verdict::kContradicted : Verdict::kHolds);
    return true;
  };
  for (const Statement* text : context.Texts())
    if (check(text->text.substr(0, 3000), context.folder.At(*text))) return;
  if (!context.folder.readme) return;
  int64_t number = 0;
  for (std::string_view rest = context.folder.readme->text; !rest.empty();) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (++number; check(std::string(line.substr(0, 2000)), context.folder.readme->name + ":" + std::to_string(number)))
      return;
  }
}

void CheckScoredText(Context& context) {
  std::vector<std::string> held_at;
  std::vector<std::string> held;
  std::set<std::string> said;
  std::string corrected, corrected_of;
  std::vector<std::string> corrected_at;
  std::map<std::string, std::vector<std::string>> counted_otherwise;  // claim, newline, what the files say: where
  for (const FolderLog* log : Logs(context)) {
    const PublicLog& of = log->log;
    const PublishedSet* set = SetOf(of);
    if (!of.validation_tokens) continue;
    const double tokens = of.validation_tokens->value;
    bool other = false;
    double ratio = 0;
    int64_t ratio_line = 0;
    for (const LoggedScore& score : of.scores) {
      const double own = TokensPerByte(score);
      if (own == 0 || score.bpb.decimals < 3 || score.stage == LoggedScore::Stage::kTraining) continue;
      ratio = own, ratio_line = score.line;
      // Four decimals of a loss leave 1e-4.
      if (!set || std::fabs(own / set->tokens_per_byte - 1) < 2e-3) continue;
      other = true;
      const double off = own / set->tokens_per_byte;
      // The note nearest above it that says that a part was scored.
      const LoggedLine* limited = nullptr;
      for (const LoggedLine& note : of.notes)
        if (note.line < score.line && Contains(Lower(note.text), {"(limited)", "subset", "max_docs"})) limited = &note;
      const std::string files =
          Shorten(score.label, 40) +
          StringPrintf(": %.4f tokens per byte where the split has %.4f", own, set->tokens_per_byte) +
          (limited
               ? "; the log says: " + Shorten(Trim(limited->text), 60)
               : StringPrintf(": %.1f%% %s bytes counted", 100 * std::fabs(1 / off - 1), off < 1 ? "more" : "fewer"));
      if (!limited && IsCorrected(context, score.label)) {
        corrected_at.push_back(log->At(score.line));
        corrected =
            StringPrintf("is the logged loss over the split's %s bytes; the log's own line (%s) counts %.1f%% %s",
                         Count(set->bytes).c_str(), Shorten(score.label, 40).c_str(), 100 * std::fabs(1 / off - 1),
                         off < 1 ? "more" : "fewer");
        corrected_of = set->name;
        continue;
      }
      std::vector<std::string>& places =
          counted_otherwise[(limited ? "the whole validation split is scored"
                                     : StringPrintf("scores are over the published %s split's bytes", set->name)) +
                            std::string("\n") + files];
      places.push_back(log->At(score.line));
      if (limited) places.push_back(log->At(limited->line));
    }
    // Lines that say of what they are.
    for (const LoggedScore& score : of.scores) {
      if (!score.bytes || !set || *score.bytes >= 0.98 * set->bytes || score.stage != LoggedScore::Stage::kFinal)
        continue;
      const auto found = context.headline.find(log);
      if (found == context.headline.end() || found->second->line != score.line) continue;
      counted_otherwise["the claimed score is of the whole validation split\n" +
                        score.label.substr(0, score.label.find(' ')) + " is over " + Count(*score.bytes) +
                        " bytes of " + Count(set->bytes)]
          .push_back(log->At(score.line));
      other = true;
    }
    if (set && !other) {
      if (std::ranges::find(held, set->name) == held.end()) held.push_back(set->name);
      held_at.push_back(log->At(of.validation_tokens->line));
    } else if (!set && said.insert("unknown").second) {
      const PublishedSet* near = nullptr;
      for (const PublishedSet& one : PublishedSets())
        if (ratio > 0 && std::fabs(ratio / one.tokens_per_byte - 1) < 1e-2) near = &one;
      if (near && tokens < 0.98 * near->targets) {
        context.Add("text", "the whole validation split is scored", "",
                    Count(tokens) + " tokens of the published " + near->name + " split's " + Count(near->targets),
                    log->At(of.validation_tokens->line), Verdict::kContradicted);
      } else {
        std::string folded;
        for (const Statement* text : context.Texts())
          for (const char* word : {"casefold", "lowercase", "nfkc"})
            if (folded.empty() && Contains(Lower(text->text), {word}))
              folded = "; " + text->key + " (line " + std::to_string(text->line) + ") says \"" + word +
                       "\": text normalised in that way is not the published one";
        context.Add(
            "text", "the published validation split is scored", "",
            Count(tokens) + " tokens" +
                (ratio > 0 ? StringPrintf(", %.4f per byte (line %jd)", ratio, ratio_line) : "") +
                ": no published tokenizer's; how it counts bytes is not in these files" + folded,
            log->At(of.validation_tokens->line), Verdict::kUnknown);
      }
    }
  }
  for (const auto& [text, places] : counted_otherwise) {
    const size_t end = text.find('\n');
    context.Add("text", text.substr(0, end), "", text.substr(end + 1), Locations(places), Verdict::kContradicted);
  }
  if (!corrected.empty())
    context.Add("text", "the claimed score is over the published " + corrected_of + " split's bytes", "",
                "it " + corrected, Locations(corrected_at), Verdict::kHolds);
  if (!held.empty())
    context.Add("text", "the published validation split is scored", "",
                "the tokens of the " + Join(held, ", ") + " split, and loss and bits per byte in its ratio",
                Locations(held_at), Verdict::kHolds);

  // Training shards.
  std::map<std::pair<double, const PublishedSet*>, std::vector<std::string>> shards;
  std::set<double> numbers;
  for (const FolderLog* log : Logs(context)) {
    if (!log->log.train_shards || log->log.train_shards->value <= 0) continue;
    shards[{log->log.train_shards->value, SetOf(log->log)}].push_back(log->At(log->log.train_shards->line));
    numbers.insert(log->log.train_shards->value);
  }
  std::vector<std::string> texts, firsts;
  for (const auto& [key, places] : shards) {
    const auto& [count, set] = key;
    std::string files = Count(count) + " training shards";
    Verdict verdict = Verdict::kUnknown;
    if (!set) {
      files += "; the tokenizer is not a published one";
    } else if (count <= set->max_shards) {
      files += StringPrintf("; all documents make %s of 100 M tokens in %s", Count(set->max_shards).c_str(), set->name);
      verdict = Verdict::kHolds;
    } else {
      const bool known = std::string_view(set->name).find("CaseOps") != std::string_view::npos && count > 1000;
      verdict = known ? Verdict::kContradicted : Verdict::kUnknown;
      files += StringPrintf("; all documents make only %s of 100 M tokens in %s: shards of another making",
                            Count(set->max_shards).c_str(), set->name);
      files += known ? ", as the preparation script of CaseOps writes them; by its default it leaves 40,000 of the "
                       "50,000 validation documents in training"
                     : "; whether validation documents are among them is not in these files";
    }
    context.Add("data", "training shards of the published set", "", files, Locations(places), verdict);
    texts.push_back(Count(count)), firsts.push_back(places[0]);
  }
  if (numbers.size() > 1 && context.seeds.size() > 1)
    context.Add("data", "the seeds trained on the same shards", context.seeds_at,
                "numbers of training shards differ: " + Join(texts, ", "), Locations(firsts), Verdict::kUnknown);
}

// Another log of which the first two training losses are the same: one seed was run, under two names.
std::string SameStart(const RecordFolder& folder, const FolderLog& log) {
  const auto& own = log.log.curve.train;
  for (const FolderLog& other : folder.logs) {
    const auto& train = other.log.curve.train;
    if (&other == &log || own.size() < 2 || train.size() < 2 || own[0].step != train[0].step) continue;
    if (own[0].loss == train[0].loss && own[1].loss == train[1].loss)
      return ", and its first losses are those of " + other.name;
  }
  return "";
}

}  // namespace

void CheckRules(Context& context) {
  if (context.folder.logs.empty() && context.folder.statements.empty()) return;
  CheckSize(context);
  CheckClocks(context);
  CheckScoredText(context);
  CheckValidationInTraining(context);
}

void CheckSeeds(Context& context) {
  const RecordFolder& folder = context.folder;
  // Names against contents.
  for (const FolderLog& log : folder.logs) {
    if (!log.named_seed || !log.log.seed || log.named_seed == WholeNumber(log.log.seed->value)) continue;
    // "train0.txt" numbers runs rather than seeds unless submission.json has that seed.
    const bool seed_in_name = Lower(log.name).find("seed") != std::string::npos ||
                              std::ranges::find(context.seeds, *log.named_seed) != context.seeds.end();
    if (seed_in_name)
      context.Add("seeds", log.name + " is of seed " + std::to_string(*log.named_seed), log.name,
                  StringPrintf("its settings say seed %.0f", log.log.seed->value) + SameStart(folder, log),
                  log.At(log.log.seed->line), Verdict::kContradicted);
  }
  // Claimed seeds against logs.
  std::vector<std::string> missing, present, places;
  for (const int64_t seed : context.seeds) {
    const std::vector<const FolderLog*> logs = context.LogsOf(seed);
    (logs.empty() ? missing : present).push_back(std::to_string(seed));
    for (const FolderLog* log : logs) places.push_back(log->name);
  }
  if (!missing.empty())
    context.Add("seeds", "runs of seeds " + Join(missing, ", "), context.seeds_at, "no log is of them", "",
                Verdict::kUnknown);
  if (!present.empty())
    context.Add("seeds", "runs of seeds " + Join(present, ", "), context.seeds_at,
                StringPrintf("%zu log%s", places.size(), places.size() == 1 ? "" : "s"), Locations(places),
                Verdict::kHolds);

  // The score at the top, and how many seeds were logged.
  std::map<int64_t, const FolderLog*> logged;
  for (const FolderLog& log : folder.logs)
    if (log.Seed() && log.log.HasFinalScore()) logged.emplace(*log.Seed(), &log);
  const Statement* top = folder.Top("val_bpb");
  if (top && top->kind == Statement::Kind::kNumber && context.seeds.size() <= 1 && logged.size() > 1) {
    for (const auto& [seed, log] : logged) {
      const auto score = std::ranges::find_if(log->log.scores, [&](const LoggedScore& one) {
        return one.stage == LoggedScore::Stage::kFinal && Agrees(top->number, one.bpb);
      });
      if (score == log->log.scores.end()) continue;
      std::vector<std::string> others;
      double best = top->number.value;
      for (const auto& [other, other_log] : logged) {
        if (other == seed) continue;
        const auto found = context.headline.find(other_log);
        if (found == context.headline.end()) continue;
        best = std::min(best, found->second->bpb.value);
        others.push_back(StringPrintf("seed %jd %s", other, Decimal(found->second->bpb).c_str()));
      }
      context.Add("seeds", "val_bpb " + top->text + " is the score of all seeds", folder.At(*top),
                  StringPrintf("one seed in submission.json of %zu logged: it is seed %jd's; %s", logged.size(), seed,
                               Join(others, ", ").c_str()),
                  log->At(score->line), context.seeds.size() == 1 ? Verdict::kHolds : Verdict::kUnknown);
      break;
    }
  }

  // Runs that are one run: the same losses at every step under two seeds.
  for (size_t i = 0; i < folder.logs.size(); ++i) {
    for (size_t j = i + 1; j < folder.logs.size(); ++j) {
      const FolderLog &a = folder.logs[i], &b = folder.logs[j];
      const auto &x = a.log.curve.train, &y = b.log.curve.train;
      if (a.Seed() == b.Seed() || x.size() < 10 || x.size() != y.size()) continue;
      const bool same = std::ranges::equal(
          x, y, [](const TrainPoint& p, const TrainPoint& q) { return p.step == q.step && p.loss == q.loss; });
      if (same)
        context.Add("seeds", a.name + " and " + b.name + " are two runs", context.seeds_at,
                    StringPrintf("all %zu logged training losses are the same", x.size()), a.name + ", " + b.name,
                    Verdict::kContradicted);
    }
  }

  // One script, and about the same number of steps.
  std::map<double, std::vector<std::string>> sizes;
  std::map<int64_t, std::pair<double, const FolderLog*>> steps;
  std::set<int64_t> distinct;
  for (const FolderLog* log : context.counted) {
    if (!log->Seed()) continue;
    distinct.insert(*log->Seed());
    const auto& code = log->log.raw_code_bytes ? log->log.raw_code_bytes : log->log.code_bytes;
    if (code) sizes[code->value].push_back(log->At(code->line));
    if (log->log.stop_step && (!log->log.world_size || OnEight(*log)))
      steps[*log->Seed()] = {log->log.stop_step->value, log};
  }
  if (distinct.size() > 1 && sizes.size() > 1) {
    std::vector<std::string> texts, where;
    for (const auto& [bytes, at] : sizes) texts.push_back(Count(bytes)), where.push_back(at[0]);
    // Two bytes are a line end, or another digit in the seed that it has by default.
    const bool near = sizes.rbegin()->first - sizes.begin()->first <= kSameScript;
    context.Add("logs", "every seed's log is of the record's one script", context.seeds_at,
                "the logs count scripts of " + Join(texts, ", ") + " bytes" +
                    (near ? ": as little as a line end" : ": at most one of them is the record's"),
                Locations(where), near ? Verdict::kUnknown : Verdict::kContradicted);
  }
  if (steps.size() > 1) {
    double low = 1e300, high = 0;
    std::vector<std::string> texts, where;
    for (const auto& [seed, entry] : steps) {
      low = std::min(low, entry.first);
      high = std::max(high, entry.first);
      texts.push_back(StringPrintf("%s (seed %jd)", Count(entry.first).c_str(), seed));
      where.push_back(entry.second->At(entry.second->log.stop_step->line));
    }
    if (high > 1.05 * low)
      context.Add("steps", "the seeds are runs of equal length", context.seeds_at,
                  StringPrintf("steps disagree: %s, %.0f%% apart in the same time", Join(texts, ", ").c_str(),
                               100 * (high / low - 1)),
                  Locations(where), Verdict::kUnknown);
  }

  // Logs that end before their scores.
  for (const FolderLog& log : folder.logs) {
    if (!log.log.HasSteps() || log.log.HasFinalScore()) continue;
    const bool scored_beside = std::ranges::any_of(folder.logs, [&](const FolderLog& other) {
      return other.log.HasFinalScore() && !other.log.HasSteps() && other.Seed() == log.Seed();
    });
    if (scored_beside) continue;
    context.Add("logs", log.name + " is whole", log.name,
                "it ends without a score of the artifact" +
                    std::string(log.log.stop_step ? "" : " and without the end of training"),
                log.log.notes.empty() ? log.name : log.At(log.log.notes.back().line), Verdict::kUnknown);
  }
  // The script that is here, against the one that the logs count.
  if (folder.script && folder.script->name.ends_with(".py")) {
    std::vector<std::string> texts, where;
    bool same = false, any = false;
    for (const FolderLog* log : context.counted) {
      for (const auto* code : {&log->log.code_bytes, &log->log.raw_code_bytes}) {
        if (!*code) continue;
        any = true;
        same |= (*code)->value == static_cast<double>(folder.script->bytes);
        texts.push_back(Count((*code)->value)), where.push_back(log->At((*code)->line));
      }
    }
    if (any)
      context.Add(
          "logs", "the logs are of " + folder.script->name + " as shipped", folder.script->name,
          same ? Count(static_cast<double>(folder.script->bytes)) + " bytes"
               : "it is " + Count(static_cast<double>(folder.script->bytes)) + " bytes; the logs count " +
                     Join({texts.begin(), texts.begin() + std::min<std::ptrdiff_t>(3, std::ssize(texts))}, ", "),
          Locations(where), same ? Verdict::kHolds : Verdict::kContradicted);
  }
}

}  // namespace fairway::audit
