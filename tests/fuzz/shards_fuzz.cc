// Token shards: two files of a split, cut from one input.
#include "common/base/file.h"
#include "common/tokens/shard_format.h"
#include "common/tokens/shards.h"
#include "tests/fuzz/fuzz.h"

using namespace fairway;

FUZZ(input) {
  const std::string folder = fuzz::Folder();
  // Small files: of the header's 1,024 bytes all but the first twelve are zeros that are not read.
  const auto shard = [&](std::string_view part) {
    const std::string_view head = part.substr(0, 12), tokens = part.substr(head.size());
    std::string bytes(head);
    if (head.size() == 12) bytes.resize(kShardHeaderBytes);
    return bytes + std::string(tokens);
  };
  WriteFile(folder + "/fineweb_train_000000.bin", shard(input.substr(0, input.size() / 2)));
  WriteFile(folder + "/fineweb_train_000001.bin", shard(input.substr(input.size() / 2)));
  fuzz::Takes([&] {
    const ShardSet shards(folder, "train", 1024);
    shards.Identity();
    std::vector<uint16_t> tokens(shards.tokens());
    shards.Load(0, shards.tokens());
    shards.Read(0, shards.tokens(), tokens.data());
    for (uint16_t token : tokens) fuzz::Require(token < 1024, "a token beyond the vocabulary");
    TokenStream stream{ShardSet(folder, "train", 1024)};
    fuzz::Require(static_cast<int64_t>(stream.Take(3).size()) == 3, "a stream that ends");
  });
}
