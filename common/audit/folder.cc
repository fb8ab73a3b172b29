#include "common/audit/folder.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/text.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxJson = 1 << 20, kMaxText = 4 << 20, kMaxLog = 64 << 20, kMaxLogs = 512 << 20;
constexpr size_t kMaxFiles = 2000, kMaxLogFiles = 200, kMaxStatements = 20000;
constexpr int kMaxDepth = 3;

// The number behind "seed" in a name: "seed_42", "val_bpb_seed42".
std::optional<int64_t> SeedOfKey(const std::string& key) {
  const std::string name = Lower(key);
  const size_t at = name.find("seed");
  if (at == std::string::npos) return std::nullopt;
  size_t begin = at + 4, end;
  if (begin < name.size() && (name[begin] == '_' || name[begin] == '-')) ++begin;
  for (end = begin; end < name.size() && std::isdigit(static_cast<unsigned char>(name[end]));) ++end;
  int64_t seed;
  if (!ParseInt(name.substr(begin, end - begin), &seed)) return std::nullopt;
  return seed;
}

// Walks a JSON text that is known to be one.
class Walker {
 public:
  Walker(std::string_view text, std::vector<Statement>& statements) : text_(text), statements_(statements) {}

  void Walk() { Value(); }

 private:
  struct Part {
    std::string name;
    bool index;
  };

  void Blanks() {
    for (; at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos; ++at_)
      line_ += text_[at_] == '\n';
  }
  char Peek() {
    Blanks();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  // The text of a string with its escapes, without the quotes.
  std::string String() {
    const size_t begin = ++at_;
    while (at_ < text_.size() && text_[at_] != '"') at_ += text_[at_] == '\\' ? 2 : 1;
    const std::string_view raw = text_.substr(begin, std::min(at_, text_.size()) - begin);
    ++at_;
    const auto parsed = nlohmann::json::parse("\"" + std::string(raw) + "\"", nullptr, false);
    return parsed.is_string() ? parsed.get<std::string>() : std::string(raw);
  }
  void Value() {
    const char first = Peek();
    if (first == '{' || first == '[') {
      const bool list = first == '[';
      ++at_;
      for (size_t index = 0; Peek() != (list ? ']' : '}') && at_ < text_.size(); ++index) {
        if (Peek() == ',') {
          ++at_;
          --index;
          continue;
        }
        if (list) {
          path_.push_back({std::to_string(index), true});
        } else {
          path_.push_back({String(), false});
          if (Peek() == ':') ++at_;
        }
        Value();
        path_.pop_back();
      }
      ++at_;
      return;
    }
    Statement statement{};
    statement.line = line_;
    if (first == '"') {
      statement.kind = Statement::Kind::kText;
      statement.text = String();
      size_t length;
      const std::string key = path_.empty() ? "" : Lower(path_.back().name);
      const bool numeric = std::ranges::any_of(std::initializer_list<const char*>{"bpb", "loss", "bytes", "steps"},
                                               [&](const char* part) { return key.find(part) != std::string::npos; });
      // "1.1351" is a number to people.
      if (numeric && ReadFigure(statement.text, &statement.number, &length) && length == statement.text.size())
        statement.kind = Statement::Kind::kNumber;
    } else {
      const size_t begin = at_;
      while (at_ < text_.size() && std::string_view(",]} \t\r\n").find(text_[at_]) == std::string_view::npos) ++at_;
      statement.text = text_.substr(begin, at_ - begin);
      if (statement.text == "true" || statement.text == "false") {
        statement.kind = Statement::Kind::kSwitch;
        statement.on = statement.text == "true";
      } else if (ReadFigure(statement.text, &statement.number)) {
        statement.kind = Statement::Kind::kNumber;
      } else {
        return;  // null
      }
    }
    if (statements_.size() >= kMaxStatements) return;
    std::vector<std::string> names, groups;
    for (const Part& part : path_) {
      names.push_back(part.name);
      int64_t seed;
      if (part.index || ParseInt(part.name, &seed)) continue;
      groups.push_back(part.name);
      statement.key = part.name;
    }
    statement.name = Shorten(Printable(Join(names, ".")), 120);
    statement.group = Shorten(Printable(Join(groups, ".")), 120);
    if (path_.size() > 1) statement.section = path_.front().name;
    // Under `"seed_results": {"42": …}`.
    for (size_t i = 1; i < path_.size(); ++i) {
      int64_t seed;
      if (!path_[i].index && ParseInt(path_[i].name, &seed) &&
          Lower(path_[i - 1].name).find("seed") != std::string::npos)
        statement.seed = seed;
      // "seed_42": {…}
    }
    for (const Part& part : path_)
      if (!part.index)
        if (const auto seed = SeedOfKey(part.name)) statement.seed = seed;
    // {"val_bpb": {"mean": …, "std": …}}
    if (groups.size() > 1) {
      const std::string last = Lower(statement.key);
      for (const char* plain : {"mean", "std", "avg", "max", "min", "value"})
        if (last == plain) statement.key = groups[groups.size() - 2] + "_" + statement.key;
    }
    statements_.push_back(std::move(statement));
  }

  std::string_view text_;
  std::vector<Statement>& statements_;
  size_t at_ = 0;
  int64_t line_ = 1;
  std::vector<Part> path_;
};

std::string Parent(const std::string& name) {
  const size_t dot = name.rfind('.');
  return dot == std::string::npos ? "" : name.substr(0, dot);
}

// JSON drops zeros at the end: figures of one sort have as many decimals as the longest of them.
void ShareDecimals(std::vector<Statement>& statements) {
  std::map<std::string, int> decimals;
  for (const Statement& statement : statements)
    if (statement.kind == Statement::Kind::kNumber && statement.number.decimals > 2)
      decimals[statement.group] = std::max(decimals[statement.group], statement.number.decimals);
  for (Statement& statement : statements)
    if (const auto found = decimals.find(statement.group);
        statement.kind == Statement::Kind::kNumber && found != decimals.end())
      statement.number.decimals = found->second;
}

// Seeds of values that are not below a seed's key: objects in a list that name theirs, and lists beside the list `seeds`.
void FindSeeds(std::vector<Statement>& statements) {
  std::map<std::string, int64_t> of_object;
  std::map<std::string, size_t> lengths;
  std::vector<std::optional<int64_t>> seeds;
  for (const Statement& statement : statements) {
    if (statement.kind == Statement::Kind::kNumber && statement.key == "seed")
      if (const std::optional<int64_t> seed = WholeNumber(statement.number.value)) of_object[Parent(statement.name)] = *seed;
    if (statement.kind == Statement::Kind::kNumber && Parent(statement.name) == "seeds")
      seeds.push_back(WholeNumber(statement.number.value));
    ++lengths[Parent(statement.name)];
  }
  for (Statement& statement : statements) {
    if (statement.seed) continue;
    const std::string parent = Parent(statement.name);
    if (const auto found = of_object.find(parent); found != of_object.end() && !parent.empty())
      statement.seed = found->second;
    // A list's places are its keys, and an object's keys may look like places.
    int64_t index;
    if (parent == "seeds" || parent.empty() || parent.find('.') != std::string::npos || lengths[parent] != seeds.size())
      continue;
    if (statement.kind == Statement::Kind::kNumber && ParseInt(statement.name.substr(parent.size() + 1), &index) && index >= 0 &&
        static_cast<size_t>(index) < seeds.size())
      statement.seed = seeds[static_cast<size_t>(index)];
  }
}

std::optional<int64_t> SeedOfName(const std::string& path) {
  const std::string name = Lower(BaseName(path));
  for (const std::string_view sign : {"seed", "train", "_s"}) {
    for (size_t at = name.find(sign); at != std::string::npos; at = name.find(sign, at + 1)) {
      size_t begin = at + sign.size(), end;
      if (begin < name.size() && sign != "_s" && std::string_view("_-=").find(name[begin]) != std::string_view::npos)
        ++begin;
      for (end = begin; end < name.size() && std::isdigit(static_cast<unsigned char>(name[end]));) ++end;
      int64_t seed;
      if (end > begin && (end == name.size() || !std::isalpha(static_cast<unsigned char>(name[end]))) &&
          ParseInt(name.substr(begin, end - begin), &seed))
        return seed;
    }
  }
  // seed-42/train.log
  const std::string folder = Lower(BaseName(DirectoryOf(path)));
  int64_t seed;
  for (const std::string_view sign : {"seed-", "seed_", "seed"})
    if (folder.starts_with(sign) && ParseInt(folder.substr(sign.size()), &seed)) return seed;
  return std::nullopt;
}

// Scores that a file of JSON has beside the logs: eval.json of our own records.
void AddScores(const std::vector<Statement>& statements, const std::string& name, std::vector<FolderLog>& logs) {
  const Statement *loss = nullptr, *bpb = nullptr, *seconds = nullptr, *seed = nullptr;
  for (const Statement& statement : statements) {
    if (statement.kind != Statement::Kind::kNumber) continue;
    if (statement.name == "val_loss") loss = &statement;
    if (statement.name == "val_bpb") bpb = &statement;
    if (statement.name == "seconds" || statement.name == "eval_seconds") seconds = &statement;
    if (statement.name == "seed") seed = &statement;
  }
  if (!bpb) return;
  FolderLog log;
  log.name = name;
  log.named_seed = SeedOfName(name);
  LoggedScore score{bpb->line, BaseName(name), LoggedScore::Stage::kFinal, {}, bpb->number, {}, {}, {}};
  if (loss) score.loss = loss->number;
  if (seconds) score.seconds = seconds->number.value;
  if (seed) log.log.seed = {seed->number.value, seed->line};
  log.log.scores.push_back(score);
  logs.push_back(std::move(log));
}

}  // namespace

std::optional<int64_t> FolderLog::Seed() const {
  if (named_seed) return named_seed;
  if (log.seed) return WholeNumber(log.seed->value);
  return std::nullopt;
}

const Statement* RecordFolder::Top(const std::string& name) const {
  const auto found = std::ranges::find(statements, name, &Statement::name);
  return found == statements.end() ? nullptr : &*found;
}

std::vector<Statement> ReadStatements(std::string_view text, const std::string& path) {
  ParseJson<nlohmann::json>(text, path);
  std::vector<Statement> statements;
  Walker(text, statements).Walk();
  FindSeeds(statements);
  ShareDecimals(statements);
  return statements;
}

RecordFolder ReadRecordFolder(const std::string& path) {
  RecordFolder folder;
  folder.path = path;
  std::error_code error;
  if (!fs::is_directory(path, error)) throw IoError(path, error ? error.message() : "is no folder");
  std::vector<std::pair<std::string, uint64_t>> files;
  fs::recursive_directory_iterator entry(path, fs::directory_options::skip_permission_denied, error), end;
  if (error) throw IoError(path, error.message());
  while (entry != end) {
    const std::string name = entry->path().lexically_relative(path).string();
    const fs::file_status status = entry->symlink_status(error);
    if (fs::is_symlink(status)) {
      folder.passed_over.push_back(name + " (a link)");
    } else if (fs::is_directory(status)) {
      if (entry.depth() >= kMaxDepth || entry->path().filename() == ".git") entry.disable_recursion_pending();
    } else if (fs::is_regular_file(status)) {
      files.emplace_back(name, fs::file_size(entry->path(), error));
    } else {
      folder.passed_over.push_back(name + " (not a plain file)");
    }
    if (files.size() + folder.passed_over.size() >= kMaxFiles) {
      folder.passed_over.push_back("others (more than 2,000 files)");
      break;
    }
    entry.increment(error);
    if (error) break;
  }
  std::ranges::sort(files);
  std::ranges::sort(folder.passed_over);

  uint64_t read = 0;
  for (const auto& [name, bytes] : files) {
    const std::string lower = Lower(BaseName(name));
    const std::string full = path + "/" + name;
    const auto text = [&]() { return std::string(InputFile(full).text()); };
    try {
      if (lower == "submission.json") {
        if (!folder.submission.empty() && folder.submission.find('/') == std::string::npos)
          continue;  // the one at the top
        folder.submission = name;
        folder.statements.clear();
        if (bytes > kMaxJson) throw InputError(name, "is larger than " + WithCommas(kMaxJson) + " bytes");
        folder.statements = ReadStatements(text(), name);
      } else if (lower == "eval.json") {
        if (bytes <= kMaxJson) AddScores(ReadStatements(text(), name), name, folder.logs);
      } else if (lower.ends_with(".log") || lower.ends_with(".txt") || lower.ends_with(".out")) {
        if (bytes > kMaxLog || read + bytes > kMaxLogs || folder.logs.size() >= kMaxLogFiles) {
          folder.passed_over.push_back(name + " (" + WithCommas(static_cast<int64_t>(bytes)) +
                                       " bytes: too much to read)");
          continue;
        }
        read += bytes;
        FolderLog log;
        log.name = name;
        {
          const InputFile file(full);
          log.digest = Sha256Hex(file.bytes());
          const auto same =
              std::ranges::find_if(folder.logs, [&](const FolderLog& other) { return other.digest == log.digest; });
          if (same != folder.logs.end()) {
            // Of two names the one with a seed.
            if (!same->named_seed && SeedOfName(name)) {
              same->name = name;
              same->named_seed = SeedOfName(name);
            }
            continue;
          }
          log.log = ParsePublicLog(file.text());
        }
        log.named_seed = SeedOfName(name);
        if (log.log.HasSteps() || !log.log.scores.empty() || log.log.train_shards)
          folder.logs.push_back(std::move(log));
      } else if (lower.ends_with(".py")) {
        const bool trains = lower.starts_with("train") && name.find('/') == std::string::npos;
        if (trains && (!folder.script || lower == "train_gpt.py"))
          folder.script = {name, bytes, bytes <= kMaxText ? text() : ""};
      } else if (lower == "source.tar.zst") {
        folder.script = {name, bytes, ""};
      } else if (lower == "readme.md") {
        if (!folder.readme && bytes <= kMaxText) folder.readme = {name, bytes, text()};
      } else if (lower.ends_with(".ptz") || lower == "model.bin.zst" || lower.starts_with("final_model.")) {
        folder.artifacts.push_back({name, bytes, ""});
      }
    } catch (const Error& problem) {
      if (lower == "submission.json") {
        folder.submission_problem = problem.what();
      } else {
        folder.passed_over.push_back(name + " (" + problem.what() + ")");
      }
    }
  }
  // Scores beside a log are of its run.
  for (FolderLog& scores : folder.logs) {
    if (scores.Seed() || !scores.digest.empty()) continue;
    for (const FolderLog& log : folder.logs)
      if (!log.digest.empty() && DirectoryOf(log.name) == DirectoryOf(scores.name)) scores.named_seed = log.Seed();
  }
  return folder;
}

}  // namespace fairway
