#include "common/base/log.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string_view>

#include "common/base/file.h"
#include "common/base/live_line.h"
#include "common/base/text.h"

namespace fairway {
namespace {

std::mutex mutex;  // guards what is below
std::unique_ptr<AppendedFile> file;
bool quiet = false;
std::string speaker;
std::string live;  // what the live line shows now

constexpr char kClearLine[] = "\r\033[K";

// At most `columns` characters of UTF-8 text.
std::string_view Head(std::string_view text, size_t columns) {
  size_t bytes = 0;
  for (; bytes < text.size(); ++bytes)
    if ((text[bytes] & 0xC0) != 0x80 && columns-- == 0) break;
  return text.substr(0, bytes);
}

// REQUIRES: the mutex is held.
void Write(const std::string& line) {
  // Nobody may be listening any more there, which is no reason to stop. One call, so that a line is never seen half.
  std::fprintf(stderr, "%s%s\n%s", live.empty() ? "" : kClearLine, line.c_str(), live.c_str());
  if (file) file->WriteLine(line);
}

// REQUIRES: the mutex is held.
bool LiveLineExists() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string_view(value == nullptr ? "" : value);
  };
  const std::string_view terminal = variable("TERM");
  return !quiet && isatty(STDERR_FILENO) && !terminal.empty() && terminal != "dumb" && variable("NO_COLOR").empty();
}

std::string Format(const char* format, va_list arguments) {
  char* line = nullptr;
  const int length = vasprintf(&line, format, arguments);
  if (length < 0) throw std::bad_alloc();
  const std::unique_ptr<char, decltype(&free)> owner(line, free);
  return line;
}

}  // namespace

void OpenLog(const std::string& path) {
  const std::lock_guard lock(mutex);
  file = std::make_unique<AppendedFile>(path);
}

void SilenceLog() {
  const std::lock_guard lock(mutex);
  quiet = true;
}

void LogLine(const std::string& line) {
  const std::lock_guard lock(mutex);
  if (!quiet) Write(line);
}

void SetLogPrefix(const std::string& who) {
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
  const std::string line = Format(format, arguments);
  va_end(arguments);
  LogLine(line);
}

void LogProgress(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const std::string line = Format(format, arguments);
  va_end(arguments);
  const std::lock_guard lock(mutex);
  if (quiet) return;
  if (!LiveLineExists()) {
    Write(line);
  } else if (file) {
    file->WriteLine(line);
  }
}

bool HasLiveLine() {
  const std::lock_guard lock(mutex);
  return LiveLineExists();
}

void SetLiveLine(const std::string& text) {
  const std::lock_guard lock(mutex);
  if (text.empty() ? live.empty() : !LiveLineExists()) return;
  live = text;
  if (!live.empty()) {
    const char* stage = std::getenv("FAIRWAY_STAGE");
    if (stage != nullptr && *stage != '\0') live = std::string("[") + stage + "] " + live;
    winsize size{};
    // The last column stays free: a terminal may wrap there.
    const size_t columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1 : 79;
    live = Head(live, columns);
  }
  std::fprintf(stderr, "%s%s", kClearLine, live.c_str());
}

std::string Duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::clamp(seconds, 0.0, 1e12));
  const int64_t hours = whole / 3600, minutes = whole / 60 % 60;
  return hours > 0 ? StringPrintf("%jd:%02jd:%02jd", hours, minutes, whole % 60) : StringPrintf("%jd:%02jd", minutes, whole % 60);
}

}  // namespace fairway
