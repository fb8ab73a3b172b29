// What every program has in common: a command line with explanations, settings from four places, one result line on standard
// output, one error line on standard error, and a documented exit status.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "common/settings/settings.h"

namespace fairway {

using Json = nlohmann::ordered_json;

// The description of one program's command line. The variables given must outlive RunTool.
class CommandLine {
 public:
  // `purpose` is one or two sentences; `example` is a command that works, and ends --help.
  CommandLine(std::string name, std::string purpose, std::string example);
  ~CommandLine();

  // A required file argument that is read; "-" is standard input.
  void Input(const std::string& name, std::string& path, const std::string& help);
  // Any number (at least one) of files that are read.
  void Inputs(const std::string& name, std::vector<std::string>& paths, const std::string& help);
  // A required file argument that is written; with "-" it takes standard output, and the result line moves to standard error.
  void Output(const std::string& name, std::string& path, const std::string& help);

  // `--flag VALUE`; given twice, the last one counts. Numbers are checked against the range [low, high].
  void Option(const std::string& flag, std::string& value, const std::string& help);
  // May be given several times; an empty VALUE counts.
  void Option(const std::string& flag, std::vector<std::string>& values, const std::string& help);
  void Option(const std::string& flag, int64_t& value, int64_t low, int64_t high, const std::string& help);
  void Option(const std::string& flag, double& value, double low, double high, const std::string& help);
  void Flag(const std::string& flag, bool& value, const std::string& help);
  void Required(const std::string& flag);
  // `--flag FILE` that is written: "-" as for Output.
  void OutputOption(const std::string& flag, std::string& path, const std::string& help);
  // Marks the last added positional or option as not required.
  void Optional();

  // Accepts every setting (as --name, from the environment, and from --profile FILE|NAME), adds --print-settings and
  // --log. --help lists only the settings that `stages` use; the others are accepted silently, so that one
  // environment serves the whole chain.
  void Use(Settings& settings, unsigned stages);

  // What is given nowhere is taken from the settings that the input at `path` states (Settings::Adopt, which the body calls):
  // --help says so, and --print-settings shows them where `path` is given. `read` returns them.
  void Inherit(const std::string& path, std::function<SettingValues(const std::string&)> read);

  // The program may be one of several ranks (common/parallel). Only rank 0 writes output: the others write no log, print no result
  // where the body returns none, and say what ended them as "NAME: rank 1: cause". Other programs refuse to be started as one of
  // several.
  void Ranks();

 private:
  friend int RunTool(CommandLine&, int, char**, const std::function<Json()>&);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Parses the command line, fills the settings, runs `body` and prints its result as one JSON line (nothing for null).
// Errors become one line "NAME: cause" on standard error. Returns the exit status for main.
int RunTool(CommandLine& line, int argc, char** argv, const std::function<Json()>& body);

// The digest of the sources this program was built from (hexadecimal SHA-256), and a readable version.
std::string SourceDigest();
std::string Version();

// The command line as it was given, quoted for a shell; for logs.
const std::string& QuotedCommand();

// How far a piece of work has come, on the live line (common/base/live_line.h): "calibration  40%  0:12, 0:18 left". Appears once
// the work has taken a second, or FAIRWAY_PROGRESS_AFTER seconds, and is redrawn by a thread until this object ends.
class Progress {
 public:
  // `total` is in the unit of Update; 0: not known, and only the time that has passed is shown.
  explicit Progress(std::string label, int64_t total = 0);
  ~Progress();
  // From one thread at a time. `note` is shown at the end.
  void Update(int64_t done, const std::string& note = "");

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;  // null: there is no live line
};

}  // namespace fairway
