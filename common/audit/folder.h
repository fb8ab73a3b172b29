// A public record's folder as it was found: what submission.json states, and what there is to compare it with. Nothing
// of it is executed or followed: links are skipped, files beyond a size are listed and not read.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/submission/public_log.h"

namespace fairway {

// One value in submission.json.
struct Statement {
  enum class Kind { kNumber, kText, kSwitch };

  std::string name;     // "seed_results.42.val_bpb"
  std::string group;    // the same without seeds and places in lists: "seed_results.val_bpb"
  std::string key;      // the last part that is a name: "val_bpb"
  std::string section;  // the first part, where there are several
  std::optional<int64_t> seed;
  Kind kind;
  Figure number;
  std::string text;  // the value as written; of a string, the part between the quotes
  bool on = false;
  int64_t line;
};

struct FolderLog {
  std::string name;  // relative to the folder
  PublicLog log;
  std::optional<int64_t> named_seed;  // what its file name says: train_seed42.log
  std::string digest;                 // SHA-256

  // The seed that this log is filed under: its name's, or else its own.
  std::optional<int64_t> Seed() const;
  std::string At(int64_t line) const { return line > 0 ? name + ":" + std::to_string(line) : name; }
};

struct FolderFile {
  std::string name;
  uint64_t bytes;
  std::string text;  // of scripts and README; empty where too large
};

struct RecordFolder {
  std::string path;
  std::string submission;          // name of the file that was read as submission.json; empty where there is none
  std::string submission_problem;  // why it could not be read
  std::vector<Statement> statements;
  std::vector<FolderLog> logs;       // in the order of their names
  std::optional<FolderFile> script;  // that trains
  std::optional<FolderFile> readme;
  std::vector<FolderFile> artifacts;
  std::vector<std::string> passed_over;  // "NAME (why)"

  // The first statement of that name at the top, or null.
  const Statement* Top(const std::string& name) const;
  // "submission.json:9".
  std::string At(const Statement& statement) const { return submission + ":" + std::to_string(statement.line); }
};

// Throws IoError where `path` is no folder that can be read.
RecordFolder ReadRecordFolder(const std::string& path);

// The values of a JSON text in its order, with their lines. Throws InputError where it is none (common/base/json.h).
std::vector<Statement> ReadStatements(std::string_view text, const std::string& path);

}  // namespace fairway
