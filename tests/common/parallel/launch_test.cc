#include "common/base/launch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "common/base/error.h"

namespace fairway {
namespace {

class LaunchTest : public testing::Test {
 protected:
  LaunchTest() {
    for (const char* name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                             "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_ID", "SLURM_PROCID",
                             "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE",
                             "SLURM_STEP_TASKS_PER_NODE", "SLURM_NODEID"})
      unsetenv(name);
  }
  static void Set(const std::vector<std::pair<const char*, const char*>>& values) {
    for (const auto& [name, value] : values) setenv(name, value, 1);
  }
  static std::string Refusal() {
    try {
      ReadLaunch();
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  }
};

TEST_F(LaunchTest, AloneWhereNothingIsSaid) {
  EXPECT_EQ(ReadLaunch().world_size, 1);
  EXPECT_EQ(ReadLaunch().launcher, "");
  Set({{"WORLD_SIZE", "1"}});
  EXPECT_EQ(ReadLaunch().world_size, 1);
  EXPECT_EQ(ReadLaunch().rank, 0);
}

TEST_F(LaunchTest, UnderstandsEachLauncher) {
  // A batch script of Slurm's is no step, even where it is to start several tasks.
  Set({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}});
  EXPECT_EQ(ReadLaunch().world_size, 1);
  Set({{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "3"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_LOCALID", "1"}});
  EXPECT_EQ(ReadLaunch().launcher, "srun");
  EXPECT_EQ(ReadLaunch().rank, 3);
  EXPECT_EQ(ReadLaunch().world_size, 4);
  EXPECT_EQ(ReadLaunch().local_rank, 1);
  EXPECT_EQ(ReadLaunch().local_size, 0);
  // What is started inside a step by another launcher goes by that one.
  Set({{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}});
  EXPECT_EQ(ReadLaunch().launcher, "mpirun");
  EXPECT_EQ(ReadLaunch().rank, 1);
  EXPECT_EQ(ReadLaunch().local_rank, 0);
  EXPECT_EQ(ReadLaunch().local_size, 1);
  Set({{"RANK", "5"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "2"}, {"LOCAL_WORLD_SIZE", "4"}});
  EXPECT_EQ(ReadLaunch().launcher, "torchrun");
  EXPECT_EQ(ReadLaunch().rank, 5);
  EXPECT_EQ(ReadLaunch().local_rank, 2);
  EXPECT_EQ(ReadLaunch().local_size, 4);
}

// Without --ntasks-per-node, too, ranks of a host share its processors.
TEST_F(LaunchTest, KnowsHowManyTasksOfAStepItsNodeHas) {
  Set({{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "3"}, {"SLURM_STEP_NUM_TASKS", "9"}, {"SLURM_LOCALID", "1"}});
  for (const auto& [tasks, node, expected] : std::vector<std::tuple<const char*, const char*, int64_t>>{
           {"9", "0", 9}, {"2(x3),3", "0", 2}, {"2(x3),3", "2", 2}, {"2(x3),3", "3", 3}, {"4,5", "1", 5}, {"1,2(x4)", "4", 2}}) {
    Set({{"SLURM_STEP_TASKS_PER_NODE", tasks}, {"SLURM_NODEID", node}});
    EXPECT_EQ(ReadLaunch().local_size, expected) << tasks << ", node " << node;
  }
  Set({{"SLURM_STEP_TASKS_PER_NODE", "2(x3)"}, {"SLURM_NODEID", "3"}});
  EXPECT_EQ(Refusal(), "environment SLURM_NODEID = 3 is not among the nodes of SLURM_STEP_TASKS_PER_NODE = '2(x3)'");
  for (const char* tasks : {"2(3)", "2(x", "2(x)", "two", "0", "2(x0)"}) {
    Set({{"SLURM_STEP_TASKS_PER_NODE", tasks}});
    EXPECT_EQ(Refusal(), std::string("environment SLURM_STEP_TASKS_PER_NODE = '") + tasks + "' is no list of numbers of tasks");
  }
  Set({{"SLURM_NTASKS_PER_NODE", "4"}});  // where that is said it counts
  EXPECT_EQ(ReadLaunch().local_size, 4);
}

TEST_F(LaunchTest, RefusesWhatMakesNoSense) {
  Set({{"WORLD_SIZE", "2"}});
  EXPECT_EQ(Refusal(), "environment WORLD_SIZE without RANK");
  Set({{"RANK", "2"}});
  EXPECT_EQ(Refusal(), "environment RANK = 2 is not below WORLD_SIZE = 2");
  Set({{"RANK", "one"}});
  EXPECT_EQ(Refusal(), "environment RANK = 'one' is no count");
  Set({{"RANK", "-1"}});
  EXPECT_EQ(Refusal(), "environment RANK = '-1' is no count");
  unsetenv("WORLD_SIZE");
  Set({{"RANK", "0"}});
  EXPECT_EQ(Refusal(), "environment RANK without WORLD_SIZE");
}

}  // namespace
}  // namespace fairway
