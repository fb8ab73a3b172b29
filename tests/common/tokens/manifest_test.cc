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
  manifest.splits["train"] = {{{"a.bin", 1, 1026, "11"}, {"b.bin", 2, 1028, "22"}}, 3, 400, "cc", "dd", "ee", 390, 2, true, {}};
  manifest.splits["val"] = {{{"c.bin", 4, 1032, "33"}}, -1, -1, "", "dd", "", -1, -1, false, {{"d.bin", 4, 1032, "44"}}};
  manifest.splits["train"].tokenizer_bytes = 5000;
  manifest.splits["train"].tokenizer_documents = 9;
  manifest.splits["train"].tokenizer_shared = 3;
  WriteBytes(folder / "manifest.json", manifest.ToJson());
  const Manifest read = Manifest::Read(folder.path());
  EXPECT_EQ(read.ToJson(), manifest.ToJson());
  EXPECT_EQ(read.splits.at("train").documents, 3);
  EXPECT_EQ(read.splits.at("val").text_bytes, -1);
  EXPECT_EQ(read.Find("train", "b.bin")->sha256, "22");
  EXPECT_EQ(read.splits.at("train").token_bytes, 390);
  EXPECT_EQ(read.splits.at("train").changed_documents, 2);
  EXPECT_EQ(read.splits.at("train").text_sha256, "ee");
  EXPECT_TRUE(read.splits.at("train").case_ops);
  EXPECT_EQ(read.splits.at("train").tokenizer_bytes, 5000);
  EXPECT_EQ(read.splits.at("train").tokenizer_documents, 9);
  EXPECT_EQ(read.splits.at("train").tokenizer_shared, 3);
  EXPECT_EQ(read.splits.at("val").tokenizer_documents, -1);
  EXPECT_EQ(read.splits.at("val").tokenizer_shared, -1);
  EXPECT_EQ(read.splits.at("train").BytesIdentity(), "");
  EXPECT_EQ(read.splits.at("val").token_bytes, -1);
  EXPECT_FALSE(read.splits.at("val").case_ops);
  EXPECT_EQ(read.splits.at("val").BytesIdentity(), SplitIdentity({"44"}));
  EXPECT_EQ(read.Find("val", "d.bin")->sha256, "44");
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
  WriteBytes(folder / "manifest.json", R"({"format": 3, "splits": {}})");
  EXPECT_EQ(MessageOf<InputError>([&] { Manifest::Read(folder.path()); }),
            folder / "manifest.json: is a manifest of format 3; this program reads formats 1 and 2");
  for (const char* extra : {R"("case_ops": 1)", R"("byte_files": {})", R"("text_sha256": "no digest")", R"("text_bytes": 3, "token_bytes": 4)",
                            R"("documents": 3, "tokenizer_documents": 9, "tokenizer_shared": 4)", R"("documents": 3, "tokenizer_documents": 9)",
                            R"("tokenizer_bytes": -1)"}) {
    WriteBytes(folder / "manifest.json", R"({"format": 2, "splits": {"val": {"files": [], "tokenizer_sha256": "", )" + std::string(extra) + "}}}");
    EXPECT_NE(MessageOf<InputError>([&] { Manifest::Read(folder.path()); }), "") << extra;
  }
}

TEST(Manifest, ReadsFormat1) {
  const ScratchFolder folder;
  WriteBytes(folder / "manifest.json",
             R"({"format": 1, "splits": {"val": {"files": [{"name": "a.bin", "tokens": 1, "bytes": 1026, "sha256": "11"}], "tokenizer_sha256": "", "text_bytes": 7}}})");
  const Manifest manifest = Manifest::Read(folder.path());
  EXPECT_EQ(manifest.splits.at("val").text_bytes, 7);
  EXPECT_EQ(manifest.splits.at("val").token_bytes, -1);
}

}  // namespace
}  // namespace fairway
