#include "common/tokens/shards.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <system_error>
#include <thread>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "common/tokens/digest_cache.h"
#include "common/tokens/manifest.h"
#include "common/tokens/shard_format.h"

namespace fairway {
namespace {

static_assert(std::endian::native == std::endian::little, "tokens are read from the map in the file's byte order");

struct Shard {
  InputFile file;
  FileStamp stamp;
  int64_t begin = 0, tokens = 0;  // where it lies among the tokens of its split

  std::span<const std::byte> Payload(int64_t first, int64_t count) const {
    return file.bytes().subspan(kShardHeaderBytes + 2 * first, 2 * count);
  }
};

// Paths of the files of one kind, in the order of their numbers, which leave none out.
using Numbered = std::map<int64_t, std::string>;

void CheckNumbers(const Numbered& files, const std::string& folder, int64_t first, const std::string& name_of_first) {
  int64_t expected = first;
  for (const auto& [number, path] : files) {
    if (number != expected)
      throw InputError(
          path, StringPrintf("there is no number %jd before it in %s: a shard is missing (the first is %s)", expected,
                             folder.c_str(), name_of_first.c_str()));
    ++expected;
  }
}

struct SplitFiles {
  Numbered tokens, bytes;
};

SplitFiles FindShards(const std::string& folder, const std::string& split) {
  namespace fs = std::filesystem;
  std::error_code error;
  SplitFiles found;
  if (fs::exists(fs::path(folder) / UnfinishedName(split), error))
    throw InputError(folder, "its split " + split + " is half replaced by another: tokenize-shard or scripts/corpus was interrupted; run it again");
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string path = entry->path(), name = entry->path().filename();
    const ShardFile kind = ShardFileOf(name, split);
    if (kind == ShardFile::kNone) continue;
    if (kind == ShardFile::kOther)
      throw InputError(path, "is no shard of the split " + split + ", though its name begins like one (" +
                                 ShardName(split, 0) + "): remove or rename it");
    const auto [place, fresh] =
        (kind == ShardFile::kBytes ? found.bytes : found.tokens).emplace(ShardNumber(name), path);
    if (!fresh)
      throw InputError(std::max(path, place->second), "has the number of " + BaseName(std::min(path, place->second)));
  }
  if (error) throw IoError(folder, error.message());
  if (found.tokens.empty()) throw IoError(folder + "/fineweb_" + split + "_*.bin", "matches no file");
  // Published sets begin at 0 or at 1.
  const int64_t first = std::min<int64_t>(found.tokens.begin()->first, 1);
  CheckNumbers(found.tokens, folder, first, BaseName(found.tokens.begin()->second));
  if (found.bytes.empty()) return found;
  for (const auto& [number, path] : found.tokens)
    if (!found.bytes.contains(number))
      throw InputError(path, "has no byte sidecar " + SidecarName(split, number) + ", though other shards have one");
  for (const auto& [number, path] : found.bytes)
    if (!found.tokens.contains(number))
      throw InputError(path, "is the byte sidecar of a shard that is missing: " + ShardName(split, number));
  return found;
}

Shard OpenShard(const std::string& path, int64_t begin) {
  // The stamp is that of the mapped file unless another took its name in between.
  const FileStamp before = StampOf(path);
  Shard shard{.file = InputFile(path), .stamp = before, .begin = begin};
  if (StampOf(path) != before) throw InputError(path, "was replaced while it was opened");
  const std::span<const std::byte> bytes = shard.file.bytes();
  shard.tokens = CheckShardHeader(bytes.first(std::min(bytes.size(), kShardHeaderBytes)), bytes.size(), path);
  return shard;
}

// Calls use(shard, first token in it, count) for each shard that [begin, begin + count) touches.
template <typename Use>
void ForEachPart(const std::vector<Shard>& shards, int64_t begin, int64_t count, Use use) {
  auto shard = std::upper_bound(shards.begin(), shards.end(), begin,
                                [](int64_t position, const Shard& later) { return position < later.begin; });
  for (--shard; count > 0; ++shard) {
    const int64_t first = begin - shard->begin;
    const int64_t part = std::min(count, shard->tokens - first);
    use(*shard, first, part);
    begin += part;
    count -= part;
  }
}

// The whole pages that hold `bytes`: what the system's calls on mapped memory take.
std::span<std::byte> PagesOf(std::span<const std::byte> bytes) {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t first = begin / page * page;
  return {reinterpret_cast<std::byte*>(first), begin + bytes.size() - first};
}

// Takes what has been read out of this process again; the system keeps it as long as it likes. Without that a run would come to
// hold all that it ever read.
void Release(std::span<const std::byte> bytes) {
  const std::span<std::byte> pages = PagesOf(bytes);
  madvise(pages.data(), pages.size(), MADV_DONTNEED);
}

std::string Digest(const InputFile& file) {
  constexpr size_t kPart = 1 << 26;
  Sha256 sha256;
  for (std::span<const std::byte> rest = file.bytes(); !rest.empty();) {
    const std::span<const std::byte> part = rest.first(std::min(kPart, rest.size()));
    sha256.Update(part);
    Release(part);
    rest = rest.subspan(part.size());
  }
  return ToHex(sha256.Finish());
}

}  // namespace

bool HasShards(const std::string& folder, const std::string& split) {
  std::error_code error;
  bool found = false;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    found = found || ShardFileOf(entry->path().filename().string(), split) == ShardFile::kTokens;
  if (error) throw IoError(folder, error.message());
  return found;
}

struct ShardSet::State {
  std::string folder, split;
  int64_t vocab_size;
  std::vector<Shard> shards, sidecars;  // as many sidecars as shards, or none
  std::vector<std::string> paths;

  // Computed at the first use.
  struct Digests {
    std::vector<std::string> shards, sidecars;
  };
  mutable std::mutex mutex;
  mutable std::optional<Digests> digests;

  const Digests& Digested() const {
    const std::lock_guard lock(mutex);
    if (digests) return *digests;
    DigestCache cache(folder);
    const Manifest manifest = Manifest::Read(folder);
    const auto digest = [&](const std::vector<Shard>& files) {
      std::vector<std::string> result;
      for (const Shard& file : files) {
        const std::string name = BaseName(file.file.path());
        result.push_back(cache.Find(name, file.stamp));
        if (result.back().empty()) cache.Add(name, file.stamp, result.back() = Digest(file.file));
        const ShardRecord* record = manifest.Find(split, name);
        if (record != nullptr && record->sha256 != result.back())
          throw InputError(file.file.path(), "is not the file that " + Manifest::Path(folder) +
                                                 " lists: its SHA-256 is " + result.back() + " and not " +
                                                 record->sha256);
      }
      return result;
    };
    Digests computed;
    computed.shards = digest(shards);
    computed.sidecars = digest(sidecars);
    cache.Write();
    return digests.emplace(std::move(computed));
  }
};

ShardSet::ShardSet(const std::string& folder, const std::string& split, int64_t vocab_size) {
  const auto state = std::make_shared<State>();
  state->folder = folder;
  state->split = split;
  state->vocab_size = vocab_size;
  const SplitFiles found = FindShards(folder, split);
  for (const auto& [number, path] : found.tokens) {
    state->paths.push_back(path);
    state->shards.push_back(OpenShard(path, tokens_));
    const int64_t tokens = state->shards.back().tokens;
    if (const auto sidecar = found.bytes.find(number); sidecar != found.bytes.end()) {
      state->sidecars.push_back(OpenShard(sidecar->second, tokens_));
      if (const int64_t counts = state->sidecars.back().tokens; counts != tokens)
        throw InputError(sidecar->second, StringPrintf("has the bytes of %jd tokens, but %s holds %jd", counts,
                                                       BaseName(path).c_str(), tokens));
    }
    tokens_ += tokens;
  }
  state_ = state;
}

ShardSet::ShardSet(std::shared_ptr<const State> state, int64_t begin, int64_t tokens)
    : state_(std::move(state)), begin_(begin), tokens_(tokens) {}

ShardSet::~ShardSet() = default;
ShardSet::ShardSet(ShardSet&&) noexcept = default;

ShardSet ShardSet::Part(int64_t begin, int64_t count) const { return {state_, begin_ + begin, count}; }

const std::string& ShardSet::folder() const {
  return state_->folder;
}
const std::string& ShardSet::split() const {
  return state_->split;
}
int64_t ShardSet::tokens() const {
  return tokens_;
}
const std::vector<std::string>& ShardSet::files() const {
  return state_->paths;
}

std::vector<ShardSet::Range> ShardSet::ranges() const {
  std::vector<Range> ranges;
  for (const Shard& shard : state_->shards) {
    const int64_t first = std::max(shard.begin - begin_, int64_t{0}), last = std::min(shard.begin + shard.tokens - begin_, tokens_);
    if (first < last) ranges.push_back({shard.file.path(), first, last - first});
  }
  return ranges;
}

void ShardSet::Read(int64_t begin, int64_t count, uint16_t* out) const {
  ForEachPart(state_->shards, begin_ + begin, count, [&](const Shard& shard, int64_t first, int64_t part) {
    const std::span<const std::byte> payload = shard.Payload(first, part);
    std::memcpy(out, payload.data(), payload.size());
    Release(payload);
    // A maximum is quick to take; its position is searched for only when an id is out of range.
    if (*std::max_element(out, out + part) >= state_->vocab_size) {
      const uint16_t* bad = std::find_if(out, out + part, [&](uint16_t id) { return id >= state_->vocab_size; });
      const int64_t token = first + (bad - out);
      throw InputError(shard.file.path(),
                       StringPrintf("token id %d at byte offset %jd (token %jd) is not below VOCAB_SIZE %jd", *bad,
                                    kShardHeaderBytes + 2 * token, token, state_->vocab_size));
    }
    out += part;
  });
}

void ShardSet::WillNeed(int64_t begin, int64_t count) const {
  ForEachPart(state_->shards, begin_ + begin, count, [](const Shard& shard, int64_t first, int64_t part) {
    const std::span<std::byte> pages = PagesOf(shard.Payload(first, part));
    madvise(pages.data(), pages.size(), MADV_WILLNEED);  // advice: nothing is lost where it is not taken
  });
}

void ShardSet::Load(int64_t begin, int64_t count) const {
  WillNeed(begin, count);
  ForEachPart(state_->shards, begin_ + begin, count, [](const Shard& shard, int64_t first, int64_t part) {
    constexpr size_t kStep = 4096;  // the smallest page there is
    const std::span<const std::byte> bytes = shard.Payload(first, part);
    const volatile std::byte* touched = bytes.data();
    for (size_t at = 0; at < bytes.size(); at += kStep) (void)touched[at];
    (void)touched[bytes.size() - 1];
  });
}

void ShardSet::Drop(int64_t begin, int64_t count) const {
  ForEachPart(state_->shards, begin_ + begin, count,
              [](const Shard& shard, int64_t first, int64_t part) { Release(shard.Payload(first, part)); });
}

bool ShardSet::has_bytes() const {
  return !state_->sidecars.empty();
}

void ShardSet::ReadBytes(int64_t begin, int64_t count, uint16_t* out) const {
  ForEachPart(state_->sidecars, begin_ + begin, count, [&](const Shard& sidecar, int64_t first, int64_t part) {
    const std::span<const std::byte> payload = sidecar.Payload(first, part);
    std::memcpy(out, payload.data(), payload.size());
    Release(payload);
    out += part;
  });
}

std::string ShardSet::Identity() const {
  return SplitIdentity(state_->Digested().shards);
}
std::string ShardSet::BytesIdentity() const {
  return has_bytes() ? SplitIdentity(state_->Digested().sidecars) : "";
}

void ShardSet::CheckUnchanged() const {
  const State::Digests& known = state_->Digested();
  const auto check = [](const std::vector<Shard>& files, const std::vector<std::string>& digests) {
    for (size_t i = 0; i < files.size(); ++i) {
      const std::string& path = files[i].file.path();
      const std::optional<FileStamp> now = TryStampOf(path);
      // Another file under this name, or none: the one that is mapped here lives on as it was.
      if (!now || now->inode != files[i].stamp.inode || now->device != files[i].stamp.device || *now == files[i].stamp)
        continue;
      if (now->size != files[i].stamp.size || Digest(files[i].file) != digests[i])
        throw InputError(path, "was changed while it was being read: what came out is of no known text");
    }
  };
  check(state_->shards, known.shards);
  check(state_->sidecars, known.sidecars);
}

// The background thread loads ranges of kChunk tokens, one after another from the stream's position, until it is
// kAhead tokens ahead; Take waits until its own span is loaded. At 786,432 tokens per step kAhead is some 40 steps, so a
// stall of the file system of a few seconds goes unnoticed.
struct TokenStream::State {
  static constexpr int64_t kChunk = 1 << 19, kAhead = 1 << 25;

  explicit State(ShardSet set) : shards(std::move(set)), ahead(std::min(kAhead, shards.tokens())) {}

  const ShardSet shards;
  const int64_t ahead;
  double wait_seconds = 0;  // of the thread that takes, as is its writing of `position`

  std::mutex mutex;
  std::condition_variable changed;
  int64_t position = 0;  // guarded by mutex, as all below; positions count on through the passes
  int64_t wanted = 0;    // what Take waits for, which may lie further ahead than `ahead`
  int64_t loaded = 0;    // everything from position to here is in memory
  int64_t seeks = 0;     // by which the thread notices that the range it loads is no longer needed
  bool stop = false;
  std::thread thread;

  // Drops tokens [begin, end) of the stream, whose positions count on through the passes.
  void Drop(int64_t begin, int64_t end) const {
    end = std::min(end, begin + shards.tokens());  // once round is all there is
    while (begin < end) {
      const int64_t place = begin % shards.tokens(), part = std::min(end - begin, shards.tokens() - place);
      shards.Drop(place, part);
      begin += part;
    }
  }

  void LoadAhead() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return stop || loaded < std::max(wanted, position + ahead); });
      if (stop) return;
      const int64_t begin = std::max(loaded, position);
      const int64_t place = begin % shards.tokens();
      const int64_t count = std::min(kChunk, shards.tokens() - place);
      const int64_t seek = seeks;
      lock.unlock();
      shards.Load(place, count);
      lock.lock();
      if (seek == seeks) {
        loaded = begin + count;
        changed.notify_all();
      }
      // Nothing else releases what the stream has left behind meanwhile.
      const int64_t needed_from = seek == seeks ? position : begin + count;
      lock.unlock();
      Drop(begin, std::min(begin + count, needed_from));
      lock.lock();
    }
  }
};

TokenStream::TokenStream(ShardSet shards) : state_(std::make_unique<State>(std::move(shards))) {
  state_->thread = std::thread([state = state_.get()] { state->LoadAhead(); });
}

TokenStream::~TokenStream() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->changed.notify_all();
  state_->thread.join();
}

std::vector<uint16_t> TokenStream::Take(int64_t count) {
  const auto start = std::chrono::steady_clock::now();
  State& state = *state_;
  std::vector<uint16_t> tokens(count);
  std::unique_lock lock(state.mutex);
  const int64_t begin = state.position, end = begin + count;
  if (state.loaded < end) {
    state.wanted = end;
    state.changed.notify_all();
    state.changed.wait(lock, [&] { return state.loaded >= end; });
  }
  lock.unlock();
  // Pages may have been taken away again by a system short of memory, so the copy counts as waiting too.
  for (int64_t done = 0; done < count;) {
    const int64_t place = (begin + done) % state.shards.tokens();
    const int64_t part = std::min(count - done, state.shards.tokens() - place);
    state.shards.Read(place, part, tokens.data() + done);
    done += part;
  }
  Skip(count);
  state.wait_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return tokens;
}

void TokenStream::Skip(int64_t count) {
  int64_t begin, end;
  {
    const std::lock_guard lock(state_->mutex);
    begin = state_->position;
    state_->position += count;
    end = std::min(state_->position, state_->loaded);
  }
  state_->changed.notify_all();
  state_->Drop(begin, end);
}

int64_t TokenStream::position() const {
  const std::lock_guard lock(state_->mutex);
  return state_->position;
}

int64_t TokenStream::ahead() const {
  const std::lock_guard lock(state_->mutex);
  return std::max(state_->loaded - state_->position, int64_t{0});
}

void TokenStream::Seek(int64_t position) {
  int64_t begin, end;
  {
    const std::lock_guard lock(state_->mutex);
    begin = state_->position;
    end = state_->loaded;
    state_->position = state_->loaded = state_->wanted = position;
    ++state_->seeks;
  }
  state_->changed.notify_all();
  state_->Drop(begin, end);
}

double TokenStream::wait_seconds() const {
  return state_->wait_seconds;
}
const ShardSet& TokenStream::shards() const {
  return state_->shards;
}

}  // namespace fairway
