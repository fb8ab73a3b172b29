// The documents of text files. They are cut from the files' memory maps one after another, so that a corpus of any size
// needs no memory of its own; what has to be parsed or checked about a document is left to those who use it, in
// parallel.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/digest.h"
#include "common/base/file.h"

namespace fairway {

// How a file holds its documents, and which of them are taken. With none of the first three, each file is one document.
struct DocumentFormat {
  std::string key;                // JSON, one object per line, whose text is the value of this key
  std::optional<char> separator;  // a byte between documents; after the last one it is optional
  bool blank_lines = false;       // documents are separated by lines that hold nothing but blanks
  // A share of the documents is held out, drawn by the SHA-256 of each text: so a document stays held out whatever comes with it.
  double holdout = 0;
  bool held_out = false;  // take those that are held out, and otherwise the rest

  // "blank-line", or the byte that `text` names: \0, \f, \n, \r, \t, \v, or a number from 0 to 255. UsageError.
  void SetSeparator(const std::string& text);
  // A share from 0 up to 1, or a percentage such as 5%. UsageError.
  static double ParseShare(const std::string& text);
};

// A document as it is in its file.
struct RawDocument {
  std::string_view bytes;  // lives as long as its DocumentSource
  const std::string* path = nullptr;
  int64_t offset = 0;  // of its first byte in the file
  int64_t line = 0;    // from 1, of JSON lines
};

class DocumentSource {
 public:
  // Opens every file. Throws IoError; InputError for an empty one, and for one that is compressed, Parquet or UTF-16.
  DocumentSource(const std::vector<std::string>& paths, DocumentFormat format);

  // The next document, or false after the last.
  bool Next(RawDocument* document);
  // Back to the first document.
  void Rewind() { file_ = offset_ = line_ = 0; }
  // Bytes of text in all files together: the measure of progress.
  int64_t total_bytes() const;
  const DocumentFormat& format() const { return format_; }
  // SHA-256 of the files' bytes, one after another.
  std::string Digest() const;

 private:
  bool NextBetweenBlankLines(RawDocument* document);

  DocumentFormat format_;
  std::vector<InputFile> files_;
  size_t file_ = 0;
  size_t offset_ = 0;  // in that file
  int64_t line_ = 0;
};

// The text of a document. InputError naming file and place: not UTF-8; a line that is no JSON object, has a name twice, is nested
// too deeply, holds half of a surrogate pair, or whose value under the key is no text.
std::string TextOf(const RawDocument& document, const DocumentFormat& format);

// Whether the format takes the document of this text.
bool Takes(const DocumentFormat& format, std::string_view text);

// The offset of the first byte that does not continue valid UTF-8, or npos.
size_t FindInvalidUtf8(std::string_view text);

}  // namespace fairway
