#include "common/tokens/digest_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/tokens/shards.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

constexpr uint64_t kLarge = 32 << 20;
const FileStamp kStamp{1, 2, kLarge, 1'000'000'000, 1'000'000'000};
const std::string kDigest(64, 'a');

TEST(DigestCache, FindsAFileByEveryPartOfItsStamp) {
  const ScratchFolder folder;
  DigestCache cache(folder.path());
  EXPECT_EQ(cache.Find("a.bin", kStamp), "");
  cache.Add("a.bin", kStamp, kDigest);
  cache.Write();
  const DigestCache read(folder.path());
  EXPECT_EQ(read.Find("a.bin", kStamp), kDigest);
  EXPECT_EQ(read.Find("b.bin", kStamp), "");
  for (int part = 0; part < 5; ++part) {
    FileStamp other = kStamp;
    if (part == 0) ++other.device;
    if (part == 1) ++other.inode;
    if (part == 2) ++other.size;
    if (part == 3) ++other.modified;
    if (part == 4) ++other.changed;
    EXPECT_EQ(read.Find("a.bin", other), "") << part;
  }
}

TEST(DigestCache, RemembersNeitherSmallFilesNorOnesThatMayStillChange) {
  const ScratchFolder folder;
  DigestCache cache(folder.path());
  FileStamp small = kStamp, fresh = kStamp;
  small.size = 1000;
  WriteBytes(folder / "now", "");
  fresh.changed = StampOf(folder / "now").changed;
  cache.Add("a.bin", small, kDigest);
  cache.Add("b.bin", fresh, kDigest);
  cache.Write();
  EXPECT_FALSE(std::filesystem::exists(folder / ".digests"));
}

TEST(DigestCache, PassesOverWhatItCannotRead) {
  const ScratchFolder folder;
  DigestCache cache(folder.path());
  cache.Add("a.bin", kStamp, kDigest);
  cache.Write();
  const std::string good = ReadBytes(folder / ".digests");
  for (size_t size = 0; size < good.size() - 1; ++size) {
    WriteBytes(folder / ".digests", good.substr(0, size));
    const std::string found = DigestCache(folder.path()).Find("a.bin", kStamp);
    EXPECT_EQ(found, "") << size << " bytes";
  }
  WriteBytes(folder / ".digests", "\n\xff\n" + good);
  EXPECT_EQ(DigestCache(folder.path()).Find("a.bin", kStamp), kDigest);
}

// A large shard whose time is long past is remembered; another of the same size and time in its place is not taken for
// it.
TEST(ShardSet, IsNotDeceivedByALargeShardOfTheSameSizeAndTime) {
  const ScratchFolder folder;
  const std::string path = folder / "fineweb_val_000000.bin";
  const auto write = [&](const std::string& to, int first) {
    WriteBytes(to, ShardBytes(Counting(first, 16 << 20)));
    const timespec times[2] = {{1'000'000'000, 0}, {1'000'000'000, 0}};
    ASSERT_EQ(utimensat(AT_FDCWD, to.c_str(), times, 0), 0);
  };
  write(path, 0);
  const std::string identity = ShardSet(folder.path(), "val", 1024).Identity();
  write(folder / "other", 1);
  std::filesystem::rename(folder / "other", path);
  const std::string other = ShardSet(folder.path(), "val", 1024).Identity();
  EXPECT_NE(other, identity);
  write(path, 0);  // in place: the time of the inode shows it
  EXPECT_EQ(ShardSet(folder.path(), "val", 1024).Identity(), identity);
}

}  // namespace
}  // namespace fairway
