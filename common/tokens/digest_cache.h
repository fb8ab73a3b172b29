// Digests of large files, remembered beside them, so that a folder of gigabytes is read once and not by every program.
//
// An entry is valid for a file of the same name, device, inode, size and times (of its content and of its
// inode, to the nanosecond). A file that changed within the last seconds is not remembered: it could change again
// within a tick of the clock.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

namespace fairway {

// Identifies a file and its version without reading it.
struct FileStamp {
  uint64_t device = 0, inode = 0, size = 0;
  int64_t modified = 0, changed = 0;  // nanoseconds since the epoch: st_mtim, st_ctim
  bool operator==(const FileStamp&) const = default;
};
FileStamp StampOf(const std::string& path);  // throws IoError
std::optional<FileStamp> TryStampOf(const std::string& path);

class DigestCache {
 public:
  // Reads FOLDER/.digests. One that is absent or damaged is empty.
  explicit DigestCache(const std::string& folder);

  // The SHA-256 of the file of that name, hexadecimal, or "" where it has to be computed.
  std::string Find(const std::string& name, const FileStamp& stamp) const;
  void Add(const std::string& name, const FileStamp& stamp, const std::string& sha256);
  // Writes what was added. A folder that cannot be written to is fine.
  void Write() const;

 private:
  std::string path_;
  std::map<std::string, std::pair<FileStamp, std::string>> entries_;
  bool changed_ = false;
};

}  // namespace fairway
