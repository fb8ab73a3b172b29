// Text as tokenize-shard cuts it into documents: whole files, by a separator, and JSON lines.
#include "common/tokenizer/documents.h"
#include "tests/fuzz/fuzz.h"

using namespace fairway;

FUZZ(input) {
  static fuzz::MemoryFile file;
  for (const DocumentFormat& format : {DocumentFormat{}, DocumentFormat{.key = {}, .separator = '\f'},
                                       DocumentFormat{.key = "text", .separator = {}}}) {
    fuzz::Takes([&] {
      DocumentSource source({file.With(input)}, format);
      for (RawDocument document; source.Next(&document);) {
        fuzz::Takes([&] {
          const std::string text = TextOf(document, format);
          fuzz::Require(FindInvalidUtf8(text) == std::string::npos, "text that is not UTF-8");
        });
      }
    });
  }
}
