#include "common/audit/audit.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <numbers>
#include <set>

#include "common/audit/context.h"
#include "common/base/text.h"

namespace fairway {

namespace audit {
namespace {

// What is left of a log's name without its seed and numbers: "train.log" of "train_seed42.log".
std::string KindOfName(const std::string& name) {
  std::string kind = Lower(name);
  for (size_t at; (at = kind.find("seed")) != std::string::npos;) kind.erase(at, 4);
  std::erase_if(kind, [](char c) { return (c >= '0' && c <= '9') || c == '_' || c == '-'; });
  return kind;
}

}  // namespace

std::string Decimal(const Figure& figure) {
  return StringPrintf("%.*f", figure.decimals, figure.value);
}

std::string Count(double value) {
  return WithCommas(std::llround(value));
}

std::string Locations(const std::vector<std::string>& places) {
  std::vector<std::string> some(places.begin(), places.begin() + std::min<std::ptrdiff_t>(std::ssize(places), 3));
  if (some.size() < places.size()) some.push_back(StringPrintf("%zu more", places.size() - some.size()));
  return Join(some, ", ");
}

bool Agrees(const Figure& claim, const Figure& found) {
  const double unit = std::pow(10, -claim.decimals),
               slack = found.decimals < claim.decimals ? std::pow(10, -found.decimals) : 0;
  const double difference = found.value - claim.value, rounding = 1e-9 * std::max(1.0, std::fabs(found.value)) * unit;
  return difference >= -0.5 * unit - slack - rounding && difference < unit + slack;
}

bool IsAside(const Statement& statement) {
  const std::string name = Lower(statement.section);
  return Contains(name, {"errata", "reference", "rerun", "baseline", "lineage", "credit", "attribution", "previous",
                         "history", "ablation", "original", "included", "comparison", "prior", "parent"});
}

bool IsHeadline(const std::string& key, const std::string& unit) {
  std::string name = Lower(key);
  if (unit == "bpb" && name == "seed_scores") return true;
  // "seed_42_val_bpb", "val_bpb_seed42"
  if (const size_t at = name.find("seed"); at != std::string::npos) {
    size_t end = at + 4;
    while (end < name.size() && (name[end] == '_' || (name[end] >= '0' && name[end] <= '9'))) ++end;
    if (end > at + 5) name.erase(at, end - at);
    while (name.ends_with('_')) name.pop_back();
  }
  for (bool cut = true; cut;) {
    cut = false;
    for (const std::string_view prefix : {"mean_", "final_", "post_ttt_", "ttt_", "legal_", "avg_", "val_"})
      if (name.starts_with(prefix)) name.erase(0, prefix.size()), cut = true;
    for (const std::string_view suffix : {"_mean", "_exact", "_per_seed", "_avg", "_final"})
      if (name.ends_with(suffix)) name.erase(name.size() - suffix.size()), cut = true;
  }
  return name == unit;
}

const std::vector<PublishedSet>& PublishedSets() {
  // Targets and tokens per byte as the field's logs show them; bytes of the 50,000 documents, counted once for all
  // tokenizers. All 15,368,808 documents hold 47.7e9 bytes: that many shards of 100 M tokens.
  static const std::vector<PublishedSet> sets = {{"SP1024", 62'021'632, 0.410521, 151'080'891, 195},
                                                 {"SP4096", 45'508'608, 0.30125, 151'080'891, 143},
                                                 {"SP8192", 40'540'160, 0.26835, 151'080'891, 128},
                                                 {"SP8192 CaseOps", 47'851'520, 0.31673, 151'074'309, 151},
                                                 {"bytes", 151'080'000, 1.0, 151'080'891, 477}};
  return sets;
}

const PublishedSet* SetOf(const PublicLog& log) {
  if (!log.validation_tokens) return nullptr;
  for (const PublishedSet& set : PublishedSets())
    if (std::fabs(log.validation_tokens->value / set.targets - 1) < 1e-3) return &set;
  return nullptr;
}

double TokensPerByte(const LoggedScore& score) {
  return score.loss && score.loss->value > 0 ? score.bpb.value * std::numbers::ln2 / score.loss->value : 0;
}

void Context::Add(std::string check, std::string claim, std::string claim_at, std::string files, std::string files_at,
                  Verdict verdict) {
  findings.push_back(
      {std::move(check), std::move(claim), std::move(claim_at), std::move(files), std::move(files_at), verdict});
}

std::vector<const FolderLog*> Context::LogsOf(int64_t seed) const {
  std::vector<const FolderLog*> logs;
  for (const FolderLog& log : folder.logs)
    if (log.Seed() == seed) logs.push_back(&log);
  return logs;
}

std::vector<const Statement*> Context::Texts() const {
  std::vector<const Statement*> texts;
  for (const Statement& statement : folder.statements) {
    if (statement.kind != Statement::Kind::kText || IsAside(statement)) continue;
    const std::string key = Lower(statement.key);
    if (Contains(key, {"name", "blurb", "technique", "architecture", "description", "summary"}) &&
        !Contains(key, {"baseline", "base_", "author"}))
      texts.push_back(&statement);
  }
  return texts;
}

std::string Context::ClaimOfTrack() const {
  return track == Track::kTenMinutes ? "track " + track_text
         : track_text.empty()        ? "no track is stated"
                                     : "track " + track_text;
}

Context::Context(const RecordFolder& folder_in, const AuditOptions& options_in)
    : folder(folder_in), options(options_in) {
  if (const Statement* stated = folder.Top("track"); stated && stated->kind == Statement::Kind::kText) {
    track_text = Shorten(Printable(stated->text), 60);
    track_at = folder.At(*stated);
    const std::string lower = Lower(stated->text);
    track = Contains(lower, {"10min", "10_min", "10-min"}) && !Contains(lower, {"non"}) ? Track::kTenMinutes : Track::kOther;
  } else if (folder.path.find("track_10min_16mb") != std::string::npos) {
    track_text = track_at = "track_10min_16mb";
    track = Track::kTenMinutes;
  } else if (folder.path.find("track_non_record") != std::string::npos) {
    track_text = track_at = "track_non_record";
    track = Track::kOther;
  }

  std::set<int64_t> named;
  for (const Statement& statement : folder.statements) {
    if (IsAside(statement)) continue;
    std::optional<int64_t> seed = statement.seed;
    if (statement.kind == Statement::Kind::kNumber && (statement.group == "seeds" || statement.name == "seed") &&
        !statement.seed && statement.key != "val_bpb")
      seed = WholeNumber(statement.number.value);
    if (!seed || Contains(Lower(statement.section), {"extended"})) continue;
    if (named.insert(*seed).second) seeds.push_back(*seed);
    if (seeds_at.empty()) seeds_at = folder.At(statement);
  }

  const auto last_of = [](const FolderLog& log) -> const LoggedScore* {
    const LoggedScore* last = nullptr;
    for (const LoggedScore& score : log.log.scores)
      if (score.stage == LoggedScore::Stage::kFinal) last = &score;
    return last;
  };
  // The score nearest to the claim, of those that agree with it.
  const auto score_of = [](const FolderLog& log, const Figure& claim) -> const LoggedScore* {
    const LoggedScore* found = nullptr;
    for (const LoggedScore& score : log.log.scores) {
      if (score.stage != LoggedScore::Stage::kFinal || !Agrees(claim, score.bpb)) continue;
      if (!found || std::fabs(score.bpb.value - claim.value) <= std::fabs(found->bpb.value - claim.value))
        found = &score;
    }
    return found;
  };
  const auto count = [&](const FolderLog* log, const LoggedScore* score) {
    if (std::ranges::find(counted, log) == counted.end()) counted.push_back(log);
    if (score) headline[log] = score;
  };
  size_t logged = 0;
  for (const int64_t seed : seeds) {
    const std::vector<const FolderLog*> logs = LogsOf(seed);
    bool scored = false, steps = false;
    const FolderLog* best = nullptr;
    const LoggedScore* best_score = nullptr;
    double distance = 0;
    for (const Statement& statement : folder.statements) {
      if (statement.seed != seed || statement.kind != Statement::Kind::kNumber || IsAside(statement) ||
          !IsHeadline(statement.key, "bpb"))
        continue;
      for (const FolderLog* log : logs) {
        const LoggedScore* score = score_of(*log, statement.number);
        if (!score || (best && std::fabs(score->bpb.value - statement.number.value) >= distance)) continue;
        best = log, best_score = score, distance = std::fabs(score->bpb.value - statement.number.value);
      }
    }
    if (best) {
      count(best, best_score);
      steps = best->log.HasSteps();
    }
    for (const FolderLog* log : logs) {
      scored |= log->log.HasFinalScore();
      // A log of an evaluation alone is beside that of its training.
      if (!best || (!steps && log->log.HasSteps())) count(log, best ? nullptr : last_of(*log));
    }
    logged += scored;
  }
  if (seeds.empty()) {
    // Beside the log that has the claimed score, others may be of other experiments: those of its kind by name are
    // other seeds.
    const Statement* top = folder.Top("val_bpb");
    std::set<std::string> kinds;
    if (top && top->kind == Statement::Kind::kNumber)
      for (const FolderLog& log : folder.logs)
        if (score_of(log, top->number)) kinds.insert(KindOfName(log.name));
    for (const FolderLog& log : folder.logs)
      if ((log.log.HasSteps() || log.log.HasFinalScore()) && (kinds.empty() || kinds.contains(KindOfName(log.name))))
        count(&log, last_of(log));
    for (const FolderLog& log : folder.logs) logged += log.log.HasFinalScore();
    all_logged = logged > 0;
  } else {
    all_logged = logged == seeds.size();
  }
  // A score at the top may be of another line than a log's last one (a score before an adaptation that did not help, a
  // mixture): a mean over one label, or one log's own.
  for (const Statement& statement : folder.statements) {
    if (statement.seed || statement.kind != Statement::Kind::kNumber || IsAside(statement) ||
        !IsHeadline(statement.key, "bpb"))
      continue;
    std::map<std::string, std::map<const FolderLog*, const LoggedScore*>> labels;
    for (const FolderLog* log : counted)
      for (const LoggedScore& score : log->log.scores)
        if (score.stage == LoggedScore::Stage::kFinal) labels[score.label][log] = &score;
    bool mean = false;
    for (const auto& [label, scores] : labels) {
      if (scores.size() < 2) continue;
      double sum = 0;
      for (const auto& [log, score] : scores) sum += score->bpb.value;
      if (std::fabs(sum / static_cast<double>(scores.size()) - statement.number.value) >
          1.001 * std::pow(10, -statement.number.decimals))
        continue;
      mean = true;
      for (const auto& [log, score] : scores) headline[log] = score;
    }
    if (mean) continue;
    for (const FolderLog* log : counted)
      if (const LoggedScore* score = score_of(*log, statement.number)) headline[log] = score;
  }
}

}  // namespace audit

const char* VerdictName(Verdict verdict) {
  return verdict == Verdict::kHolds ? "holds" : verdict == Verdict::kContradicted ? "contradicted" : "cannot be told";
}

size_t Audit::Count(Verdict verdict) const {
  return static_cast<size_t>(std::ranges::count(findings, verdict, &Finding::verdict));
}

Audit AuditFolder(const RecordFolder& folder, const AuditOptions& options) {
  using namespace audit;
  Context context(folder, options);
  if (folder.submission.empty()) {
    context.Add("files", "submission.json", "", "there is none", "", Verdict::kUnknown);
  } else if (!folder.submission_problem.empty()) {
    context.Add("files", "submission.json", folder.submission, folder.submission_problem, folder.submission,
                Verdict::kUnknown);
  }
  if (!std::ranges::any_of(folder.logs, [](const FolderLog& log) { return log.log.HasSteps(); }))
    context.Add("files", "a training log", "", "none of the files is one", "", Verdict::kUnknown);
  for (const std::string& file : folder.passed_over)
    context.Add("files", "every file", "", "not read: " + Printable(file), "", Verdict::kUnknown);
  CheckRules(context);
  CheckSeeds(context);
  CheckStatements(context);
  CheckTechniques(context);
  CheckCommand(context);
  return {folder.path, std::move(context.findings)};
}

}  // namespace fairway
