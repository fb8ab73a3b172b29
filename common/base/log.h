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

// Of several ranks one speaks: in this process, Log and LogLine do nothing from now on. What ends a program is still told.
void LeaveLogToOthers();
// Who tells of failures: "train", or "train: rank 1".
void NameSpeaker(const std::string& who);
// "WHO: CAUSE" for standard error whoever speaks, and for the log's file where there is one.
void LogFailure(const std::string& cause);

}  // namespace fairway
