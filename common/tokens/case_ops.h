// CaseOps: the reversible transform of letter case in front of the tokenizer (openai/parameter-golf pull request 1729).
//
// On each maximal run of ASCII letters; nothing else changes:
//   all lower case                          as it is
//   two or more letters, all upper case     U+E002 and the letters lowered
//   otherwise                               U+E001 if the first is upper; then the letters lowered, U+E003 before each
//                                           later upper one
// A literal U+E001 .. U+E004 is preceded by U+E004. So "The NASA iPhone" is "<1>the <2>nasa i<3>phone".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fairway {

inline constexpr std::string_view kCaseTitle = "\xee\x80\x81", kCaseUpper = "\xee\x80\x82", kCaseNext = "\xee\x80\x83",
                                  kCaseEscape = "\xee\x80\x84";
inline constexpr std::string_view kCaseMarks[] = {kCaseTitle, kCaseUpper, kCaseNext, kCaseEscape};

// REQUIRES: `text` is UTF-8.
std::string EncodeCase(std::string_view text);
// The inverse of EncodeCase. Takes any bytes: a model may put marks where the transform does not.
std::string DecodeCase(std::string_view coded);

// DecodeCase of a text that comes in parts, cut anywhere.
class CaseDecoder {
 public:
  // What is certain so far of the text; a mark that may begin at the end of `part` waits for the next one.
  std::string Decode(std::string_view part);
  // The rest.
  std::string Finish();

 private:
  std::string pending_;  // a part of a mark, or the characters behind an escape that are not whole yet
  bool escaped_ = false, upper_ = false, capital_ = false;
};

// Counts the bytes of the original text, given its transformed text in parts that are cut at characters: marks count
// nothing, but one that an escape protects counts its own three bytes; all other characters their UTF-8 length.
class CaseByteCounter {
 public:
  int64_t Count(std::string_view part);

 private:
  bool escaped_ = false;
};

}  // namespace fairway
