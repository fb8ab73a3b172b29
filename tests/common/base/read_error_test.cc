#include "common/base/read_error.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "common/base/file.h"
#include "tests/common/checkpoint/temporary_folder.h"

namespace fairway {
namespace {

// A file of three pages that is cut to nothing while it is mapped.
class ReadError : public testing::Test {
 protected:
  ReadError() {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    WriteFile(path_, std::string(3 * sysconf(_SC_PAGESIZE), 'x'));
  }

  void Cut() const {
    CatchReadErrors("demo");
    const InputFile other(ProgramDirectory() + "/base_test"), file(path_);
    std::filesystem::resize_file(path_, 0);
    volatile std::byte last = file.bytes().back();
    (void)last;
  }

  const TemporaryFolder folder_;
  const std::string path_ = folder_ / "read_error_test\n";
};

TEST_F(ReadError, NamesTheFileAndEndsWithTheStatusOfInputAndOutput) {
  EXPECT_EXIT(Cut(), testing::ExitedWithCode(3),
              "demo: .*read_error_test.n: cannot be read any more: it was cut, or its disk failed");
}

TEST_F(ReadError, OfNoFileOfOursSaysSo) {
  EXPECT_EXIT(
      {
        CatchReadErrors("demo");
        { const InputFile gone(path_); }
        raise(SIGBUS);
      },
      testing::ExitedWithCode(3), "demo: a file: cannot be read any more");
}

}  // namespace
}  // namespace fairway
