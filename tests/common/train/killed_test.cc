// A run that is killed outright, again and again, ends in the checkpoint of one that was left alone.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "common/base/text.h"
#include "common/optim/schedule.h"
#include "tests/common/train/corpus.h"

namespace fairway {
namespace {

class KilledTest : public CorpusTest {
 protected:
  // Starts bin/train with nothing but our settings in its environment.
  pid_t Start(const std::string& out) {
    std::vector<std::string> arguments = {BINARY_DIR "/train", "--out", out, "--resume", "newest"},
                             environment = {"OMP_WAIT_POLICY=PASSIVE"};
    const Settings settings =
        Make({{"iterations", "60"}, {"warmdown_iters", "50"}, {"swa_every", "5"}, {"checkpoint_every", "3"}});
    for (const SettingInfo& setting : SettingTable())
      if (setting.name != "source") environment.push_back(setting.Environment() + "=" + settings.Get(setting.name));
    const auto pointers = [](std::vector<std::string>& strings) {
      std::vector<char*> result;
      for (std::string& string : strings) result.push_back(string.data());
      result.push_back(nullptr);
      return result;
    };
    const std::vector<char*> argv = pointers(arguments), envp = pointers(environment);
    const std::string errors = folder / "errors";
    const pid_t child = fork();
    if (child == 0) {
      const int file = open(errors.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      dup2(file, 1);
      dup2(file, 2);
      execve(argv[0], argv.data(), envp.data());
      _exit(127);
    }
    return child;
  }

  static bool Ended(pid_t child, int* status) { return waitpid(child, status, WNOHANG) == child; }

  // Lets it run to its end.
  std::string Finish(const std::string& out) {
    int status = 0;
    waitpid(Start(out), &status, 0);
    EXPECT_EQ(status, 0) << ReadBytes(folder / "errors");
    return CheckpointReader(out).identity();
  }

  // Kills it as soon as it has a checkpoint of `step` or a later one.
  void KillAfter(const std::string& out, int64_t step) {
    const pid_t child = Start(out);
    int status = 0;
    bool ended = false;
    while (!(ended = Ended(child, &status)) && NewestPartial() < step)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (!ended) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
    }
    ASSERT_TRUE(WIFSIGNALED(status)) << "ended by itself before it could be killed: " << ReadBytes(folder / "errors");
  }

  int64_t NewestPartial() const {
    int64_t newest = -1;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
      long step;
      if (std::sscanf(entry.path().filename().c_str(), "killed.partial-%ld.ckpt", &step) == 1 &&
          entry.path().extension() == ".ckpt")
        newest = std::max(newest, step);
    }
    return newest;
  }
};

TEST_F(KilledTest, EndsWhereAnUndisturbedRunDoes) {
  const std::string undisturbed = Finish(folder / "undisturbed.ckpt");
  const std::string out = folder / "killed.ckpt";
  KillAfter(out, -1);  // at its very beginning
  for (int64_t step : {3, 18, 36}) {
    KillAfter(out, step);
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(Finish(out), undisturbed);
  const Counters counters = CheckpointReader(out).counters();
  EXPECT_EQ(counters.Get(counter::kSteps), 60);
  EXPECT_EQ(counters.Get(counter::kResumes), 3);
  EXPECT_EQ(counters.Get(counter::kEmaUpdates), 60);
  EXPECT_EQ(NewestPartial(), -1);
}

}  // namespace
}  // namespace fairway
