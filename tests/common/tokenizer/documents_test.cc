#include "common/tokenizer/documents.h"

#include <gmock/gmock.h>

#include "common/base/error.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

using testing::ElementsAre;
using testing::StrEq;

std::vector<std::string> All(DocumentSource& source) {
  std::vector<std::string> texts;
  for (RawDocument document; source.Next(&document);) texts.push_back(TextOf(document, source.format()));
  return texts;
}

class DocumentsTest : public testing::Test {
 protected:
  std::vector<std::string> Read(const std::string& bytes, const DocumentFormat& format) {
    WriteBytes(folder_ / "in", bytes);
    DocumentSource source({folder_ / "in"}, format);
    return All(source);
  }
  std::string Refused(const std::string& bytes, const DocumentFormat& format) {
    return MessageOf<InputError>([&] { Read(bytes, format); });
  }

  ScratchFolder folder_;
  const DocumentFormat whole_, json_{.key = "text"}, nul_{.separator = '\0'};
};

TEST_F(DocumentsTest, AreWholeFiles) {
  WriteBytes(folder_ / "a", "one\ntwo\n");
  WriteBytes(folder_ / "b", "three");
  DocumentSource source({folder_ / "a", folder_ / "b", folder_ / "a"}, whole_);
  EXPECT_EQ(source.total_bytes(), 21);
  EXPECT_EQ(source.Digest(), Sha256Hex(std::string_view("one\ntwo\nthreeone\ntwo\n")));
  EXPECT_THAT(All(source), ElementsAre("one\ntwo\n", "three", "one\ntwo\n"));
  source.Rewind();
  EXPECT_EQ(All(source).size(), 3u);
}

TEST_F(DocumentsTest, LieBetweenSeparators) {
  using std::string_literals::operator""s;
  EXPECT_THAT(Read("one\0two"s, nul_), ElementsAre("one", "two"));
  EXPECT_THAT(Read("one\0two\0"s, nul_), ElementsAre("one", "two"));
  EXPECT_THAT(Read("one\0\0two"s, nul_), ElementsAre("one", "", "two"));
  EXPECT_THAT(Read("\0one"s, nul_), ElementsAre("", "one"));
  EXPECT_THAT(Read("\0"s, nul_), ElementsAre(""));
  EXPECT_THAT(Read("one", nul_), ElementsAre("one"));
}

TEST_F(DocumentsTest, StandInJsonLines) {
  EXPECT_THAT(Read(R"({"id": 3, "text": "one\ntw\u00f6"})"
                   "\n"
                   R"({"text": ""})",
                   json_),
              ElementsAre("one\ntw\xc3\xb6", ""));
  EXPECT_THAT(Read("{\"text\": \"a\"}\r\n", json_), ElementsAre("a"));
  const std::string in = folder_ / "in";
  EXPECT_THAT(Refused("{\"text\": \"a\"}\n\n", json_), StrEq(in + ":2: the line is not a JSON object"));
  EXPECT_THAT(Refused("{\"text\": \"a\"}\n[\"text\"]\n", json_), StrEq(in + ":2: the line is not a JSON object"));
  EXPECT_THAT(Refused("{\"text\": \"a\"", json_), StrEq(in + ":1: the line is not a JSON object"));
  for (const char* half : {"\\ud83d", "\\ud83d\\u0041", "\\udc00 a", "\\ud83dx"})
    EXPECT_THAT(Refused("{\"text\": \"a" + std::string(half) + "\"}", json_),
                StrEq(in + ":1: a text of the line has half of a surrogate pair (\\ud800 to \\udfff), which is no character"))
        << half;
  EXPECT_THAT(Read("{\"text\": \"\\ud83d\\ude00\"}", json_), ElementsAre("\xf0\x9f\x98\x80"));
  EXPECT_THAT(Refused(R"({"text": "a", "id": 1, "text": "b"})", json_), StrEq(in + ":1: the line has the name \"text\" twice"));
  EXPECT_THAT(Refused("{\"text\": \"a\", \"x\": " + std::string(40, '[') + std::string(40, ']') + "}", json_),
              StrEq(in + ":1: the line nests deeper than 32 levels"));
  EXPECT_THAT(Refused("{\"tax\": \"a\"}", json_), StrEq(in + ":1: the line's object has no text under the key 'text'"));
  EXPECT_THAT(Refused("{\"text\": 3}", json_), StrEq(in + ":1: the line's object has no text under the key 'text'"));
}

TEST_F(DocumentsTest, LieBetweenBlankLines) {
  const DocumentFormat blank{.blank_lines = true};
  EXPECT_THAT(Read("one\ntwo\n\nthree", blank), ElementsAre("one\ntwo", "three"));
  EXPECT_THAT(Read("\n \n\none\n\n\n\t \r\n two  \n  three\n", blank), ElementsAre("one", " two  \n  three"));
  EXPECT_THAT(Read("one\r\n\r\ntwo\r\n", blank), ElementsAre("one\r", "two\r"));
  EXPECT_THAT(Read("\n\n", blank), ElementsAre());
  EXPECT_THAT(Read("one\n\n", blank), ElementsAre("one"));
  WriteBytes(folder_ / "a", "one\n\ntwo");
  WriteBytes(folder_ / "b", "\n");
  DocumentSource source({folder_ / "a", folder_ / "b", folder_ / "a"}, blank);
  EXPECT_THAT(All(source), ElementsAre("one", "two", "one", "two"));
  source.Rewind();
  RawDocument document;
  ASSERT_TRUE(source.Next(&document) && source.Next(&document));
  EXPECT_EQ(document.offset, 5);
  EXPECT_EQ(*document.path, folder_ / "a");
}

// The draw is the text's own: another share takes more of them, other documents around change nothing.
TEST(Takes, DrawsByTheText) {
  DocumentFormat train{.holdout = 0.25}, val{.holdout = 0.25, .held_out = true}, more{.holdout = 0.5, .held_out = true};
  int held_out = 0;
  for (int i = 0; i < 2000; ++i) {
    const std::string text = "document " + std::to_string(i);
    EXPECT_NE(Takes(train, text), Takes(val, text));
    if (Takes(val, text)) {
      EXPECT_TRUE(Takes(more, text));
    }
    held_out += Takes(val, text);
  }
  EXPECT_NEAR(held_out, 500, 100);
  EXPECT_TRUE(Takes({}, "any"));
  // SHA-256 of "abc" begins ba7816bf, of "" e3b0c442: at .728 and .889.
  EXPECT_FALSE(Takes({.holdout = 0.728, .held_out = true}, "abc"));
  EXPECT_TRUE(Takes({.holdout = 0.729, .held_out = true}, "abc"));
  EXPECT_TRUE(Takes({.holdout = 0.889, .held_out = true}, "") == false);
  EXPECT_TRUE(Takes({.holdout = 0.890, .held_out = true}, ""));
}

TEST(ParseShare, TakesPercentAndFractions) {
  EXPECT_EQ(DocumentFormat::ParseShare("5%"), 0.05);
  EXPECT_EQ(DocumentFormat::ParseShare("0.125"), 0.125);
  for (const char* text : {"", "%", "0", "0%", "100%", "1", "-5%", "5 %", "five", "nan"})
    EXPECT_THROW(DocumentFormat::ParseShare(text), UsageError) << text;
}

TEST_F(DocumentsTest, SayWhatAFileIsThatHoldsNoText) {
  using std::string_literals::operator""s;
  const std::string in = folder_ / "in";
  const std::string tail = ", not text: pass its content instead (";
  for (const DocumentFormat& format : {whole_, json_}) {
    EXPECT_THAT(Refused("\x1f\x8b\x08\0\0"s, format), StrEq(in + ": is compressed by gzip" + tail + "gzip -dc FILE | tokenize-shard ... -)"));
    EXPECT_THAT(Refused("\x28\xb5\x2f\xfd\x04"s, format), StrEq(in + ": is compressed by zstd" + tail + "zstd -dc FILE | tokenize-shard ... -)"));
    EXPECT_THAT(Refused("\xfd""7zXZ\0\0"s, format), StrEq(in + ": is compressed by xz" + tail + "xz -dc FILE | tokenize-shard ... -)"));
    EXPECT_THAT(Refused("BZh91AY&SY\x01"s, format), StrEq(in + ": is compressed by bzip2" + tail + "bzip2 -dc FILE | tokenize-shard ... -)"));
    EXPECT_THAT(Refused("PK\x03\x04\x14"s, format), StrEq(in + ": is a ZIP archive" + tail + "unzip -p FILE | tokenize-shard ... -)"));
    EXPECT_THAT(Refused("\xff\xfeh\0i\0"s, format),
                StrEq(in + ": is UTF-16" + tail + "iconv -f UTF-16 -t UTF-8 FILE | tokenize-shard ... -)"));
    EXPECT_THAT(Refused("PAR1\x15\x04PAR1", format),
                StrEq(in + ": is a Parquet file; text files and JSON lines are read: write its column of texts as JSON lines first"));
  }
  // Text may begin so.
  EXPECT_THAT(Read("PAR1 and PK, BZh", whole_), ElementsAre("PAR1 and PK, BZh"));
}

TEST_F(DocumentsTest, AreUtf8) {
  const std::string in = folder_ / "in";
  EXPECT_THAT(Refused("caf\xe9 au lait", whole_), StrEq(in + ": the byte 0xe9 at offset 3 of the file is not UTF-8"));
  EXPECT_THAT(Refused(std::string("ok\0caf\xe9", 7), nul_),
              StrEq(in + ": the byte 0xe9 at offset 6 of the file is not UTF-8"));
  EXPECT_THAT(Refused("{\"text\": \"\"}\n{\"text\": \"\xff\"}", json_),
              StrEq(in + ":2: the byte 0xff at offset 23 of the file is not UTF-8"));
}

TEST_F(DocumentsTest, AreNotThere) {
  WriteBytes(folder_ / "empty", "");
  const auto open = [&](const std::string& name) { DocumentSource({folder_ / name}, whole_); };
  EXPECT_THAT(MessageOf<InputError>([&] { open("empty"); }), StrEq(folder_ / "empty: is empty"));
  EXPECT_THAT(MessageOf<IoError>([&] { open("absent"); }), StrEq(folder_ / "absent: No such file or directory"));
  EXPECT_THAT(MessageOf<IoError>([&] { open(""); }), StrEq(folder_ / ": Is a directory"));
}

TEST(FindInvalidUtf8, TakesExactlyWhatUnicodeTakes) {
  // Every code point in its one encoding; surrogates are none.
  for (uint32_t c = 0; c <= 0x10ffff; ++c) {
    std::string text;
    if (c < 0x80) {
      text = {static_cast<char>(c)};
    } else if (c < 0x800) {
      text = {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
    } else if (c < 0x10000) {
      text = {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
              static_cast<char>(0x80 | (c & 63))};
    } else {
      text = {static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
              static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
    }
    const bool surrogate = c >= 0xd800 && c < 0xe000;
    ASSERT_EQ(FindInvalidUtf8(text), surrogate ? 0 : std::string::npos) << c;
    if (!surrogate && text.size() > 1) {
      ASSERT_EQ(FindInvalidUtf8("ab" + text.substr(0, text.size() - 1)), 2u) << c;
      ASSERT_EQ(FindInvalidUtf8(text.substr(0, text.size() - 1) + "a"), 0u) << c;
    }
  }
  for (const char* bad : {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff"})
    EXPECT_EQ(FindInvalidUtf8(bad), 0u) << bad;
}

TEST(SetSeparator, TakesEscapesAndNumbers) {
  const auto parse = [](const char* text) {
    DocumentFormat format;
    format.SetSeparator(text);
    EXPECT_FALSE(format.blank_lines);
    return format.separator;
  };
  DocumentFormat format;
  format.SetSeparator("blank-line");
  EXPECT_TRUE(format.blank_lines);
  EXPECT_FALSE(format.separator);
  for (const auto& [text, byte] : std::vector<std::pair<std::string, char>>{{"\\0", '\0'},
                                                                            {"\\f", '\f'},
                                                                            {"\\n", '\n'},
                                                                            {"\\r", '\r'},
                                                                            {"\\t", '\t'},
                                                                            {"\\v", '\v'},
                                                                            {"0", '\0'},
                                                                            {"30", 30},
                                                                            {"255", '\xff'}})
    EXPECT_EQ(parse(text.c_str()), byte) << text;
  for (const char* text : {"", "\\", "\\x", "\\00", "256", "-1", "a", "1 ", "0x1e"})
    EXPECT_THROW(parse(text), UsageError) << text;
}

}  // namespace
}  // namespace fairway
