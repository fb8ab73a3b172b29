#include "common/base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "common/base/error.h"
#include "common/base/read_error.h"

namespace fairway {
namespace {

constexpr size_t kBufferBytes = 1 << 20;
constexpr char kTemporarySuffix[] = ".tmp";

[[noreturn]] void Fail(const std::string& path, int error) { throw IoError(path, std::strerror(error)); }

// A signal may end a call early where a file system waits for a network.
template <typename Call>
auto Retry(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

int Open(const std::string& path, int flags) {
  return Retry([&] { return open(path.c_str(), flags | O_CLOEXEC, 0666); });
}

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ > STDERR_FILENO) close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

std::string ReadToEnd(int descriptor, const std::string& path) {
  std::string bytes;
  while (true) {
    const size_t size = bytes.size();
    bytes.resize(size + kBufferBytes);
    const ssize_t got = Retry([&] { return read(descriptor, bytes.data() + size, kBufferBytes); });
    if (got < 0) Fail(path, errno);
    bytes.resize(size + got);
    if (got == 0) return bytes;
  }
}

void WriteAll(int descriptor, const std::string& path, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = Retry([&] { return write(descriptor, text.data(), text.size()); });
    if (written < 0) Fail(path, errno);
    text.remove_prefix(written);
  }
}

std::string TemporaryOf(const std::string& path) { return DirectoryOf(path) + "/." + BaseName(path) + kTemporarySuffix; }

// A file or folder that is to be flushed to the disk.
class Synced {
 public:
  explicit Synced(std::string path) : path_(std::move(path)), descriptor_(Open(path_, O_RDONLY)) {
    if (descriptor_.get() < 0) Fail(path_, errno);
  }
  void Sync() const {
    // Some network file systems have nothing to synchronise in a folder, and say so.
    if (Retry([&] { return fsync(descriptor_.get()); }) != 0 && errno != EINVAL) Fail(path_, errno);
  }

 private:
  const std::string path_;
  const Descriptor descriptor_;
};

// The file that a name refers to: the one that a link leads to, and the name itself where there is no file yet.
std::string Target(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return path;
  const std::string target = std::filesystem::canonical(path, error);
  if (error) Fail(path, error.value());
  return target;
}

}  // namespace

InputFile::InputFile(std::string path) : path_(std::move(path)) {
  const bool standard = path_ == "-";
  if (standard) path_ = "standard input";
  const Descriptor descriptor(standard ? STDIN_FILENO : Open(path_, O_RDONLY));
  struct stat status;
  if (descriptor.get() < 0 || fstat(descriptor.get(), &status) != 0) Fail(path_, errno);
  if (S_ISDIR(status.st_mode)) Fail(path_, EISDIR);
  if (S_ISREG(status.st_mode) && !standard) {
    if (status.st_size == 0) return;
    void* data = mmap(nullptr, status.st_size, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
    if (data == MAP_FAILED) Fail(path_, errno);
    mapped_ = true;
    bytes_ = {static_cast<const std::byte*>(data), static_cast<size_t>(status.st_size)};
    NameMapping(bytes_, path_);
  } else {
    owned_ = ReadToEnd(descriptor.get(), path_);
    bytes_ = std::as_bytes(std::span<const char>(owned_));
  }
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(other.bytes_), owned_(std::move(other.owned_)), mapped_(other.mapped_) {
  if (!mapped_) bytes_ = std::as_bytes(std::span<const char>(owned_));  // a short string moves with its object
  other.mapped_ = false;
  other.bytes_ = {};
}

InputFile::~InputFile() {
  if (!mapped_) return;
  ForgetMapping(bytes_);
  munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

OutputFile::OutputFile(std::string path) : path_(std::move(path)) {
  if (path_ == "-") {
    path_ = "standard output";
    descriptor_ = STDOUT_FILENO;
    return;
  }
  if (path_.empty()) Fail(path_, ENOENT);
  struct stat status;
  if (stat(path_.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) Fail(path_, EISDIR);
    if (!S_ISREG(status.st_mode)) {  // /dev/null must outlive a root who writes to it
      descriptor_ = Open(path_, O_WRONLY);
      if (descriptor_ < 0) Fail(path_, errno);
      return;
    }
  }
  target_ = Target(path_);
  temporary_ = TemporaryOf(target_);
  while (true) {
    descriptor_ = Open(temporary_, O_RDWR | O_CREAT);
    if (descriptor_ < 0) Fail(path_, errno);
    if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      close(descriptor_);
      temporary_.clear();  // it is the other writer's
      if (error != EWOULDBLOCK) Fail(path_, error);
      throw IoError(path_, "another process is writing it");
    }
    // Between our open and our lock the former holder may have renamed or removed the file: then the lock is on a file that
    // has another name by now.
    struct stat named, held;
    if (stat(temporary_.c_str(), &named) == 0 && fstat(descriptor_, &held) == 0 && named.st_ino == held.st_ino) break;
    close(descriptor_);
  }
  if (Retry([&] { return ftruncate(descriptor_, 0); }) != 0) {
    const int error = errno;
    unlink(temporary_.c_str());
    close(descriptor_);
    Fail(path_, error);
  }
}

OutputFile::~OutputFile() {
  if (!temporary_.empty()) unlink(temporary_.c_str());
  if (descriptor_ > STDERR_FILENO) close(descriptor_);
}

void OutputFile::Write(std::span<const std::byte> bytes) {
  Write(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

void OutputFile::Write(std::string_view text) {
  offset_ += text.size();
  if (text.size() >= kBufferBytes) {
    Flush();
    WriteAll(descriptor_, path_, text);
    return;
  }
  buffer_.append(text);
  if (buffer_.size() >= kBufferBytes) Flush();
}

void OutputFile::Flush() {
  WriteAll(descriptor_, path_, buffer_);
  buffer_.clear();
}

void OutputFile::Commit() {
  Flush();
  if (temporary_.empty()) return;
  if (Retry([&] { return fsync(descriptor_); }) != 0) Fail(path_, errno);
  // The new name is safe from a power cut only once the folder is on the disk. It is opened first, so that a
  // failure to open it is reported while the old file is still there.
  const Synced folder(DirectoryOf(target_));
  if (rename(temporary_.c_str(), target_.c_str()) != 0) Fail(path_, errno);
  temporary_.clear();
  folder.Sync();
}

AppendedFile::AppendedFile(std::string path) : path_(std::move(path)) {
  descriptor_ = Open(path_, O_WRONLY | O_APPEND | O_CREAT);
  if (descriptor_ < 0) Fail(path_, errno);
  try {
    struct stat status;
    if (fstat(descriptor_, &status) != 0) Fail(path_, errno);
    if (S_ISREG(status.st_mode) && status.st_size > 0 && !InputFile(path_).text().ends_with('\n')) WriteLine(kCutOff);
  } catch (...) {
    close(descriptor_);
    throw;
  }
}

AppendedFile::~AppendedFile() { close(descriptor_); }

void AppendedFile::WriteLine(std::string_view line) { WriteAll(descriptor_, path_, std::string(line) + "\n"); }

void WriteFile(const std::string& path, std::string_view text) {
  OutputFile file(path);
  file.Write(text);
  file.Commit();
}

void RenameFile(const std::string& from, const std::string& to) {
  const std::string target = Target(to);
  const Synced folder(DirectoryOf(target));
  if (rename(from.c_str(), target.c_str()) != 0) Fail(to, errno);
  folder.Sync();
}

void SyncFile(const std::string& path) { Synced(path).Sync(); }

void RemoveFile(const std::string& path) {
  if (unlink(path.c_str()) != 0 && errno != ENOENT) Fail(path, errno);
}

void RemoveLeftOvers(const std::string& prefix) {
  const std::string begin = "." + BaseName(prefix);
  std::error_code error;
  for (std::filesystem::directory_iterator entry(DirectoryOf(prefix), error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (name.starts_with(begin) && name.ends_with(kTemporarySuffix)) RemoveFile(entry->path());
  }
  if (error) Fail(DirectoryOf(prefix), error.value());
}

void MakeDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) Fail(path, error.value());
}

std::string DirectoryOf(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent;
}

std::string BaseName(const std::string& path) { return std::filesystem::path(path).filename(); }

std::string ProgramDirectory() { return std::filesystem::read_symlink("/proc/self/exe").parent_path(); }

}  // namespace fairway
