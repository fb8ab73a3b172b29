// A byte table, or the pieces of a SentencePiece model; and a prompt through what was read.
#include <numeric>

#include "common/tokens/byte_table.h"
#include "tests/fuzz/fuzz.h"

using namespace fairway;

FUZZ(input) {
  static fuzz::MemoryFile file, again;
  fuzz::Takes([&] {
    const ByteTable table = ByteTable::Read(file.With(input));
    std::vector<int64_t> ids(table.size());
    std::iota(ids.begin(), ids.end(), 0);
    table.Decode(ids);
    try {
      table.Decode(table.Encode("And the LORD said\xff unto them"));
    } catch (const UsageError&) {  // a table without pieces for it
    }
    for (int64_t id : ids)
      fuzz::Require(table.Bytes(0, id) >= 0 && table.Bytes(0, id) <= 256, "a piece has no possible number of bytes");
    table.Write(fuzz::Folder() + "/table");
    const ByteTable read = ByteTable::Read(fuzz::Folder() + "/table");
    fuzz::Require(read.size() == table.size(), "what was written reads back otherwise");
  });
}
