#include "common/tokens/case_ops.h"

#include <algorithm>
#include <utility>

namespace fairway {
namespace {

constexpr std::string_view kMarkBegin = "\xee\x80";  // of all four
constexpr size_t kMarkBytes = 3;

bool IsUpper(char c) {
  return c >= 'A' && c <= 'Z';
}
bool IsLower(char c) {
  return c >= 'a' && c <= 'z';
}
bool IsLetter(char c) {
  return IsUpper(c) || IsLower(c);
}
char Lower(char c) {
  return IsUpper(c) ? static_cast<char>(c + ('a' - 'A')) : c;
}
char Upper(char c) {
  return IsLower(c) ? static_cast<char>(c - ('a' - 'A')) : c;
}

bool BeginsWithMark(std::string_view text) {
  return text.size() >= kMarkBytes && text.starts_with(kMarkBegin) && text[2] >= '\x81' && text[2] <= '\x84';
}

void AppendWord(std::string_view word, std::string& out) {
  if (word.size() > 1 && std::all_of(word.begin(), word.end(), IsUpper)) {
    out.append(kCaseUpper);
    for (const char c : word) out.push_back(Lower(c));
    return;
  }
  for (size_t i = 0; i < word.size(); ++i) {
    if (IsUpper(word[i])) out.append(i == 0 ? kCaseTitle : kCaseNext);
    out.push_back(Lower(word[i]));
  }
}

}  // namespace

std::string EncodeCase(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    while (end < text.size() && IsLetter(text[end])) ++end;
    if (end > at) {
      AppendWord(text.substr(at, end - at), out);
      at = end;
    } else if (BeginsWithMark(text.substr(at))) {
      out.append(kCaseEscape).append(text.substr(at, kMarkBytes));
      at += kMarkBytes;
    } else {
      out.push_back(text[at++]);
    }
  }
  return out;
}

std::string CaseDecoder::Decode(std::string_view part) {
  std::string text = std::move(pending_), out;
  pending_.clear();
  text.append(part);
  for (size_t at = 0; at < text.size();) {
    const std::string_view rest = std::string_view(text).substr(at);
    if (rest.size() < kMarkBytes && kMarkBegin.starts_with(rest.substr(0, 2))) {  // a mark, perhaps
      pending_ = rest;
      break;
    }
    if (BeginsWithMark(rest) && !escaped_) {
      const std::string_view mark = rest.substr(0, kMarkBytes);
      if (mark == kCaseEscape)
        escaped_ = true;
      else if (mark == kCaseUpper)
        upper_ = true;
      else
        capital_ = true;
      at += kMarkBytes;
      continue;
    }
    if (escaped_) {
      const size_t length = BeginsWithMark(rest) ? kMarkBytes : 1;
      out.append(rest.substr(0, length));
      escaped_ = upper_ = false;
      at += length;
      continue;
    }
    const char c = text[at++];
    if (IsLetter(c)) {
      out.push_back(upper_ || capital_ ? Upper(c) : c);
      capital_ = false;
    } else {
      out.push_back(c);
      upper_ = false;
    }
  }
  return out;
}

std::string CaseDecoder::Finish() {
  escaped_ = upper_ = capital_ = false;
  return std::exchange(pending_, {});
}

std::string DecodeCase(std::string_view coded) {
  CaseDecoder decoder;
  std::string text = decoder.Decode(coded);
  return text + decoder.Finish();
}

int64_t CaseByteCounter::Count(std::string_view part) {
  int64_t bytes = 0;
  while (!part.empty()) {
    const bool mark = BeginsWithMark(part);
    if (mark && !escaped_) {
      escaped_ = part.starts_with(kCaseEscape);
      part.remove_prefix(kMarkBytes);
      continue;
    }
    // The rest of a character behind an escape counts as the character itself.
    const size_t length = mark ? kMarkBytes : 1;
    bytes += static_cast<int64_t>(length);
    escaped_ = false;
    part.remove_prefix(length);
  }
  return bytes;
}

}  // namespace fairway
