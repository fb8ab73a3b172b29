// Text helpers that every module may use. printf formats, which also define the log lines of the field, rather than fmt: the wheel of
// LibTorch brings another copy of it. int64_t is printed by %jd and uint64_t by %ju, which fit them whichever width long has.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fairway {

std::string StringPrintf(const char* format, ...) __attribute__((format(printf, 1, 2)));

// "a, b" -> {"a", "b"}: parts between separators, blanks trimmed, empty parts dropped.
std::vector<std::string> Split(std::string_view text, char separator);
std::string Trim(std::string_view text);
std::string Join(const std::vector<std::string>& parts, std::string_view separator);

// "Int6" -> "int6": of ASCII alone.
std::string Lower(std::string_view text);
// Whether one of `parts` occurs in the text.
bool Contains(std::string_view text, std::initializer_list<std::string_view> parts);
// The text before the first line break: LibTorch appends a stack trace to its messages, and a user is told the cause.
std::string FirstLine(std::string_view text);

// The whole text as a number, or false: no blanks, no trailing characters, no overflow, no inf or nan.
bool ParseInt(std::string_view text, int64_t* value);
bool ParseDouble(std::string_view text, double* value);
// `value` as a whole number, a seed or a count for example; nothing where it is none, or beyond what a double holds exactly.
std::optional<int64_t> WholeNumber(double value);
// A number of bytes: digits, and K, M or G for thousands, millions or billions of them.
bool ParseBytes(std::string_view text, int64_t* value);

// The shortest decimal text that reads back as the same double: 0.04, 1e-08, 3.
std::string ShortestDouble(double value);

// 1234567 -> "1,234,567".
std::string WithCommas(int64_t value);

// `word` quoted so that a POSIX shell reads it back as one word; unchanged where no quoting is needed.
std::string ShellQuote(std::string_view word);

// Whether `text` is UTF-8 without control characters: fit for a terminal, for one line, and for JSON.
bool IsPrintable(std::string_view text);
// `text` made so: what is neither printable nor part of UTF-8 is written as \n, \r, \t or \xNN.
std::string Printable(std::string_view text);
// At most `bytes` of it, the rest as "…"; never half a character.
std::string Shorten(std::string_view text, size_t bytes);

// Lower-case hexadecimal.
std::string ToHex(std::string_view bytes);

}  // namespace fairway
