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
  WriteBytes(folder / "fineweb_train_000002.bin", ShardBytes(Counting(8, 2)));
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

TEST(ShardSet, RefusesNamesThatAreNoShardsByName) {
  const ScratchFolder folder;
  const auto refused = [&] { return MessageOf<InputError>([&] { ShardSet(folder.path(), "val", 1024); }); };
  WriteBytes(folder / "fineweb_val_000000.bin", ShardBytes(Counting(0, 5)));
  EXPECT_THAT(refused(), StrEq(""));
  for (const char* name : {"fineweb_val_000000 (1).bin", "fineweb_val_.bin", "fineweb_val_000001a.bin",
                           "fineweb_val_-1.bin", "fineweb_val_bytes_.bin", "fineweb_val_1234567890.bin"}) {
    WriteBytes(folder / name, ShardBytes(Counting(0, 5)));
    EXPECT_THAT(refused(),
                StrEq(folder / name +
                      ": is no shard of the split val, though its name begins like one (fineweb_val_000000.bin): "
                      "remove or rename it"));
    std::filesystem::remove(folder / name);
  }
  // One number twice, and numbers that leave one out.
  WriteBytes(folder / "fineweb_val_0.bin", ShardBytes(Counting(0, 5)));
  EXPECT_THAT(refused(), StrEq(folder / "fineweb_val_000000.bin" + ": has the number of fineweb_val_0.bin"));
  std::filesystem::remove(folder / "fineweb_val_0.bin");
  WriteBytes(folder / "fineweb_val_000002.bin", ShardBytes(Counting(0, 5)));
  EXPECT_THAT(refused(), StrEq(folder / "fineweb_val_000002.bin" + ": there is no number 1 before it in " +
                               folder.path() + ": a shard is missing (the first is fineweb_val_000000.bin)"));
  // Published sets begin at 0 or at 1, and at nothing else.
  std::filesystem::rename(folder / "fineweb_val_000000.bin", folder / "fineweb_val_000001.bin");
  EXPECT_EQ(ShardSet(folder.path(), "val", 1024).tokens(), 10);
  std::filesystem::remove(folder / "fineweb_val_000001.bin");
  EXPECT_THAT(refused(), testing::HasSubstr("fineweb_val_000002.bin: there is no number 1 before it"));
}

TEST(ShardSet, ReadsTheByteSidecar) {
  const ScratchFolder folder;
  WriteBytes(folder / "fineweb_val_000000.bin", ShardBytes(Counting(0, 5)));
  WriteBytes(folder / "fineweb_val_000001.bin", ShardBytes(Counting(5, 3)));
  EXPECT_FALSE(ShardSet(folder.path(), "val", 1024).has_bytes());
  EXPECT_EQ(ShardSet(folder.path(), "val", 1024).BytesIdentity(), "");
  const auto refused = [&] { return MessageOf<InputError>([&] { ShardSet(folder.path(), "val", 1024); }); };
  // It has counts that no vocabulary has ids for.
  WriteBytes(folder / "fineweb_val_bytes_000000.bin", ShardBytes({0, 2000, 7, 1, 3}));
  EXPECT_THAT(refused(), StrEq(folder / "fineweb_val_000001.bin" +
                               ": has no byte sidecar fineweb_val_bytes_000001.bin, though other shards have one"));
  WriteBytes(folder / "fineweb_val_bytes_000001.bin", ShardBytes({9, 8}));
  EXPECT_THAT(refused(), StrEq(folder / "fineweb_val_bytes_000001.bin" +
                               ": has the bytes of 2 tokens, but fineweb_val_000001.bin holds 3"));
  WriteBytes(folder / "fineweb_val_bytes_000001.bin", ShardBytes({9, 8, 0}));
  WriteBytes(folder / "fineweb_val_bytes_000002.bin", ShardBytes({9, 8, 0}));
  EXPECT_THAT(refused(), StrEq(folder / "fineweb_val_bytes_000002.bin" +
                               ": is the byte sidecar of a shard that is missing: fineweb_val_000002.bin"));
  std::filesystem::remove(folder / "fineweb_val_bytes_000002.bin");

  const ShardSet shards(folder.path(), "val", 1024);
  EXPECT_EQ(shards.tokens(), 8);
  ASSERT_TRUE(shards.has_bytes());
  std::vector<uint16_t> bytes(6);
  shards.ReadBytes(1, 6, bytes.data());
  EXPECT_EQ(bytes, (std::vector<uint16_t>{2000, 7, 1, 3, 9, 8}));
  shards.Part(3, 4).ReadBytes(1, 2, bytes.data());
  EXPECT_EQ(bytes[0], 3);
  EXPECT_EQ(bytes[1], 9);
  const auto digest_of = [&](const std::string& name) { return Sha256Hex(ReadBytes(folder / name)); };
  EXPECT_EQ(shards.BytesIdentity(),
            SplitIdentity({digest_of("fineweb_val_bytes_000000.bin"), digest_of("fineweb_val_bytes_000001.bin")}));
  EXPECT_EQ(shards.Identity(),
            SplitIdentity({digest_of("fineweb_val_000000.bin"), digest_of("fineweb_val_000001.bin")}));
}

TEST(ShardSet, HasTheIdentityOfItsBytesWhateverAManifestSays) {
  const ScratchFolder folder;
  WriteBytes(folder / "fineweb_train_000000.bin", ShardBytes(Counting(0, 100)));
  WriteBytes(folder / "fineweb_train_000001.bin", ShardBytes(Counting(100, 50)));
  const auto digest_of = [&](const std::string& name) { return Sha256Hex(ReadBytes(folder / name)); };
  const std::string first = digest_of("fineweb_train_000000.bin"), second = digest_of("fineweb_train_000001.bin");
  const std::string computed = SplitIdentity({first, second});
  EXPECT_EQ(ShardSet(folder.path(), "train", 1024).Identity(), computed);
  EXPECT_EQ(ShardSet(folder.path(), "train", 1024).Part(3, 4).Identity(), computed);

  Manifest manifest;
  manifest.splits["train"].files = {{"fineweb_train_000000.bin", 100, 1224, first}};
  WriteBytes(folder / "manifest.json", manifest.ToJson());
  EXPECT_EQ(ShardSet(folder.path(), "train", 1024).Identity(), computed) << "one shard is not listed";
  manifest.splits["train"].files.push_back({"fineweb_train_000001.bin", 50, 1124, first});
  WriteBytes(folder / "manifest.json", manifest.ToJson());
  EXPECT_THAT(MessageOf<InputError>([&] { ShardSet(folder.path(), "train", 1024).Identity(); }),
              StrEq(folder / "fineweb_train_000001.bin" + ": is not the file that " + folder / "manifest.json" +
                    " lists: its SHA-256 is " + second + " and not " + first));
}

TEST(ShardSet, NoticesThatAFileChangedWhileItWasRead) {
  const ScratchFolder folder;
  const std::string path = folder / "fineweb_train_000000.bin";
  WriteBytes(path, ShardBytes(Counting(0, 100)));
  const auto overwrite = [&](const std::string& bytes) {  // in place
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  };
  const ShardSet shards(folder.path(), "train", 1024);
  const std::string identity = shards.Identity();
  shards.CheckUnchanged();
  // Touched, and another file under its name: what is read here is what it was.
  overwrite(ShardBytes(Counting(0, 100)));
  shards.CheckUnchanged();
  std::filesystem::rename(path, folder / "moved");
  WriteBytes(path, ShardBytes(Counting(1, 100)));
  shards.CheckUnchanged();
  std::filesystem::rename(folder / "moved", path);
  overwrite(ShardBytes(Counting(1, 100)));
  EXPECT_THAT(MessageOf<InputError>([&] { shards.CheckUnchanged(); }),
              StrEq(path + ": was changed while it was being read: what came out is of no known text"));
  EXPECT_NE(ShardSet(folder.path(), "train", 1024).Identity(), identity);
}

}  // namespace
}  // namespace fairway
