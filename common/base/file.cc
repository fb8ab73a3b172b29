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

[[noreturn]] void Fail(const std::string& path, int error) { throw IoError(path, std::strerror(error)); }

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
    const ssize_t got = read(descriptor, bytes.data() + size, kBufferBytes);
    bytes.resize(size + (got > 0 ? got : 0));
    if (got < 0 && errno != EINTR) Fail(path, errno);
    if (got == 0) return bytes;
  }
}

void WriteAll(int descriptor, const std::string& path, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(descriptor, text.data(), text.size());
    if (written < 0 && errno != EINTR) Fail(path, errno);
    if (written > 0) text.remove_prefix(written);
  }
}

// A rename is safe from a power cut only once its directory is on disk.
void SyncDirectory(const std::string& directory) {
  const Descriptor descriptor(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (descriptor.get() < 0 || fsync(descriptor.get()) != 0) Fail(directory, errno);
}

}  // namespace

InputFile::InputFile(std::string path) : path_(std::move(path)) {
  const bool standard = path_ == "-";
  if (standard) path_ = "standard input";
  const Descriptor descriptor(standard ? STDIN_FILENO : open(path_.c_str(), O_RDONLY | O_CLOEXEC));
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
  target_ = path_;
  struct stat status;
  if (stat(path_.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) Fail(path_, EISDIR);
    if (!S_ISREG(status.st_mode)) {  // /dev/null must outlive a root who writes to it
      descriptor_ = open(path_.c_str(), O_WRONLY | O_CLOEXEC);
      if (descriptor_ < 0) Fail(path_, errno);
      return;
    }
    std::error_code error;
    target_ = std::filesystem::canonical(path_, error);
    if (error) Fail(path_, error.value());
  }
  temporary_ = DirectoryOf(target_) + "/." + BaseName(target_) + ".tmp";
  while (true) {
    descriptor_ = open(temporary_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
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
  if (ftruncate(descriptor_, 0) != 0) Fail(path_, errno);
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
  if (fsync(descriptor_) != 0) Fail(path_, errno);
  if (rename(temporary_.c_str(), target_.c_str()) != 0) Fail(path_, errno);
  temporary_.clear();
  SyncDirectory(DirectoryOf(target_));
}

void WriteFile(const std::string& path, std::string_view text) {
  OutputFile file(path);
  file.Write(text);
  file.Commit();
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
