// Shards far larger than memory: files that are holes but for their ends.
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <thread>

#include "common/base/text.h"
#include "common/tokens/shards.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

constexpr int64_t kShards = 47;  // 202 GB

// A line of /proc/self/status in bytes.
int64_t Status(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    int64_t kilobytes;
    if (line.starts_with(name + ":") && ParseInt(Split(line.substr(name.size() + 1), ' ').front(), &kilobytes))
      return kilobytes << 10;
  }
  return 0;
}

// How much more memory the process held at most while `action` ran than before it.
template <typename Action>
int64_t Growth(Action action) {
  std::ofstream("/proc/self/clear_refs") << 5;  // the peak begins anew
  const int64_t before = Status("VmRSS");
  action();
  return Status("VmHWM") - before;
}

class SparseShards : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "skipped: a sanitizer takes memory of its own";
#endif
    for (int64_t i = 0; i < kShards; ++i) {
      const std::string path = folder_ / ShardName("train", i);
      WriteBytes(path, ShardHeader(kMaxShardTokens));
      if (truncate(path.c_str(), kShardHeaderBytes + 2 * kMaxShardTokens) != 0)
        GTEST_SKIP() << "skipped: this file system has no sparse files of 4 GB";
      std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
      const uint16_t last = static_cast<uint16_t>(i + 1);
      file.seekp(-2, std::ios::end).write(reinterpret_cast<const char*>(&last), 2);
    }
  }

  ScratchFolder folder_;
};

// What is read ahead, and not long gone: 67 MB, a megabyte of the next chunk, and what the allocator and the system's fault-around
// add.
constexpr int64_t kMostHeld = 100 << 20;

// Returns when the stream has read ahead as far as it does.
void AwaitAhead(const TokenStream& stream) {
  while (stream.ahead() < 1 << 25) std::this_thread::yield();
}

TEST_F(SparseShards, AreReadAtTheirFarEndInLittleMemory) {
  const int64_t growth = Growth([&] {
    TokenStream stream(ShardSet(folder_.path(), "train", 1024));
    const int64_t all = stream.shards().tokens();
    EXPECT_EQ(all, kShards * kMaxShardTokens);
    for (int64_t shard = 1; shard <= kShards; ++shard) {
      stream.Seek(shard * kMaxShardTokens - 1);
      EXPECT_EQ(stream.Take(1), std::vector<uint16_t>{static_cast<uint16_t>(shard)});
    }
    stream.Seek(all - 2);
    EXPECT_EQ(stream.Take(3), (std::vector<uint16_t>{0, kShards, 0}));
  });
  std::printf("summary: %jd GB of shards: the process grew by %jd MB\n", kShards * 2 * kMaxShardTokens / 1000000000,
              growth / 1000000);
  EXPECT_LT(growth, kMostHeld);
}

TEST_F(SparseShards, LeaveTheProcessWhereTheStreamIsMoved) {
  TokenStream stream(ShardSet(folder_.path(), "train", 1024));
  const int64_t growth = Growth([&] {
    for (int64_t shard = 0; shard < 6; ++shard) {
      stream.Seek(shard * kMaxShardTokens);
      AwaitAhead(stream);
    }
  });
  EXPECT_LT(growth, kMostHeld);
}

// Other ranks' spans.
TEST_F(SparseShards, LeaveTheProcessWhereTheyAreSkipped) {
  TokenStream stream(ShardSet(folder_.path(), "train", 1024));
  const int64_t growth = Growth([&] {
    for (int step = 0; step < 6; ++step) {
      AwaitAhead(stream);
      stream.Take(1000);
      stream.Skip(1 << 25);
    }
  });
  EXPECT_LT(growth, kMostHeld);
}

// Half a gigabyte is read.
TEST_F(SparseShards, LeaveTheProcessWhenTheyHaveBeenRead) {
  TokenStream stream(ShardSet(folder_.path(), "train", 1024));
  const int64_t growth = Growth([&] {
    for (int step = 0; step < 256; ++step) stream.Take(1 << 20);
  });
  EXPECT_LT(growth, kMostHeld);
  EXPECT_EQ(stream.position(), 256 << 20);
}

}  // namespace
}  // namespace fairway
