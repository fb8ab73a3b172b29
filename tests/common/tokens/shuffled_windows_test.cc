#include "common/tokens/shuffled_windows.h"

#include <gmock/gmock.h>

#include <map>
#include <set>

#include "common/base/error.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

using testing::HasSubstr;

TEST(ShuffledWindows, TakeEachWindowOfEachShardOnceAndThenBeginAgain) {
  const ScratchFolder folder;
  WriteBytes(folder / "fineweb_train_000000.bin", ShardBytes(Counting(0, 50)));
  WriteBytes(folder / "fineweb_train_000001.bin", ShardBytes(Counting(50, 24)));
  WriteBytes(folder / "fineweb_train_000002.bin", ShardBytes(Counting(74, 5)));  // holds none
  const ShardSet shards(folder.path(), "train", 1024);
  ShuffledWindows windows(shards, 7, 0);
  for (int pass = 0; pass < 3; ++pass) {
    std::map<int64_t, std::set<int64_t>> starts;
    for (bool all = false; !all;) {
      const ShuffledWindows::Window window = windows.Next();
      EXPECT_TRUE(starts[window.shard].insert(window.start).second) << "pass " << pass;
      const auto full = [&](int64_t shard, int64_t tokens) {  // a start modulo 7 is the phase
        return !starts[shard].empty() && static_cast<int64_t>(starts[shard].size()) == (tokens - 1 - *starts[shard].begin() % 7) / 7;
      };
      all = full(0, 50) && full(1, 24);
    }
    EXPECT_EQ(starts.size(), 2u);
    for (const auto& [shard, of_shard] : starts)
      for (const int64_t start : of_shard) EXPECT_EQ((start - *of_shard.begin()) % 7, 0);
  }
}

TEST(ShuffledWindows, LeaveATokenForTheLastTargetWhateverThePhase) {
  const ScratchFolder folder;
  WriteBytes(folder / "fineweb_train_000000.bin", ShardBytes(Counting(0, 50)));
  const ShardSet shards(folder.path(), "train", 1024);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    ShuffledWindows windows(shards, 7, seed);
    for (int i = 0; i < 14; ++i) EXPECT_LE(windows.Next().start + 7 + 1, 50) << "seed " << seed;
  }
}

TEST(ShuffledWindows, HoldTheShardsTokens) {
  const ScratchFolder folder;
  WriteBytes(folder / "fineweb_train_000000.bin", ShardBytes(Counting(0, 50)));
  WriteBytes(folder / "fineweb_train_000001.bin", ShardBytes(Counting(500, 60)));
  const ShardSet shards(folder.path(), "train", 1024);
  ShuffledWindows windows(shards, 7, 3), same(shards, 7, 3), second(shards.Part(50, 60), 7, 3);
  for (int i = 0; i < 10; ++i) {
    const ShuffledWindows::Window window = windows.Next();
    EXPECT_EQ(same.Take(), Counting(static_cast<int>(500 * window.shard + window.start), 7));
  }
  EXPECT_GE(second.Take()[0], 500);
}

TEST(ShuffledWindows, OfEveryOtherShard) {
  const ScratchFolder folder;
  for (int i = 0; i < 3; ++i)
    WriteBytes(folder / ("fineweb_train_00000" + std::to_string(i) + ".bin"), ShardBytes(Counting(100 * i, 50)));
  const ShardSet shards(folder.path(), "train", 1024);
  ShuffledWindows windows(shards, 7, 0, /*stride=*/2);
  for (int i = 0; i < 14; ++i) EXPECT_NE(windows.Take()[0] / 100, 1);
}

TEST(ShuffledWindows, NeedAShardThatHoldsOne) {
  const ScratchFolder folder;
  WriteBytes(folder / "fineweb_train_000000.bin", ShardBytes(Counting(0, 7)));
  const ShardSet shards(folder.path(), "train", 1024);
  EXPECT_THAT(MessageOf<InputError>([&] { ShuffledWindows(shards, 7, 0); }), HasSubstr("no shard holds a calibration window of 7 tokens"));
}

}  // namespace
}  // namespace fairway
