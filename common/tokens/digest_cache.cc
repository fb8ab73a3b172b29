#include "common/tokens/digest_cache.h"

#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"

namespace fairway {
namespace {

// Smaller files are digested in a moment.
constexpr uint64_t kSmallestRemembered = 16 << 20;
constexpr int64_t kSettled = 2'000'000'000;  // nanoseconds since a file's last change

int64_t Nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

std::optional<FileStamp> TryStampOf(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return std::nullopt;
  return FileStamp{status.st_dev, status.st_ino, static_cast<uint64_t>(status.st_size), Nanoseconds(status.st_mtim),
                   Nanoseconds(status.st_ctim)};
}

FileStamp StampOf(const std::string& path) {
  const std::optional<FileStamp> stamp = TryStampOf(path);
  if (!stamp) throw IoError(path, std::strerror(errno));
  return *stamp;
}

// A line is: sha256 device inode size modified changed name.
DigestCache::DigestCache(const std::string& folder) : path_(folder + "/.digests") {
  if (!TryStampOf(path_)) return;
  try {
    const InputFile file(path_);
    for (const std::string& line : Split(file.text(), '\n')) {
      const std::vector<std::string> words = Split(line, ' ');
      if (words.size() != 7 || words[0].size() != 64 ||
          words[0].find_first_not_of("0123456789abcdef") != std::string::npos)
        continue;
      int64_t numbers[5];
      bool whole = true;
      for (int i = 0; i < 5; ++i) whole = ParseInt(words[i + 1], &numbers[i]) && whole;
      if (!whole) continue;
      const FileStamp stamp{static_cast<uint64_t>(numbers[0]), static_cast<uint64_t>(numbers[1]),
                            static_cast<uint64_t>(numbers[2]), numbers[3], numbers[4]};
      entries_[words[6]] = {stamp, words[0]};
    }
  } catch (const IoError&) {
  }
}

std::string DigestCache::Find(const std::string& name, const FileStamp& stamp) const {
  const auto found = entries_.find(name);
  return found != entries_.end() && found->second.first == stamp ? found->second.second : "";
}

void DigestCache::Add(const std::string& name, const FileStamp& stamp, const std::string& sha256) {
  const int64_t now =
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  if (stamp.size < kSmallestRemembered || now - std::max(stamp.changed, stamp.modified) < kSettled) return;
  entries_[name] = {stamp, sha256};
  changed_ = true;
}

void DigestCache::Write() const {
  if (!changed_) return;
  std::string text;
  for (const auto& [name, entry] : entries_) {
    const auto& [stamp, sha256] = entry;
    text += StringPrintf("%s %jd %jd %jd %jd %jd %s\n", sha256.c_str(), static_cast<int64_t>(stamp.device),
                         static_cast<int64_t>(stamp.inode), static_cast<int64_t>(stamp.size), stamp.modified,
                         stamp.changed, name.c_str());
  }
  try {
    WriteFile(path_, text);
  } catch (const IoError&) {  // read-only, or another process is writing the same
  }
}

}  // namespace fairway
