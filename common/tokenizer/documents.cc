#include "common/tokenizer/documents.h"

#include <nlohmann/json.hpp>

#include "common/base/error.h"
#include "common/base/text.h"

namespace fairway {
namespace {

// "FILE:LINE" for JSON lines, "FILE" otherwise.
std::string PlaceOf(const RawDocument& document) {
  return document.line > 0 ? *document.path + ":" + std::to_string(document.line) : *document.path;
}

}  // namespace

char DocumentFormat::ParseSeparator(const std::string& text) {
  constexpr std::string_view kNames = "0fnrtv", kBytes("\0\f\n\r\t\v", 6);
  if (text.size() == 2 && text[0] == '\\' && kNames.find(text[1]) != kNames.npos) return kBytes[kNames.find(text[1])];
  int64_t value = -1;
  if (!ParseInt(text, &value) || value < 0 || value > 255)
    throw UsageError("--separator '" + text + "' is neither \\0, \\f, \\n, \\r, \\t, \\v nor a number from 0 to 255");
  return static_cast<char>(value);
}

DocumentSource::DocumentSource(const std::vector<std::string>& paths, DocumentFormat format)
    : format_(std::move(format)) {
  files_.reserve(paths.size());
  for (const std::string& path : paths) {
    files_.emplace_back(path);
    if (files_.back().bytes().empty()) throw InputError(files_.back().path(), "is empty");
  }
}

bool DocumentSource::Next(RawDocument* document) {
  if (file_ == files_.size()) return false;
  const std::string_view text = files_[file_].text();
  size_t end = text.size();
  if (!format_.key.empty()) {
    end = std::min(end, text.find('\n', offset_));
    ++line_;
  } else if (format_.separator) {
    end = std::min(end, text.find(*format_.separator, offset_));
  }
  *document = {text.substr(offset_, end - offset_), &files_[file_].path(), static_cast<int64_t>(offset_), line_};
  offset_ = end + 1;
  if (offset_ >= text.size()) {
    ++file_;
    offset_ = 0;
    line_ = 0;
  }
  return true;
}

int64_t DocumentSource::total_bytes() const {
  int64_t total = 0;
  for (const InputFile& file : files_) total += static_cast<int64_t>(file.bytes().size());
  return total;
}

std::string DocumentSource::Digest() const {
  Sha256 sha256;
  for (const InputFile& file : files_) sha256.Update(file.bytes());
  return ToHex(sha256.Finish());
}

std::string TextOf(const RawDocument& document, const DocumentFormat& format) {
  if (const size_t bad = FindInvalidUtf8(document.bytes); bad != std::string_view::npos)
    throw InputError(PlaceOf(document), StringPrintf("the byte 0x%02x at offset %zu of the file is not UTF-8",
                                                     static_cast<unsigned char>(document.bytes[bad]),
                                                     static_cast<size_t>(document.offset) + bad));
  if (format.key.empty()) return std::string(document.bytes);
  const auto json = nlohmann::json::parse(document.bytes, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) throw InputError(PlaceOf(document), "the line is not a JSON object");
  const auto found = json.find(format.key);
  if (found == json.end() || !found->is_string())
    throw InputError(PlaceOf(document), "the line's object has no text under the key '" + format.key + "'");
  return found->get<std::string>();
}

size_t FindInvalidUtf8(std::string_view text) {
  const auto byte = [&](size_t i) -> unsigned { return static_cast<unsigned char>(text[i]); };
  for (size_t i = 0; i < text.size();) {
    const unsigned lead = byte(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    // The second byte's range excludes overlong forms (e0, f0), surrogates (ed) and what lies beyond U+10FFFF (f4).
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (lead < 0xc2 || lead > 0xf4 || i + length > text.size() || byte(i + 1) < low || byte(i + 1) > high) return i;
    for (size_t j = 2; j < length; ++j)
      if ((byte(i + j) & 0xc0) != 0x80) return i;
    i += length;
  }
  return std::string_view::npos;
}

}  // namespace fairway
