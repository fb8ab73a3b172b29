#include "common/tokens/split_text.h"

#include <gmock/gmock.h>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/tokens/manifest.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

using testing::StrEq;

class SplitTextTest : public testing::Test {
 protected:
  SplitTextTest() {
    // BOS has no bytes, 2 has one byte, 3 has two.
    table_.pieces = {{.text = "<unk>", .boundary = true}, {.text = "<s>", .boundary = true}, {.text = "a", .bytes = 1}, {.text = "bb", .bytes = 2}};
    Write("fineweb_val_000000.bin", {1, 2, 3, 2, 1});
    Write("fineweb_val_000001.bin", {3, 3});
  }

  ShardRecord Write(const std::string& name, const std::vector<uint16_t>& tokens) {
    const std::string bytes = ShardBytes(tokens);
    WriteBytes(folder_ / name, bytes);
    return {name, static_cast<int64_t>(tokens.size()), static_cast<int64_t>(bytes.size()), Sha256Hex(std::string_view(bytes))};
  }
  void Claim(const SplitRecord& split) {
    Manifest manifest;
    manifest.splits["val"] = split;
    WriteBytes(folder_ / "manifest.json", manifest.ToJson());
  }
  SplitText Check() const { return CheckText(ShardSet(folder_.path(), "val", 4), table_); }
  SplitRecord Record() {
    SplitRecord record{.files = {Write("fineweb_val_000000.bin", {1, 2, 3, 2, 1}), Write("fineweb_val_000001.bin", {3, 3})}, .text_bytes = 9};
    record.token_bytes = 8;
    record.text_sha256 = "abcd";
    return record;
  }

  ScratchFolder folder_;
  ByteTable table_;
};

TEST_F(SplitTextTest, IsUnprovedWithoutAManifestThatCountedIt) {
  EXPECT_EQ(Check().bytes, 8);
  EXPECT_FALSE(Check().proved);
  EXPECT_EQ(Check().text_bytes, -1);
  SplitRecord record = Record();
  record.token_bytes = -1;  // as of downloaded shards
  Claim(record);
  EXPECT_FALSE(Check().proved);
  // A manifest of fewer shards.
  record = Record();
  record.files.pop_back();
  Claim(record);
  EXPECT_FALSE(Check().proved);
}

TEST_F(SplitTextTest, IsProvedByTheManifestOfTheseShards) {
  Claim(Record());
  const SplitText text = Check();
  EXPECT_TRUE(text.proved);
  EXPECT_EQ(text.bytes, 8);
  EXPECT_EQ(text.text_bytes, 9);
  EXPECT_EQ(text.text_digest, "abcd");
  // Another table counts other bytes.
  table_.pieces[3].bytes = 3;
  EXPECT_THAT(MessageOf<InputError>([&] { Check(); }),
              StrEq(folder_ / "manifest.json: the tokens of the split val are 8 bytes of text, but 11 by the byte table that is here"));
}

TEST_F(SplitTextTest, CountsTheSidecar) {
  SplitRecord record = Record();
  record.token_bytes = 7;
  record.byte_files = {Write("fineweb_val_bytes_000000.bin", {0, 1, 2, 1, 0}), Write("fineweb_val_bytes_000001.bin", {2, 1})};
  Claim(record);
  EXPECT_EQ(Check().bytes, 7);
  EXPECT_TRUE(Check().proved);
  // Another sidecar of the same sum is not the one that was proved.
  Write("fineweb_val_bytes_000001.bin", {1, 2});
  EXPECT_THROW(Check(), InputError);  // the manifest lists its digest
  record.byte_files.clear();
  Claim(record);
  EXPECT_FALSE(Check().proved);
  // Left out, the table counts more.
  std::filesystem::remove(folder_ / "fineweb_val_bytes_000000.bin");
  std::filesystem::remove(folder_ / "fineweb_val_bytes_000001.bin");
  EXPECT_THROW(Check(), InputError);
}

// A copy of the tokens, or the sidecar of other shards, would make the denominator as large as one likes.
TEST_F(SplitTextTest, RefusesASidecarThatAPieceCannotMean) {
  table_.exact = true;
  Write("fineweb_val_bytes_000000.bin", {0, 1, 2, 7, 4});
  Write("fineweb_val_bytes_000001.bin", {10, 10});
  EXPECT_EQ(Check().bytes, 34);  // a character of four bytes may be counted with any of its byte pieces
  Write("fineweb_val_bytes_000001.bin", {10, 11});
  EXPECT_THAT(MessageOf<InputError>([&] { Check(); }),
              StrEq(folder_.path() + ": the byte sidecar of the split val gives token 6 a size of 11 bytes, but its piece has 2: it is the "
                                     "sidecar of other shards, or no sidecar"));
  table_.exact = false;
  EXPECT_EQ(Check().bytes, 35);  // a run of blanks, which the tokenizer folds into one
}

TEST_F(SplitTextTest, RefusesATableThatCannotCount) {
  table_.pieces = {{.text = "<0xE2>", .bytes = 1, .byte = true}, {.text = "<s>", .boundary = true},
                   {.text = "<0x96>", .bytes = 1, .byte = true}, {.text = "<0x81>", .bytes = 1, .byte = true}};
  EXPECT_THAT(MessageOf<InputError>([&] { Check(); }), testing::HasSubstr("a blank would count three bytes"));
}

}  // namespace
}  // namespace fairway
