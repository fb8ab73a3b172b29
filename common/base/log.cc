#include "common/base/log.h"

#include <cstdarg>
#include <cstdio>
#include <memory>
#include <mutex>

#include "common/base/file.h"
#include "common/base/text.h"

namespace fairway {
namespace {

std::mutex mutex;  // guards what is below
std::unique_ptr<AppendedFile> file;
bool quiet = false;
std::string speaker;

// REQUIRES: the mutex is held.
void Write(const std::string& line) {
  // Nobody may be listening any more there, which is no reason to stop.
  std::fprintf(stderr, "%s\n", line.c_str());
  if (file) file->WriteLine(line);
}

}  // namespace

void OpenLog(const std::string& path) {
  const std::lock_guard lock(mutex);
  file = std::make_unique<AppendedFile>(path);
}

void LeaveLogToOthers() {
  const std::lock_guard lock(mutex);
  quiet = true;
}

void LogLine(const std::string& line) {
  const std::lock_guard lock(mutex);
  if (!quiet) Write(line);
}

void NameSpeaker(const std::string& who) {
  const std::lock_guard lock(mutex);
  speaker = who;
}

void LogFailure(const std::string& cause) {
  const std::lock_guard lock(mutex);
  Write(speaker + ": " + cause);
}

void Log(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char* line = nullptr;
  const int length = vasprintf(&line, format, arguments);
  va_end(arguments);
  if (length < 0) throw std::bad_alloc();
  const std::unique_ptr<char, decltype(&free)> owner(line, free);
  LogLine(line);
}

}  // namespace fairway
