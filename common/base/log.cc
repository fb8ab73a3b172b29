#include "common/base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdarg>

#include "common/base/error.h"
#include "common/base/text.h"

namespace fairway {
namespace {

spdlog::logger& Logger() {
  static spdlog::logger logger = [] {
    spdlog::logger made("fairway", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made.set_pattern("%v");
    made.flush_on(spdlog::level::info);
    return made;
  }();
  return logger;
}

}  // namespace

void OpenLog(const std::string& path) {
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    sink->set_pattern("%v");
    Logger().sinks().push_back(std::move(sink));
  } catch (const spdlog::spdlog_ex& error) {
    throw IoError(path, std::string("cannot open the log: ") + error.what());
  }
}

void LogLine(const std::string& line) { Logger().info("{}", line); }

void Log(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char* line = nullptr;
  if (vasprintf(&line, format, arguments) >= 0) {
    LogLine(line);
    free(line);
  }
  va_end(arguments);
}

}  // namespace fairway
