#include "common/tokens/shards.h"

#include <gmock/gmock.h>

#include <cstring>
#include <numeric>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/tokens/manifest.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

using testing::StrEq;

std::string Open(const std::string& folder) {
  std::string message = MessageOf<InputError>([&] { ShardSet(folder, "train", 1024); });
  return message.substr(message.rfind('/') + 1);
}

std::string WithField(std::string bytes, int index, int32_t value) {
  std::memcpy(bytes.data() + 4 * index, &value, 4);
  return bytes;
}

TEST(ShardSet, JoinsTheShardsOfItsSplitInTheOrderOfTheirNames) {
  const ScratchFolder folder;
  WriteBytes(folder / "fineweb_train_000001.bin", ShardBytes(Counting(5, 3)));
  WriteBytes(folder / "fineweb_train_000000.bin", ShardBytes(Counting(0, 5)));
  WriteBytes(folder / "fineweb_train_000010.bin", ShardBytes(Counting(8, 2)));
  WriteBytes(folder / "fineweb_val_000000.bin", ShardBytes(Counting(500, 7)));
  WriteBytes(folder / "fineweb_trainer_000000.bin", "not of this split");
  const ShardSet shards(folder.path(), "train", 1024);
  EXPECT_EQ(shards.tokens(), 10);
  EXPECT_EQ(shards.files().size(), 3u);
  std::vector<uint16_t> tokens(10);
  shards.Read(0, 10, tokens.data());
  EXPECT_EQ(tokens, Counting(0, 10));
  // Every range, so every way of lying across the boundaries.
  for (int begin = 0; begin <= 10; ++begin) {
    for (int count = 0; begin + count <= 10; ++count) {
      std::vector<uint16_t> part(count);
      shards.Read(begin, count, part.data());
      EXPECT_EQ(part, Counting(begin, count));
      shards.Load(begin, count);
    }
  }
}

TEST(ShardSet, NamesEachDefect) {
  const ScratchFolder folder;
  const std::string path = folder / "fineweb_train_000000.bin";
  const std::string good = ShardBytes(Counting(0, 100));

  WriteBytes(path, "");
  EXPECT_THAT(Open(folder.path()),
              StrEq("fineweb_train_000000.bin: is 0 bytes long, shorter than the header of a token shard (1024)"));
  WriteBytes(path, good.substr(0, 1000));
  EXPECT_THAT(Open(folder.path()),
              StrEq("fineweb_train_000000.bin: is 1000 bytes long, shorter than the header of a token shard (1024)"));
  WriteBytes(path, WithField(good, 0, 20240519));
  EXPECT_THAT(Open(folder.path()),
              StrEq("fineweb_train_000000.bin: is not a token shard: its magic is 20240519, not 20240520"));
  WriteBytes(path, WithField(good, 1, 2));
  EXPECT_THAT(Open(folder.path()),
              StrEq("fineweb_train_000000.bin: is a token shard of version 2; this program reads version 1"));
  WriteBytes(path, WithField(good, 2, 0).substr(0, 1024));
  EXPECT_THAT(Open(folder.path()), StrEq("fineweb_train_000000.bin: says that it holds 0 tokens"));
  WriteBytes(path, WithField(good, 2, -1));
  EXPECT_THAT(Open(folder.path()), StrEq("fineweb_train_000000.bin: says that it holds -1 tokens"));
  WriteBytes(path, WithField(good, 2, 101));
  EXPECT_THAT(Open(folder.path()),
              StrEq("fineweb_train_000000.bin: is 1224 bytes long, but its header's 101 tokens make 1226"));
  WriteBytes(path, good + "x");
  EXPECT_THAT(Open(folder.path()),
              StrEq("fineweb_train_000000.bin: is 1225 bytes long, but its header's 100 tokens make 1224"));
  WriteBytes(path, good);
  EXPECT_THAT(Open(folder.path()), StrEq(""));
}

TEST(ShardSet, NamesWhatIsNotThere) {
  const ScratchFolder folder;
  EXPECT_THAT(MessageOf<IoError>([&] { ShardSet(folder.path(), "train", 1024); }),
              StrEq(folder / "fineweb_train_*.bin: matches no file"));
  EXPECT_THAT(MessageOf<IoError>([&] { ShardSet(folder / "absent", "train", 1024); }),
              StrEq(folder / "absent: No such file or directory"));
  std::filesystem::create_directory(folder / "fineweb_train_000000.bin");
  EXPECT_THAT(MessageOf<IoError>([&] { ShardSet(folder.path(), "train", 1024); }),
              StrEq(folder / "fineweb_train_000000.bin: Is a directory"));
}

TEST(ShardSet, ChecksIdsWhenTheyAreUsed) {
  const ScratchFolder folder;
  WriteBytes(folder / "fineweb_train_000000.bin", ShardBytes(Counting(0, 100)));
  std::vector<uint16_t> tokens = Counting(0, 100);
  tokens[41] = 1024;
  tokens[43] = 2000;
  WriteBytes(folder / "fineweb_train_000001.bin", ShardBytes(tokens));
  const ShardSet shards(folder.path(), "train", 1024);
  std::vector<uint16_t> out(200);
  shards.Read(0, 141, out.data());
  EXPECT_THAT(
      MessageOf<InputError>([&] { shards.Read(90, 60, out.data()); }),
      StrEq(folder /
            "fineweb_train_000001.bin: token id 1024 at byte offset 1106 (token 41) is not below VOCAB_SIZE 1024"));
  // The largest vocabulary takes every id.
  ShardSet(folder.path(), "train", 65536).Read(0, 200, out.data());
}

TEST(ShardSet, TakesItsIdentityFromTheManifestWhereThatListsEveryShard) {
  const ScratchFolder folder;
  WriteBytes(folder / "fineweb_train_000000.bin", ShardBytes(Counting(0, 100)));
  WriteBytes(folder / "fineweb_train_000001.bin", ShardBytes(Counting(100, 50)));
  const auto digest_of = [&](const std::string& name) { return Sha256Hex(ReadBytes(folder / name)); };
  const std::string computed =
      Sha256Hex(digest_of("fineweb_train_000000.bin") + "\n" + digest_of("fineweb_train_000001.bin") + "\n");
  EXPECT_EQ(ShardSet(folder.path(), "train", 1024).Identity(), computed);

  Manifest manifest;
  manifest.splits["train"].files = {{"fineweb_train_000000.bin", 100, 1224, "aa"}};
  WriteBytes(folder / "manifest.json", manifest.ToJson());
  EXPECT_EQ(ShardSet(folder.path(), "train", 1024).Identity(), computed) << "one shard is not listed";
  manifest.splits["train"].files.push_back({"fineweb_train_000001.bin", 50, 1125, "bb"});
  WriteBytes(folder / "manifest.json", manifest.ToJson());
  EXPECT_EQ(ShardSet(folder.path(), "train", 1024).Identity(), computed) << "one size disagrees";
  manifest.splits["train"].files[1].bytes = 1124;
  WriteBytes(folder / "manifest.json", manifest.ToJson());
  EXPECT_EQ(ShardSet(folder.path(), "train", 1024).Identity(), Sha256Hex(std::string_view("aa\nbb\n")));
}

}  // namespace
}  // namespace fairway
