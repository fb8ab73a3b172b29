// manifest.json.
#include "common/base/file.h"
#include "common/tokens/manifest.h"
#include "tests/fuzz/fuzz.h"

using namespace fairway;

FUZZ(input) {
  const std::string folder = fuzz::Folder(), path = Manifest::Path(folder);
  WriteFile(path, input);
  fuzz::Takes([&] {
    const Manifest manifest = Manifest::Read(folder);
    for (const auto& [name, split] : manifest.splits) {
      fuzz::Require(split.tokens() >= 0, "fewer tokens than none");
      for (const std::string& text : {split.Identity(), split.corpus_sha256, split.tokenizer_sha256})
        fuzz::Require(IsPrintable(text), "a digest that no lineage could hold");
    }
    const std::string again = manifest.ToJson();
    WriteFile(path, again);
    fuzz::Require(Manifest::Read(folder).ToJson() == again, "what was written reads back otherwise");
  });
}
