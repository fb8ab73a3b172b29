#include "common/base/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>

namespace fairway {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(StringPrintf, IsPrintfOfAnyLength) {
  EXPECT_EQ(StringPrintf("step:%d/%d loss:%.4f", 5, 20, 1.23456), "step:5/20 loss:1.2346");
  EXPECT_EQ(StringPrintf("%s", ""), "");
  const std::string long_text(100'000, 'x');
  EXPECT_EQ(StringPrintf("<%s>", long_text.c_str()), "<" + long_text + ">");
}

TEST(Split, TrimsPartsAndDropsEmptyOnes) {
  EXPECT_THAT(Split("a, b", ','), ElementsAre("a", "b"));
  EXPECT_THAT(Split(" a b ,,\t,c\r\n", ','), ElementsAre("a b", "c"));
  EXPECT_THAT(Split("alone", ','), ElementsAre("alone"));
  EXPECT_THAT(Split("", ','), IsEmpty());
  EXPECT_THAT(Split(" , ,", ','), IsEmpty());
}

TEST(Trim, TakesBlanksOffBothEndsAlone) {
  EXPECT_EQ(Trim(" \t a  b \r\n"), "a  b");
  EXPECT_EQ(Trim("a"), "a");
  EXPECT_EQ(Trim(" \t\r\n"), "");
  EXPECT_EQ(Trim(""), "");
}

TEST(Join, PutsTheSeparatorBetween) {
  EXPECT_EQ(Join({"a", "b", "a"}, ", "), "a, b, a");
  EXPECT_EQ(Join({"a"}, ", "), "a");
  EXPECT_EQ(Join({"", ""}, ","), ",");
  EXPECT_EQ(Join({}, ", "), "");
}

TEST(ParseInt, TakesWholeNumbersOfItsRange) {
  const std::pair<const char*, int64_t> good[] = {{"0", 0},
                                                  {"-0", 0},
                                                  {"007", 7},
                                                  {"-12", -12},
                                                  {"9223372036854775807", std::numeric_limits<int64_t>::max()},
                                                  {"-9223372036854775808", std::numeric_limits<int64_t>::min()}};
  for (const auto& [text, expected] : good) {
    int64_t value = 99;
    EXPECT_TRUE(ParseInt(text, &value)) << text;
    EXPECT_EQ(value, expected) << text;
  }
}

TEST(ParseInt, RefusesAllElse) {
  for (const char* text : {"", "-", "+1", " 1", "1 ", "1\n", "1.0", "1e3", "0x10", "1,000", "abc", "1a", "--1",
                           "9223372036854775808", "-9223372036854775809", "99999999999999999999"}) {
    int64_t value;
    EXPECT_FALSE(ParseInt(text, &value)) << "'" << text << "'";
  }
  int64_t value;
  EXPECT_FALSE(ParseInt(std::string_view("1\0", 2), &value));
}

TEST(ParseDouble, TakesFiniteDecimals) {
  const std::pair<const char*, double> good[] = {{"0", 0},
                                                 {"-1.5", -1.5},
                                                 {".5", 0.5},
                                                 {"5.", 5},
                                                 {"1e-8", 1e-8},
                                                 {"1E3", 1000},
                                                 {"1.7976931348623157e308", std::numeric_limits<double>::max()},
                                                 {"5e-324", 5e-324}};
  for (const auto& [text, expected] : good) {
    double value = 99;
    EXPECT_TRUE(ParseDouble(text, &value)) << text;
    EXPECT_EQ(value, expected) << text;
  }
}

TEST(ParseDouble, RefusesAllElse) {
  for (const char* text : {"",     ".",   "-",    "+1",       " 1",  "1 ",  "1.5x",   "1e",    "0x1p3",  "1,5",
                           "fast", "inf", "-inf", "infinity", "nan", "NaN", "nan(1)", "1e309", "-1e309", "1e-400"}) {
    double value;
    EXPECT_FALSE(ParseDouble(text, &value)) << "'" << text << "'";
  }
}

TEST(ShortestDouble, IsShortAndReadsBackTheSame) {
  EXPECT_EQ(ShortestDouble(0.04), "0.04");
  EXPECT_EQ(ShortestDouble(1e-8), "1e-08");
  EXPECT_EQ(ShortestDouble(3), "3");
  EXPECT_EQ(ShortestDouble(10000), "10000");
  EXPECT_EQ(ShortestDouble(-0.5), "-0.5");
  EXPECT_EQ(ShortestDouble(0.1 + 0.2), "0.30000000000000004");
  std::mt19937_64 generator(1);
  for (int i = 0; i < 10'000; ++i) {
    const uint64_t bits = generator();
    double value, again;
    static_assert(sizeof bits == sizeof value);
    std::memcpy(&value, &bits, sizeof value);
    if (!std::isfinite(value)) continue;
    ASSERT_TRUE(ParseDouble(ShortestDouble(value), &again)) << ShortestDouble(value);
    ASSERT_EQ(again, value);
  }
}

TEST(ParseBytes, TakesThousandsMillionsAndBillions) {
  int64_t value = -1;
  for (const auto& [text, bytes] : {std::pair<const char*, int64_t>{"0", 0}, {"123", 123}, {"2K", 2000}, {"800M", 800'000'000},
                                    {"4G", 4'000'000'000}, {"9223372036G", 9'223'372'036'000'000'000}}) {
    EXPECT_TRUE(ParseBytes(text, &value)) << text;
    EXPECT_EQ(value, bytes);
  }
  for (const char* text : {"", "G", "-1", "1.5G", "4g", "4GB", "4 G", "4T", "9223372037G", "99999999999999999999"})
    EXPECT_FALSE(ParseBytes(text, &value)) << text;
}

TEST(Printable, ShowsWhatATerminalWouldObey) {
  for (const char* text : {"", "plain", "caf\xc3\xa9 \xe6\x9c\xa8 \xf0\x9f\x98\x80", "\\n"}) {
    EXPECT_TRUE(IsPrintable(text)) << text;
    EXPECT_EQ(Printable(text), text);
  }
  for (const auto& [text, shown] : std::vector<std::pair<std::string, std::string>>{
           {"a\nb", "a\\nb"},
           {"\t\r\x1b[2J\x7f", "\\t\\r\\x1b[2J\\x7f"},
           {std::string("\0a", 2), "\\x00a"},
           {"caf\xe9", "caf\\xe9"},
           {"\xc0\x80", "\\xc0\\x80"},          // overlong
           {"\xed\xa0\x80", "\\xed\\xa0\\x80"},  // a surrogate
           {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"},
           {"\xc2\x85", "\\xc2\\x85"},  // a control character of two bytes
           {"\xe6\x9c", "\\xe6\\x9c"}}) {
    EXPECT_FALSE(IsPrintable(text)) << shown;
    EXPECT_EQ(Printable(text), shown);
  }
}

TEST(Shorten, CutsBetweenCharacters) {
  EXPECT_EQ(Shorten("abc", 3), "abc");
  EXPECT_EQ(Shorten("abcd", 3), "abc…");
  EXPECT_EQ(Shorten("ab\xc3\xa9", 3), "ab…");
  EXPECT_EQ(Shorten("\xc3\xa9", 1), "…");
  EXPECT_EQ(Shorten("", 0), "");
}

TEST(WithCommas, GroupsByThree) {
  EXPECT_EQ(WithCommas(0), "0");
  EXPECT_EQ(WithCommas(999), "999");
  EXPECT_EQ(WithCommas(1000), "1,000");
  EXPECT_EQ(WithCommas(16'000'000), "16,000,000");
  EXPECT_EQ(WithCommas(-999), "-999");
  EXPECT_EQ(WithCommas(-1234567), "-1,234,567");
  EXPECT_EQ(WithCommas(std::numeric_limits<int64_t>::min()), "-9,223,372,036,854,775,808");
}

// What a shell makes of `words` on a command line: its arguments, a zero byte after each.
std::string ShellReads(const std::string& words) {
  std::FILE* shell = popen(("printf '%s\\0' " + words).c_str(), "r");
  std::string read;
  for (int c; (c = std::fgetc(shell)) != EOF;) read += static_cast<char>(c);
  pclose(shell);
  return read;
}

TEST(ShellQuote, ReadsBackAsTheSameWord) {
  std::string every_byte;
  for (int c = 1; c < 256; ++c) every_byte += static_cast<char>(c);
  for (const std::string& word : {std::string(),
                                  std::string("a b"),
                                  std::string("'"),
                                  std::string("''\"\""),
                                  std::string("it's"),
                                  std::string("\n"),
                                  std::string("two\nlines\n"),
                                  std::string("-n"),
                                  std::string("--out"),
                                  std::string("$HOME"),
                                  std::string("`date`"),
                                  std::string("a;b&c|d"),
                                  std::string("*"),
                                  std::string("~"),
                                  std::string("#x"),
                                  std::string("\\"),
                                  std::string("!"),
                                  std::string("{a,b}"),
                                  std::string("\t"),
                                  std::string("\xff\xc3\xa9"),
                                  every_byte}) {
    EXPECT_EQ(ShellReads(ShellQuote(word) + " end"), word + std::string("\0end\0", 5)) << ShellQuote(word);
  }
}

TEST(ShellQuote, LeavesPlainWordsAlone) {
  for (const char* word : {"train", "--num-layers=11", "../a_b/c-1.ckpt", "ema:0.5,swa:0.5", "50%", "me@x", "1+2"})
    EXPECT_EQ(ShellQuote(word), word);
  EXPECT_EQ(ShellQuote(""), "''");
  EXPECT_EQ(ShellQuote("it's"), "'it'\\''s'");
}

TEST(Printable, ShowsControlCharacters) {
  EXPECT_EQ(Printable("a\nb\x1b[1m\x7f"), "a\\nb\\x1b[1m\\x7f");
  EXPECT_EQ(Printable("plain: \u00fc 'x' \\"), "plain: \u00fc 'x' \\");
}

TEST(ToHex, IsLowerCaseTwoDigitsAByte) {
  EXPECT_EQ(ToHex(std::string_view("\x00\x09\xaf\xff", 4)), "0009afff");
  EXPECT_EQ(ToHex(""), "");
}

}  // namespace
}  // namespace fairway
