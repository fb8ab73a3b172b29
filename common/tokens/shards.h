// Token shards (docs/formats.md), read through memory maps; ids are checked as they are used. What has been read
// is released again: shards may be far larger than memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace fairway {

// Whether the folder has shards of that split. Throws IoError where the folder cannot be read.
bool HasShards(const std::string& folder, const std::string& split);

// All shards fineweb_SPLIT_NNNNNN.bin of a folder, in the order of their numbers, as one array of tokens, and their
// byte sidecars where the split has them.
class ShardSet {
 public:
  // split: "train" or "val". Opens and checks every header; reads no token. Throws IoError; InputError also for a
  // missing number, for another file whose name begins like a shard's, and for sidecars that do not fit the shards.
  ShardSet(const std::string& folder, const std::string& split, int64_t vocab_size);
  ~ShardSet();
  ShardSet(ShardSet&&) noexcept;

  // The same shards, of whose tokens only [begin, begin + count) are there. REQUIRES: the range lies within tokens().
  ShardSet Part(int64_t begin, int64_t count) const;

  const std::string& folder() const;
  const std::string& split() const;
  int64_t tokens() const;  // over all shards, or of the part
  const std::vector<std::string>& files() const;
  // A shard's tokens, where they lie in this set.
  struct Range {
    std::string file;
    int64_t begin, tokens;
  };
  // Those of the shards of which the set holds some, in order.
  std::vector<Range> ranges() const;
  // Copies tokens [begin, begin + count) to `out`. REQUIRES: the range lies within tokens().
  // InputError names shard and offset of an id >= vocab_size.
  void Read(int64_t begin, int64_t count, uint16_t* out) const;
  // Asks the system to have that range in memory soon. Returns at once.
  void WillNeed(int64_t begin, int64_t count) const;
  // Brings that range into memory; returns when it is there.
  void Load(int64_t begin, int64_t count) const;
  // Takes that range out of this process again; it can still be read.
  void Drop(int64_t begin, int64_t count) const;

  // Whether the split has a byte sidecar: for each token, the number of bytes of text.
  bool has_bytes() const;
  // Copies those of tokens [begin, begin + count) to `out`. REQUIRES: has_bytes(), the range lies within tokens().
  void ReadBytes(int64_t begin, int64_t count, uint16_t* out) const;

  // SHA-256 over the SHA-256 of each shard (SplitIdentity): the split's identity, also of a part. It is that of the
  // bytes mapped here: DigestOf spares only the repetition. InputError where the folder's manifest.json lists a shard
  // with another digest.
  std::string Identity() const;
  // The same over the sidecar's files; empty where there is none.
  std::string BytesIdentity() const;
  // InputError where a file is not what it was when Identity read it: what was computed since is of no known text.
  void CheckUnchanged() const;

 private:
  struct State;
  ShardSet(std::shared_ptr<const State> state, int64_t begin, int64_t tokens);
  std::shared_ptr<const State> state_;
  int64_t begin_ = 0, tokens_ = 0;
};

// The training stream: takes spans one after another and starts again at the first token after the last. A background thread reads
// ahead, so that Take finds its tokens in memory. What it has read and what Take, Skip or Seek has left behind goes out of this
// process again: it holds 65 MB of shards at most, beside the span that Take is reading. For one caller at a time.
class TokenStream {
 public:
  explicit TokenStream(ShardSet shards);
  ~TokenStream();

  std::vector<uint16_t> Take(int64_t count);
  // Passes over `count` tokens without reading them (other ranks' spans).
  void Skip(int64_t count);
  // Tokens taken or skipped since the beginning of the first pass; Seek puts the stream there.
  int64_t position() const;
  void Seek(int64_t position);
  // How many tokens from position() on are in memory by now; in the end 2^25, or all there are.
  int64_t ahead() const;
  double wait_seconds() const;  // spent inside Take waiting for data
  const ShardSet& shards() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fairway
