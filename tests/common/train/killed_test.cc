// A run that is killed outright, again and again, ends in the checkpoint of one that was left alone.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "common/base/text.h"
#include "common/settings/schedule.h"
#include "tests/common/train/corpus.h"

namespace fairway {
namespace {

class KilledTest : public CorpusTest {
 protected:
  // Runs bin/train to its end with nothing but our settings and `more` in its environment; returns its status.
  int Run(const std::string& out, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {BINARY_DIR "/train", "--out", out, "--resume", "newest"},
                             environment = {"OMP_WAIT_POLICY=PASSIVE"};
    environment.insert(environment.end(), more.begin(), more.end());
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
    int status = 0;
    waitpid(child, &status, 0);
    return status;
  }

  std::string Finish(const std::string& out) {
    EXPECT_EQ(Run(out), 0) << ReadBytes(folder / "errors");
    return CheckpointReader(out).identity();
  }

  // The interposed library kills it right after the first call that `call` is the end of: "rename /path".
  void KillAfter(const std::string& out, const std::string& call) {
    const int status = Run(out, {"LD_PRELOAD=" BINARY_DIR "/../tests/faults_interpose.so", "FAULTS_KIND=torn", "FAULTS_ON=" + call});
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status << ": " << ReadBytes(folder / "errors");
  }

  int64_t NewestPartial() const {
    int64_t newest = -1;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
      int64_t step;
      if (std::sscanf(entry.path().filename().c_str(), "killed.partial-%jd.ckpt", &step) == 1 &&
          entry.path().extension() == ".ckpt")
        newest = std::max(newest, step);
    }
    return newest;
  }
};

TEST_F(KilledTest, EndsWhereAnUndisturbedRunDoes) {
  const std::string undisturbed = Finish(folder / "undisturbed.ckpt");
  const std::string out = folder / "killed.ckpt";
  KillAfter(out, ".tmp");  // at its very beginning
  ASSERT_EQ(NewestPartial(), -1);
  for (int64_t step : {3, 18, 36}) {
    KillAfter(out, StringPrintf("killed.partial-%06jd.ckpt", step));
    if (HasFatalFailure()) return;
    ASSERT_EQ(NewestPartial(), step);
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
