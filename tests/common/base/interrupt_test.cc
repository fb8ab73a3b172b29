#include "common/base/interrupt.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace fairway {
namespace {

// Runs `body` in a process of its own and returns how that ended.
template <typename Body>
int StatusOf(Body body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

TEST(Interrupt, IsNotCaughtUnasked) {
  const int status = StatusOf([] { return raise(SIGINT); });
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGINT);
}

TEST(Interrupt, IsRememberedByItsNumber) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const int status = StatusOf([&] {
      CatchInterrupts();
      if (InterruptSignal() != 0) return 1;
      raise(signal);
      return InterruptSignal() == signal ? 0 : 2;
    });
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << signal << ": " << status;
  }
}

TEST(Interrupt, TheSecondOneEndsTheProgramWhicheverItIs) {
  for (const int first : {SIGINT, SIGTERM})
    for (const int second : {SIGINT, SIGTERM}) {
      const int status = StatusOf([&] {
        CatchInterrupts();
        raise(first);
        raise(second);
        return 0;
      });
      EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == second) << first << " then " << second << ": " << status;
    }
}

}  // namespace
}  // namespace fairway
