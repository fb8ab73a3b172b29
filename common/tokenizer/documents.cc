#include "common/tokenizer/documents.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/json.h"
#include "common/base/text.h"

namespace fairway {
namespace {

// "FILE:LINE" for JSON lines, "FILE" otherwise.
std::string PlaceOf(const RawDocument& document) {
  return document.line > 0 ? *document.path + ":" + std::to_string(document.line) : *document.path;
}

// Files that hold text, but not as text: how they begin, what they are, and what makes text of them.
void CheckIsText(const InputFile& file) {
  struct Container {
    std::string_view begin, name, remedy;
  };
  using namespace std::string_view_literals;
  static constexpr Container kContainers[] = {
      {"\x1f\x8b"sv, "compressed by gzip", "gzip -dc"},           {"\x28\xb5\x2f\xfd"sv, "compressed by zstd", "zstd -dc"},
      {"\xfd\x37zXZ\0"sv, "compressed by xz", "xz -dc"},        {"\x04\x22\x4d\x18"sv, "compressed by lz4", "lz4 -dc"},
      {"BZh91AY&SY"sv, "compressed by bzip2", "bzip2 -dc"},      {"PK\x03\x04"sv, "a ZIP archive", "unzip -p"},
      {"\xff\xfe"sv, "UTF-16", "iconv -f UTF-16 -t UTF-8"},     {"\xfe\xff"sv, "UTF-16", "iconv -f UTF-16 -t UTF-8"},
  };
  const std::string_view text = file.text();
  if (text.starts_with("PAR1") && text.ends_with("PAR1"))
    throw InputError(file.path(), "is a Parquet file; text files and JSON lines are read: write its column of texts as JSON lines first");
  for (const Container& container : kContainers) {
    if (text.starts_with(container.begin))
      throw InputError(file.path(), "is " + std::string(container.name) + ", not text: pass its content instead (" +
                                        std::string(container.remedy) + " FILE | tokenize-shard ... -)");
  }
}

// Of a line that begins at `at`: its end with the line break, and whether it holds nothing but blanks.
struct Line {
  size_t end;
  bool blank;
};
Line LineAt(std::string_view text, size_t at) {
  const size_t end = std::min(text.size(), text.find('\n', at) == text.npos ? text.size() : text.find('\n', at) + 1);
  return {end, text.substr(at, end - at).find_first_not_of(" \t\r\n") == std::string_view::npos};
}

}  // namespace

void DocumentFormat::SetSeparator(const std::string& text) {
  if (text == "blank-line") {
    blank_lines = true;
    return;
  }
  constexpr std::string_view kNames = "0fnrtv", kBytes("\0\f\n\r\t\v", 6);
  if (text.size() == 2 && text[0] == '\\' && kNames.find(text[1]) != kNames.npos) {
    separator = kBytes[kNames.find(text[1])];
    return;
  }
  int64_t value = -1;
  if (!ParseInt(text, &value) || value < 0 || value > 255)
    throw UsageError("--separator '" + text + "' is neither blank-line, \\0, \\f, \\n, \\r, \\t, \\v nor a number from 0 to 255");
  separator = static_cast<char>(value);
}

double DocumentFormat::ParseShare(const std::string& text) {
  const bool percent = text.ends_with('%');
  double value = -1;
  if (!ParseDouble(percent ? text.substr(0, text.size() - 1) : text, &value)) value = -1;
  if (percent) value /= 100;
  if (!(value > 0 && value < 1)) throw UsageError("--holdout '" + text + "' is no share of the documents such as 5% or 0.05");
  return value;
}

DocumentSource::DocumentSource(const std::vector<std::string>& paths, DocumentFormat format)
    : format_(std::move(format)) {
  files_.reserve(paths.size());
  for (const std::string& path : paths) {
    files_.emplace_back(path);
    if (files_.back().bytes().empty()) throw InputError(files_.back().path(), "is empty");
    CheckIsText(files_.back());
  }
}

bool DocumentSource::NextBetweenBlankLines(RawDocument* document) {
  for (; file_ < files_.size(); ++file_, offset_ = 0) {
    const std::string_view text = files_[file_].text();
    Line line{0, true};
    size_t begin = offset_;
    while (begin < text.size() && (line = LineAt(text, begin)).blank) begin = line.end;
    if (begin == text.size()) continue;
    size_t end = line.end;
    while (end < text.size() && !(line = LineAt(text, end)).blank) end = line.end;
    offset_ = end;
    if (text[end - 1] == '\n') --end;  // the last line's break belongs to the separator
    *document = {text.substr(begin, end - begin), &files_[file_].path(), static_cast<int64_t>(begin), 0};
    return true;
  }
  return false;
}

bool DocumentSource::Next(RawDocument* document) {
  if (format_.blank_lines) return NextBetweenBlankLines(document);
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
  nlohmann::json json;
  try {
    json = ParseJson<nlohmann::json>(document.bytes, PlaceOf(document), "the line ");
  } catch (const InputError&) {
    if (nlohmann::json::accept(document.bytes)) throw;  // a name twice, or too deep
    std::string cause;
    try {
      json = nlohmann::json::parse(document.bytes);
    } catch (const nlohmann::json::exception& error) {
      cause = error.what();
    }
    if (cause.find("surrogate") == std::string::npos) throw InputError(PlaceOf(document), "the line is not a JSON object");
    throw InputError(PlaceOf(document), "a text of the line has half of a surrogate pair (\\ud800 to \\udfff), which is no character");
  }
  if (!json.is_object()) throw InputError(PlaceOf(document), "the line is not a JSON object");
  const auto found = json.find(format.key);
  if (found == json.end() || !found->is_string())
    throw InputError(PlaceOf(document), "the line's object has no text under the key '" + format.key + "'");
  return found->get<std::string>();
}

bool Takes(const DocumentFormat& format, std::string_view text) {
  if (format.holdout <= 0) return true;
  Sha256 sha256;
  sha256.Update(text);
  const std::string digest = sha256.Finish();
  uint32_t draw = 0;  // the first 32 bits, most significant first
  for (int i = 0; i < 4; ++i) draw = draw << 8 | static_cast<unsigned char>(digest[i]);
  return (std::ldexp(draw, -32) < format.holdout) == format.held_out;
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
