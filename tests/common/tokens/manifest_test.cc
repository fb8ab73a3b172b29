#include "common/tokens/manifest.h"

#include <gmock/gmock.h>

#include "common/base/error.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

TEST(Manifest, ReadsWhatItWrote) {
  const ScratchFolder folder;
  EXPECT_TRUE(Manifest::Read(folder.path()).splits.empty());
  Manifest manifest;
  manifest.splits["train"] = {{{"a.bin", 1, 1026, "11"}, {"b.bin", 2, 1028, "22"}}, 3, 400, "cc", "dd"};
  manifest.splits["val"] = {{{"c.bin", 4, 1032, "33"}}, -1, -1, "", "dd"};
  WriteBytes(folder / "manifest.json", manifest.ToJson());
  const Manifest read = Manifest::Read(folder.path());
  EXPECT_EQ(read.ToJson(), manifest.ToJson());
  EXPECT_EQ(read.splits.at("train").documents, 3);
  EXPECT_EQ(read.splits.at("val").text_bytes, -1);
  EXPECT_EQ(read.Find("train", "b.bin")->sha256, "22");
  EXPECT_EQ(read.Find("train", "c.bin"), nullptr);
  EXPECT_EQ(read.Find("test", "c.bin"), nullptr);
}

TEST(Manifest, RefusesWhatIsNone) {
  const ScratchFolder folder;
  for (const char* text : {"", "{", "[]", "{}", R"({"format": 1})", R"({"format": 1, "splits": {"val": {}}})",
                           R"({"format": 1, "splits": {"val": {"files": [{"name": 3}], "tokenizer_sha256": ""}}})"}) {
    WriteBytes(folder / "manifest.json", text);
    EXPECT_THAT(MessageOf<InputError>([&] { Manifest::Read(folder.path()); }),
                testing::StartsWith(folder / "manifest.json: is not a manifest of token shards: "))
        << text;
  }
  WriteBytes(folder / "manifest.json", R"({"format": 2, "splits": {}})");
  EXPECT_EQ(MessageOf<InputError>([&] { Manifest::Read(folder.path()); }),
            folder / "manifest.json: is a manifest of format 2; this program reads format 1");
}

}  // namespace
}  // namespace fairway
