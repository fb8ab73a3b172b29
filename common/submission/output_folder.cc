#include "common/submission/output_folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "common/base/error.h"
#include "common/base/file.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void Fail(const std::string& path, int error) {
  throw IoError(path, std::strerror(error));
}

void Clear(const std::string& directory) {
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) fs::remove_all(entry.path());
}

}  // namespace

OutputFolder::OutputFolder(const std::string& path, const std::string& proof) {
  fs::path place = fs::absolute(path).lexically_normal();
  if (place.filename().empty()) place = place.parent_path();  // "submission/"
  if (place.filename().empty()) throw UsageError(path + ": cannot be replaced");
  path_ = place;
  if (fs::exists(place)) {
    if (!fs::is_directory(place)) Fail(path, ENOTDIR);
    if (!fs::is_empty(place) && !fs::exists(place / proof)) {
      throw InputError(path, "is in the way: a folder with other things than a record in it is not replaced");
    }
  }
  MakeDirectories(place.parent_path());
  temporary_ = place.parent_path() / ("." + std::string(place.filename()) + ".tmp");
  while (true) {
    if (mkdir(temporary_.c_str(), 0777) != 0 && errno != EEXIST) Fail(path, errno);
    lock_ = open(temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock_ < 0) Fail(path, errno);
    if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
      close(lock_);
      throw IoError(path, "another process is writing it");
    }
    // Between our open and our lock the former holder may have put the folder in its place.
    struct stat named, held;
    if (stat(temporary_.c_str(), &named) == 0 && fstat(lock_, &held) == 0 && named.st_ino == held.st_ino) break;
    close(lock_);
  }
  Clear(temporary_);
  // Killed between two renames (see Commit) a program leaves the old record under this name, or what it was about to remove.
  const std::string old = Old();
  if (fs::exists(old)) {
    if (fs::exists(path_)) {
      fs::remove_all(old);
    } else if (rename(old.c_str(), path_.c_str()) != 0) {
      Fail(old, errno);
    }
  }
}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
  close(lock_);
  close(old_lock_);
}

void OutputFolder::Commit() {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(temporary_)) SyncFile(entry.path());
  SyncFile(temporary_);
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {  // there is a folder that is not empty
    if (errno != EEXIST && errno != ENOTEMPTY) Fail(path_, errno);
    // It takes our temporary name until it is removed, and must look locked there, too.
    old_lock_ = open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (old_lock_ < 0 || flock(old_lock_, LOCK_EX) != 0) Fail(path_, errno);
    if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) != 0) {
      // A file system that cannot exchange two folders: there is a moment without either, but never half of one.
      if (errno != EINVAL && errno != ENOSYS) Fail(path_, errno);
      const std::string old = Old();
      if (rename(path_.c_str(), old.c_str()) != 0) Fail(path_, errno);
      if (rename(temporary_.c_str(), path_.c_str()) != 0) {
        const int error = errno;
        rename(old.c_str(), path_.c_str());
        Fail(path_, error);
      }
      if (rename(old.c_str(), temporary_.c_str()) != 0) Fail(old, errno);
    }
    fs::remove_all(temporary_);
  }
  temporary_.clear();
  close(std::exchange(lock_, -1));  // it is the record's now
  SyncFile(DirectoryOf(path_));
}

}  // namespace fairway
