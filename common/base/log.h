// The log: lines on standard error and, once opened, in a file. Existing parsers read these lines (docs/formats.md),
// so a line is exactly what is passed: no time stamp, no level.
#pragma once

#include <string>

namespace fairway {

// Lines go to this file too from now on, appended. Throws IoError.
void OpenLog(const std::string& path);

// One line, without its newline. Throws IoError where the file cannot be written, after standard error has the line: a
// record needs its log.
void Log(const char* format, ...) __attribute__((format(printf, 1, 2)));
void LogLine(const std::string& line);

// For all ranks but one: Log and LogLine do nothing from now on. LogFailure still reports what ends the program.
void SilenceLog();
// What LogFailure begins a line with: "train", or "train: rank 1".
void SetLogPrefix(const std::string& prefix);
// "PREFIX: CAUSE" on standard error, on every rank, and in the log's file where there is one.
void LogFailure(const std::string& cause);

}  // namespace fairway
