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
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
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
  for (const int first : {SIGINT, SIGTERM, SIGHUP})
    for (const int second : {SIGINT, SIGTERM, SIGHUP}) {
      const int status = StatusOf([&] {
        CatchInterrupts();
        raise(first);
        raise(second);
        return 0;
      });
      EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == second) << first << " then " << second << ": " << status;
    }
}

// nohup
TEST(Interrupt, AHangupThatIsIgnoredStaysIgnored) {
  const int status = StatusOf([] {
    std::signal(SIGHUP, SIG_IGN);
    CatchInterrupts();
    raise(SIGHUP);
    if (InterruptSignal() != 0) return 1;
    raise(SIGTERM);
    raise(SIGHUP);
    return InterruptSignal() == SIGTERM ? 0 : 2;
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(Interrupt, InABatchJobSigusr1IsCounted) {
  for (const char* variable : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"}) {
    const int status = StatusOf([&] {
      setenv(variable, "7", 1);
      CatchInterrupts();
      if (CheckpointRequests() != 0) return 1;
      raise(SIGUSR1);
      raise(SIGUSR1);
      return CheckpointRequests() == 2 && InterruptSignal() == 0 ? 0 : 2;
    });
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << variable << ": " << status;
  }
}

TEST(Interrupt, ElsewhereSigusr1Ends) {
  const int status = StatusOf([] {
    for (const char* variable : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"}) unsetenv(variable);
    CatchInterrupts();
    raise(SIGUSR1);
    if (CheckpointRequests() != 0 || InterruptSignal() != SIGUSR1) return 1;
    raise(SIGUSR1);  // said twice it is still a warning
    return 0;
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace fairway
