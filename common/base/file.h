// Files that the stages exchange: an input is complete, and an output appears complete or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace fairway {

// The bytes of a file, memory-mapped; of a pipe or "-" (standard input), read to its end.
// Throws IoError where the file is missing, a directory, or cannot be read. An empty file is an empty span.
class InputFile {
 public:
  explicit InputFile(std::string path);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }
  const std::string& path() const { return path_; }  // "standard input" for "-"

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
  std::string owned_;     // what a pipe delivered
  bool mapped_ = false;
};

// A file under construction. It is written as .NAME.tmp in the directory of its final name, under a lock, and takes
// that name in Commit (file flushed, renamed, directory flushed): a reader sees the old file or the whole new one.
// Uncommitted, it vanishes with the object; what a killed program leaves behind is overwritten by the next writer.
// Where the name is a link to a file, that file is replaced and the link stays. "-" is standard output; to it, and to a name
// that is a pipe or a device, bytes are written directly. Throws IoError, also where another process is writing the same file.
class OutputFile {
 public:
  explicit OutputFile(std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void Write(std::span<const std::byte> bytes);
  void Write(std::string_view text);
  void Flush();  // hands what was written to the system, so that a full disk is noticed now
  void Commit();

  uint64_t offset() const { return offset_; }  // bytes written so far
  const std::string& path() const { return path_; }

 private:
  std::string path_, target_, temporary_;  // as given, the file that is replaced, and the temporary file
  std::string buffer_;
  int descriptor_ = -1;
  uint64_t offset_ = 0;
};

// A file that grows by whole lines: a log. Each line is written by one system call, so that lines of several writers do not
// mix and a killed writer loses nothing. A line that a killed writer or a full disk cut short is ended with kCutOff, so that it is
// not taken for a whole one. A name that is a pipe or a device is written directly. Throws IoError.
class AppendedFile {
 public:
  static constexpr std::string_view kCutOff = " [cut off]";

  explicit AppendedFile(std::string path);
  ~AppendedFile();
  AppendedFile(const AppendedFile&) = delete;
  AppendedFile& operator=(const AppendedFile&) = delete;

  void WriteLine(std::string_view line);

 private:
  std::string path_;
  int descriptor_ = -1;
};

// Writes a small text file in one go (atomically, as above).
void WriteFile(const std::string& path, std::string_view text);

// Renames a file within its file system, replacing a file of the new name (links stay, as in OutputFile::Commit).
void RenameFile(const std::string& from, const std::string& to);

// Flushes what was written into a file, or the names in a folder, to the disk.
void SyncFile(const std::string& path);

// Removes a file; one that is not there is fine.
void RemoveFile(const std::string& path);

// Removes the temporary files that killed programs left of OutputFiles whose paths begin so. REQUIRES: none is being written.
void RemoveLeftOvers(const std::string& prefix);

// Creates a directory and its parents; an existing one is fine. Throws IoError.
void MakeDirectories(const std::string& path);

// The directory part of a path ("." where there is none) and the rest.
std::string DirectoryOf(const std::string& path);
std::string BaseName(const std::string& path);

// The folder that holds the running program. Profiles are found relative to it.
std::string ProgramDirectory();

}  // namespace fairway
