// Failures that a user can act on, and the exit status of each.
#pragma once

#include <stdexcept>
#include <string>

#include "common/base/text.h"

namespace fairway {

// The exit statuses of every program; 128+n means "ended by signal n". README.md holds the same table.
enum class ExitStatus : int {
  kDone = 0,
  kInternal = 1,  // a defect of ours, or memory ran out
  kUsage = 2,     // the command line or the environment
  kIo = 3,        // the operating system refused: missing file, disk full, no permission
  kBadInput = 4,  // a file was read and is not what it should be
  kGate = 5,      // everything worked and the result is not good enough: over budget, score too low
};

// One line for a person: what is wrong, and with which file or setting. RunTool prints it and ends the program. Paths and
// damaged files may contain any bytes; what() is printable.
class Error : public std::runtime_error {
 public:
  Error(ExitStatus status, const std::string& message) : std::runtime_error(Printable(message)), status_(status) {}
  ExitStatus status() const { return status_; }

 private:
  ExitStatus status_;
};

class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error(ExitStatus::kUsage, message) {}
};

class IoError : public Error {
 public:
  IoError(const std::string& path, const std::string& cause) : Error(ExitStatus::kIo, path + ": " + cause) {}
};

class InputError : public Error {
 public:
  InputError(const std::string& path, const std::string& cause) : Error(ExitStatus::kBadInput, path + ": " + cause) {}
};

class GateError : public Error {
 public:
  explicit GateError(const std::string& message) : Error(ExitStatus::kGate, message) {}
};

}  // namespace fairway
