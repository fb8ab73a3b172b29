#include "common/base/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "common/base/error.h"
#include "common/base/file.h"

namespace fairway {
namespace {

std::string Read(const std::string& path) {
  return std::string(InputFile(path).text());
}

// The log is one for the whole program, so its ways are told in one test.
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
  // Each line is in the file at once: whoever watches a run, or finds what a killed one left, sees all of it.
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

}  // namespace
}  // namespace fairway
