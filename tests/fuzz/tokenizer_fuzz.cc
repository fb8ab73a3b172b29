// A SentencePiece model, as tokenize-shard loads and uses it. The library itself is not instrumented.
#include "common/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz.h"

using namespace fairway;

FUZZ(input) {
  static fuzz::MemoryFile file;
  fuzz::Takes([&] {
    const Tokenizer tokenizer(file.With(input));
    for (const char* text :
         {"", "the way the data goes", "caf\xc3\xa9 \xe6\x9c\xa8 \xf0\x9f\x98\x80 1234", "<s>a</s>\n\n\t  b"}) {
      const std::vector<uint16_t> ids = tokenizer.EncodeDocument(text);
      for (uint16_t id : ids) fuzz::Require(id < tokenizer.size(), "an id beyond the vocabulary");
    }
  });
}
