#include "common/tokens/case_ops.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

// Marks are written 1 2 3 4 here.
std::string Marked(std::string_view text) {
  std::string out;
  for (const char c : text) c >= '1' && c <= '4' ? out.append(kCaseMarks[c - '1']) : out.append(1, c);
  return out;
}

TEST(CaseOps, IsItsDefinition) {
  for (const auto& [text, coded] : std::vector<std::pair<std::string, std::string>>{
           {"", ""},
           {"the end", "the end"},
           {"The End", "1the 1end"},
           {"I", "1i"},
           {"NASA", "2nasa"},
           {"AB", "2ab"},
           {"iPhone", "i3phone"},
           {"McDonald", "1mc3donald"},
           {"ABc", "1a3bc"},
           {"aB", "a3b"},
           {"DON'T", "2don'1t"},
           {"\xc3\x89" "Tat \xc3\xa9T", "\xc3\x89" "1tat \xc3\xa9" "1t"},  // É is no ASCII letter, and ends a run
           {Marked("a1B4"), Marked("a41") + Marked("1b44")},
           {"\xee\x80\x80\xee\x80\x85", "\xee\x80\x80\xee\x80\x85"}}) {
    // Literal marks are given as they are.
    const std::string expected = text.find('\xee') == std::string::npos ? Marked(coded) : coded;
    EXPECT_EQ(EncodeCase(text), expected) << text;
    EXPECT_EQ(DecodeCase(expected), text);
  }
}

std::string RandomText(std::mt19937_64& random, bool valid) {
  static const std::string kParts[] = {"a", "b", "z", "A", "B", "Z", " ", "\n", "'", "7", "\xc3\xa9", "\xe6\x97\xa5", "\xf0\x9f\x98\x80",
                                       std::string(kCaseTitle), std::string(kCaseUpper), std::string(kCaseNext), std::string(kCaseEscape),
                                       "\xee\x80\x80", "\xee\x80\x85", "\xee", "\x80", "\x81", "\xee\x80"};
  std::string text;
  for (int i = static_cast<int>(random() % 20); i > 0; --i) text += kParts[random() % (valid ? 19 : 23)];
  return text;
}

TEST(CaseOps, GivesBackEveryText) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    const std::string text = RandomText(random, true);
    ASSERT_EQ(DecodeCase(EncodeCase(text)), text);
  }
}

TEST(CaseOps, DecodesInPartsWhatItDecodesAtOnce) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 5000; ++i) {
    const std::string coded = RandomText(random, false);  // any bytes, as a model may generate them
    CaseDecoder decoder;
    std::string text;
    for (size_t at = 0; at < coded.size();) {
      const size_t count = 1 + random() % 4;
      text += decoder.Decode(std::string_view(coded).substr(at, count));
      at += count;
    }
    ASSERT_EQ(text + decoder.Finish(), DecodeCase(coded));
  }
}

TEST(CaseByteCounter, CountsTheOriginalText) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 5000; ++i) {
    const std::string text = RandomText(random, true), coded = EncodeCase(text);
    CaseByteCounter whole, parts;
    ASSERT_EQ(whole.Count(coded), static_cast<int64_t>(text.size()));
    int64_t bytes = 0;
    for (size_t at = 0; at < coded.size();) {  // a character at a time
      size_t end = at + 1;
      while (end < coded.size() && (coded[end] & 0xc0) == 0x80) ++end;
      bytes += parts.Count(std::string_view(coded).substr(at, end - at));
      at = end;
    }
    ASSERT_EQ(bytes, static_cast<int64_t>(text.size()));
  }
}

TEST(CaseOps, AgreesWithThePublishedTransform) {
  const std::string path = std::string(SHARED_DIR) + "/golden_1855/caseops.jsonl";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "skipped: " << path << " is absent";
  std::ifstream lines(path);
  int cases = 0;
  for (std::string line; std::getline(lines, line); ++cases) {
    const auto golden = nlohmann::json::parse(line);
    EXPECT_EQ(EncodeCase(golden["text"].get<std::string>()), golden["transformed"].get<std::string>());
    EXPECT_EQ(DecodeCase(golden["transformed"].get<std::string>()), golden["text"].get<std::string>());
  }
  EXPECT_EQ(cases, 64);
}

}  // namespace
}  // namespace fairway
