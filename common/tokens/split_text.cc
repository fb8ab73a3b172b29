#include "common/tokens/split_text.h"

#include <algorithm>
#include <vector>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/tokens/manifest.h"

namespace fairway {
namespace {

// The largest number of bytes that a sidecar may give a token of an exact tokenizer whose piece has `piece` bytes of the
// transformed text. Upper case has at most 1.5 times the bytes of lower case, markers count nothing, a character in byte pieces may
// be counted with any one of them, and the character U+2581, of three bytes, is spelt as a blank is.
int64_t MostBytes(int64_t piece) {
  return 3 * piece + 4;
}

int64_t CountBytes(const ShardSet& shards, const ByteTable& table) {
  constexpr int64_t kPart = 1 << 20;
  int64_t bytes = 0;
  std::vector<uint16_t> tokens, counts;
  for (int64_t begin = 1; begin < shards.tokens(); begin += kPart) {
    const int64_t count = std::min(kPart, shards.tokens() - begin);
    tokens.resize(count + 1), counts.resize(count);
    shards.Read(begin - 1, count + 1, tokens.data());
    if (shards.has_bytes()) shards.ReadBytes(begin, count, counts.data());
    for (int64_t i = 0; i < count; ++i) {
      const int64_t piece = table.Bytes(tokens[i], tokens[i + 1]);
      if (shards.has_bytes() && table.exact && counts[i] > MostBytes(piece))  // a tokenizer that folds text may cover a long run of blanks
        throw InputError(shards.folder(),
                         StringPrintf("the byte sidecar of the split %s gives token %jd a size of %d bytes, but its piece has %jd: "
                                      "it is the sidecar of other shards, or no sidecar",
                                      shards.split().c_str(), begin + i, counts[i], piece));
      bytes += shards.has_bytes() ? counts[i] : piece;
    }
  }
  return bytes;
}

}  // namespace

SplitText CheckText(const ShardSet& shards, const ByteTable& table) {
  if (!shards.has_bytes() && table.spells_blanks_in_bytes())
    throw InputError(shards.folder(), "its tokenizer has byte pieces and none for U+2581: a blank would count three bytes; tokenize the text "
                                      "with another one");
  SplitText text;
  const std::string identity = shards.Identity();  // first: a manifest may list other shards
  text.bytes = CountBytes(shards, table);
  const Manifest manifest = Manifest::Read(shards.folder());
  const auto found = manifest.splits.find(shards.split());
  if (found == manifest.splits.end() || found->second.token_bytes < 0) return text;
  const SplitRecord& record = found->second;
  if (record.Identity() != identity) return text;
  if (record.token_bytes != text.bytes)
    throw InputError(Manifest::Path(shards.folder()),
                     StringPrintf("the tokens of the split %s are %jd bytes of text, but %jd by the %s that is here", shards.split().c_str(),
                                  record.token_bytes, text.bytes, shards.has_bytes() ? "byte sidecar" : "byte table"));
  text.proved = record.BytesIdentity() == shards.BytesIdentity();
  text.text_bytes = record.text_bytes;
  text.documents = record.documents;
  text.changed_documents = record.changed_documents;
  text.text_digest = record.text_sha256;
  text.tokenizer_bytes = record.tokenizer_bytes;
  text.tokenizer_documents = record.tokenizer_documents;
  text.tokenizer_shared = record.tokenizer_shared;
  return text;
}

}  // namespace fairway
