#include "common/tokenizer/write_shards.h"

#include <gmock/gmock.h>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/tokens/shards.h"
#include "tests/common/tokenizer/small_tokenizer.h"

namespace fairway {
namespace {

using testing::ElementsAre;
using testing::StrEq;

class WriteShardsTest : public testing::Test {
 protected:
  WriteShardsTest() {
    TrainOnOwnHeaders(folder_ / "m");
    tokenizer_ = std::make_unique<Tokenizer>(folder_ / "m");
    table_ = ByteTable::Read(folder_ / "m");
  }

  SplitRecord Write(const std::vector<std::string>& inputs, const std::string& split, int64_t shard_tokens = 1000,
                    int threads = 2, DocumentFormat format = {}) {
    DocumentSource documents(inputs, format);
    return WriteShards(documents, *tokenizer_, table_, {folder_ / "out", split, shard_tokens, threads}, [](int64_t) {});
  }

  // Name and bytes of every file of the output folder.
  std::map<std::string, std::string> Files() const {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "out"))
      files[entry.path().filename()] = ReadBytes(entry.path());
    return files;
  }

  std::vector<uint16_t> Tokens(const std::string& split) const {
    const ShardSet shards(folder_ / "out", split, tokenizer_->size());
    std::vector<uint16_t> tokens(shards.tokens());
    shards.Read(0, shards.tokens(), tokens.data());
    return tokens;
  }

  ScratchFolder folder_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ByteTable table_;
};

TEST_F(WriteShardsTest, WritesEachDocumentAfterBos) {
  const SplitRecord split = Write(OwnHeaders(), "train");
  std::vector<uint16_t> expected;
  int64_t bytes = 0;
  for (const std::string& path : OwnHeaders()) {
    const std::string text = ReadBytes(path);
    const std::vector<uint16_t> tokens = tokenizer_->EncodeDocument(text);
    expected.insert(expected.end(), tokens.begin(), tokens.end());
    bytes += static_cast<int64_t>(text.size());
  }
  EXPECT_EQ(Tokens("train"), expected);
  EXPECT_EQ(split.documents, static_cast<int64_t>(OwnHeaders().size()));
  EXPECT_EQ(split.text_bytes, bytes);
  EXPECT_EQ(split.tokens(), static_cast<int64_t>(expected.size()));
  EXPECT_EQ(split.files.size(), expected.size() / 1000 + 1);
  for (size_t i = 0; i + 1 < split.files.size(); ++i) EXPECT_EQ(split.files[i].tokens, 1000);
  for (const ShardRecord& file : split.files) {
    const std::string content = ReadBytes(folder_ / "out/" + file.name);
    EXPECT_EQ(file.bytes, static_cast<int64_t>(content.size()));
    EXPECT_EQ(file.sha256, Sha256Hex(std::string_view(content)));
  }
  // The manifest spares the reader the digests, and says the same.
  EXPECT_EQ(ShardSet(folder_ / "out", "train", 400).Identity(), split.Identity());
  std::filesystem::remove(folder_ / "out/manifest.json");
  EXPECT_EQ(ShardSet(folder_ / "out", "train", 400).Identity(), split.Identity());
  EXPECT_EQ(ByteTable::Read(folder_ / "out/byte_table.pb").size(), 400);
}

TEST_F(WriteShardsTest, DoesNotDependOnTheNumberOfThreads) {
  Write(OwnHeaders(), "train", 777, 1);
  const auto once = Files();
  Write(OwnHeaders(), "train", 777, 7);
  EXPECT_EQ(Files(), once);
}

TEST_F(WriteShardsTest, ReplacesItsSplitAndLeavesTheOther) {
  WriteBytes(folder_ / "short", "a short text");
  Write({folder_ / "short"}, "val");
  const std::string val = ReadBytes(folder_ / "out/fineweb_val_000000.bin");
  EXPECT_GT(Write(OwnHeaders(), "train").files.size(), 3u);
  // A longer earlier run leaves no shard behind, nor does a killed one.
  std::filesystem::create_directory(folder_ / "out/.fineweb_train.tmp");
  WriteBytes(folder_ / "out/.fineweb_train.tmp/fineweb_train_000009.bin", "half");
  const int64_t tokens = Write({folder_ / "short"}, "train").tokens();
  const auto files = Files();
  std::vector<std::string> names;
  for (const auto& [name, bytes] : files) names.push_back(name);
  EXPECT_THAT(names,
              ElementsAre("byte_table.pb", "fineweb_train_000000.bin", "fineweb_val_000000.bin", "manifest.json"));
  EXPECT_EQ(files.at("fineweb_val_000000.bin"), val);
  const Manifest manifest = Manifest::Read(folder_ / "out");
  EXPECT_EQ(manifest.splits.size(), 2u);
  EXPECT_EQ(manifest.splits.at("train").tokens(), tokens);
  EXPECT_EQ(manifest.splits.at("train").Identity(), manifest.splits.at("val").Identity());
}

TEST_F(WriteShardsTest, LeavesTheFolderAsItWasWhenADocumentIsNoText) {
  WriteBytes(folder_ / "bad", std::string("good\0good\0b\xff"
                                          "d\0good",
                                          18));
  Write(OwnHeaders(), "train");
  const auto before = Files();
  EXPECT_THAT(MessageOf<InputError>([&] { Write({folder_ / "bad"}, "train", 1000, 4, {.separator = '\0'}); }),
              StrEq(folder_ / "bad: the byte 0xff at offset 11 of the file is not UTF-8"));
  EXPECT_EQ(Files(), before);
}

TEST_F(WriteShardsTest, AHalfReplacedSplitIsNotRead) {
  WriteBytes(folder_ / "short", "a short text");
  Write({folder_ / "short"}, "val");
  Write(OwnHeaders(), "train");
  const auto whole = Files();
  // What takes room comes first: the disk has nothing to refuse once shards are replaced. Here a folder is in the way of one.
  std::filesystem::remove(folder_ / "out/byte_table.pb");
  std::filesystem::create_directory(folder_ / "out/byte_table.pb");
  EXPECT_THAT(MessageOf<IoError>([&] { Write({folder_ / "short"}, "train"); }), testing::HasSubstr("Is a directory"));
  EXPECT_THAT(MessageOf<InputError>([&] { Tokens("train"); }),
              StrEq(folder_ / "out: its split train is half replaced by another: tokenize-shard was interrupted; run it again"));
  EXPECT_FALSE(Tokens("val").empty());
  EXPECT_EQ(Manifest::Read(folder_ / "out").splits.size(), 2u);
  std::filesystem::remove(folder_ / "out/byte_table.pb");
  Write(OwnHeaders(), "train");
  EXPECT_EQ(Files(), whole);
}

TEST_F(WriteShardsTest, KeepsOneTokenizerToAFolder) {
  Write(OwnHeaders(), "train");
  const std::string first = tokenizer_->digest();
  TrainOnOwnHeaders(folder_ / "other", 401);
  tokenizer_ = std::make_unique<Tokenizer>(folder_ / "other");
  EXPECT_THAT(MessageOf<InputError>([&] { Write(OwnHeaders(), "val"); }),
              StrEq(folder_ / "out/manifest.json: the split train was made with another tokenizer (SHA-256 " + first +
                    "); one folder holds one tokenizer's ids"));
  Write(OwnHeaders(), "train");  // the split itself may change its tokenizer
}

TEST_F(WriteShardsTest, KeepsOthersOutOfTheFolder) {
  Write(OwnHeaders(), "train");
  const OutputFile other(folder_ / "out/manifest.json");
  EXPECT_THAT(MessageOf<IoError>([&] { Write(OwnHeaders(), "val"); }),
              StrEq(folder_ / "out/manifest.json: another process is writing it"));
}

TEST(WriteShards, GivesTheKnownDigestOfTheRealDocuments) {
  const std::string shared = std::string(SHARED_DIR) + "/fineweb/";
  if (!std::filesystem::exists(shared + "verify_docs.jsonl")) GTEST_SKIP() << "skipped: " << shared << " is absent";
  const ScratchFolder folder;
  const std::string model = shared + "fineweb_1024_bpe.model";
  DocumentSource documents({shared + "verify_docs.jsonl"}, {.key = "text"});
  const SplitRecord split =
      WriteShards(documents, Tokenizer(model), ByteTable::Read(model), {folder / "out", "val"}, [](int64_t) {});
  EXPECT_EQ(split.documents, 200);
  EXPECT_EQ(split.tokens(), 628457);
  EXPECT_EQ(split.corpus_sha256, "d20c996a4eed293d9ae4fff9c0aec8c1b49a3190895f2a146a5f70695a750f22");
  EXPECT_EQ(Sha256Hex(std::string_view(ReadBytes(folder / "out/fineweb_val_000000.bin")).substr(kShardHeaderBytes)),
            "4163b25c2728d9b1c1876e1e3345b6c6d75bd6f033f4b1ab81aa08a44036925e");
}

}  // namespace
}  // namespace fairway
