// Standard error as a terminal, for tests of what is shown there alone.
#pragma once

#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <thread>

namespace fairway {

// While it lives, standard error is a terminal `columns` wide.
class Terminal {
 public:
  explicit Terminal(unsigned short columns) {
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    unsetenv("FAIRWAY_STAGE");
    winsize size{.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    int slave = -1;
    EXPECT_EQ(openpty(&master_, &slave, nullptr, nullptr, &size), 0);
    saved_ = dup(STDERR_FILENO);
    dup2(slave, STDERR_FILENO);
    close(slave);
    reader_ = std::thread([this] {  // a terminal that is not read fills up
      char bytes[4096];
      for (ssize_t count; (count = read(master_, bytes, sizeof bytes)) > 0;) text_.append(bytes, count);
    });
  }
  ~Terminal() {
    if (reader_.joinable()) Text();
  }

  // Ends it: all that was written, "\r\n" for each newline.
  std::string Text() {
    dup2(saved_, STDERR_FILENO);  // the last handle of the slave: the reader comes to the end
    close(saved_);
    reader_.join();
    close(master_);
    return text_;
  }

 private:
  int master_ = -1, saved_ = -1;
  std::thread reader_;
  std::string text_;
};

}  // namespace fairway
