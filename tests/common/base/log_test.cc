#include "common/base/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/live_line.h"
#include "tests/terminal.h"

namespace fairway {
namespace {

std::string Read(const std::string& path) {
  return std::string(InputFile(path).text());
}

// The log is one for the whole program, so one test covers it.
TEST(Log, LinesGoToStandardErrorAndToTheFileAsTheyAre) {
  const std::string path = ::testing::TempDir() + "log_test." + std::to_string(getpid());
  WriteFile(path, "from an earlier program\n");

  ::testing::internal::CaptureStderr();
  LogLine("before the file is opened");
  OpenLog(path);
  Log("step:%d/%d train_loss:%.4f", 5, 20, 1.23456);
  LogLine("braces {} and percent %s are text");
  LogLine("");
  Log("  %s", std::string(5000, 'x').c_str());
  const std::string after =
      "step:5/20 train_loss:1.2346\nbraces {} and percent %s are text\n\n  " + std::string(5000, 'x') + "\n";
  // Each line is in the file at once: a reader of a running or killed program's log sees all of it.
  EXPECT_EQ(Read(path), "from an earlier program\n" + after);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "before the file is opened\n" + after);
  std::filesystem::remove(path);
}

TEST(Log, AFileThatCannotBeWrittenIsNamedWithTheCause) {
  const auto message = [](const auto& body) -> std::string {
    try {
      body();
    } catch (const IoError& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  const std::string folder = ::testing::TempDir();
  EXPECT_EQ(message([&] { OpenLog(folder); }), folder + ": Is a directory");
  // A full disk: standard error has the line all the same.
  OpenLog("/dev/full");
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(message([] { LogLine("a line"); }), "/dev/full: No space left on device");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "a line\n");
  OpenLog("/dev/null");
}

constexpr char kClear[] = "\r\033[K";

TEST(LiveLine, StaysBelowTheLogAndIsCutToTheTerminalsWidth) {
  OpenLog("/dev/null");
  Terminal terminal(12);
  EXPECT_TRUE(HasLiveLine());
  SetLiveLine("");  // nothing to remove
  SetLiveLine("step 1/2");
  LogLine("a line of the log");
  SetLiveLine("0123456789üüü");  // the last column stays free, and no character is cut in two
  setenv("FAIRWAY_STAGE", "1/6 a", 1);
  SetLiveLine("step 2/2");
  SetLiveLine("");
  EXPECT_EQ(terminal.Text(), kClear + std::string("step 1/2") + kClear + "a line of the log\r\nstep 1/2" + kClear + "0123456789ü" +
                                 kClear + "[1/6 a] ste" + kClear);
}

TEST(LiveLine, ProgressLinesGoToTheFileAloneWhereThereIsOne) {
  const std::string path = ::testing::TempDir() + "live_line_test." + std::to_string(getpid());
  OpenLog(path);
  Terminal terminal(80);
  LogProgress("step:%d/%d", 1, 2);
  LogLine("done");
  EXPECT_EQ(terminal.Text(), "done\r\n");
  EXPECT_EQ(Read(path), "step:1/2\ndone\n");
  OpenLog("/dev/null");
  std::filesystem::remove(path);
}

TEST(LiveLine, DoesNotExistInAPipeWithNoColorOrOnADumbTerminal) {
  ::testing::internal::CaptureStderr();
  SetLiveLine("hidden");
  LogProgress("step:%d/%d", 1, 2);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "step:1/2\n");
  const auto shown = [](const char* name, const char* value) {
    Terminal terminal(80);
    setenv(name, value, 1);
    SetLiveLine("hidden");
    LogProgress("step:%d/%d", 1, 2);
    SetLiveLine("");
    return terminal.Text();
  };
  EXPECT_EQ(shown("NO_COLOR", "1"), "step:1/2\r\n");
  EXPECT_EQ(shown("TERM", "dumb"), "step:1/2\r\n");
  EXPECT_EQ(shown("TERM", ""), "step:1/2\r\n");
  EXPECT_EQ(shown("NO_COLOR", ""), kClear + std::string("hidden") + kClear);
  unsetenv("NO_COLOR");
}

TEST(Duration, ReadsAsAClock) {
  EXPECT_EQ(Duration(-3), "0:00");
  EXPECT_EQ(Duration(5.9), "0:05");
  EXPECT_EQ(Duration(65), "1:05");
  EXPECT_EQ(Duration(3725), "1:02:05");
  EXPECT_EQ(Duration(100 * 3600), "100:00:00");
}

}  // namespace
}  // namespace fairway
