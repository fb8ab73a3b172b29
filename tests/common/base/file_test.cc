#include "common/base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <thread>

#include "common/base/error.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;

class FileTest : public ::testing::Test {
 protected:
  FileTest() {
    std::string name = ::testing::TempDir() + "file_test.XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~FileTest() override {
    umount(folder_.c_str());  // nothing, but where a test mounted a disk there
    std::error_code ignored;
    fs::permissions(folder_, fs::perms::owner_all, ignored);
    fs::remove_all(folder_, ignored);
  }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }

  // What is in the folder, in order.
  std::vector<std::string> List() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  std::string folder_;
};

using Names = std::vector<std::string>;

std::string Read(const std::string& path) {
  return std::string(InputFile(path).text());
}

// The message of the IoError that `body` throws.
template <typename Body>
std::string IoMessage(Body body) {
  try {
    body();
  } catch (const IoError& error) {
    EXPECT_EQ(error.status(), ExitStatus::kIo);
    return error.what();
  }
  return "nothing was thrown";
}

// --- InputFile

TEST_F(FileTest, InputIsTheFilesBytes) {
  const std::string text("a\0b\n\xff", 5);
  WriteFile(Path("in"), text);
  const InputFile file(Path("in"));
  EXPECT_EQ(file.text(), text);
  EXPECT_EQ(file.bytes().size(), 5u);
  EXPECT_EQ(file.path(), Path("in"));
}

TEST_F(FileTest, AnEmptyInputIsAnEmptySpan) {
  WriteFile(Path("empty"), "");
  EXPECT_TRUE(InputFile(Path("empty")).bytes().empty());
  EXPECT_EQ(InputFile("/dev/null").text(), "");
}

TEST_F(FileTest, InputsThatAreNotThereOrNoFilesAreNamed) {
  EXPECT_EQ(IoMessage([&] { InputFile(Path("missing")); }), Path("missing") + ": No such file or directory");
  EXPECT_EQ(IoMessage([&] { InputFile(folder_ + "/"); }), folder_ + "/: Is a directory");
  WriteFile(Path("in"), "x");
  EXPECT_EQ(IoMessage([&] { InputFile(Path("in/below")); }), Path("in/below") + ": Not a directory");
  EXPECT_EQ(IoMessage([&] { InputFile(""); }), ": No such file or directory");
}

TEST_F(FileTest, AnInputStaysWholeWhileItsNameIsGivenToAnotherFile) {
  WriteFile(Path("in"), "the old one");
  const InputFile file(Path("in"));
  WriteFile(Path("in"), "new");
  EXPECT_EQ(file.text(), "the old one");
}

TEST_F(FileTest, APipeIsReadToItsEnd) {
  // More than a pipe holds and more than one reading takes, in pieces that do not divide either.
  std::string text;
  for (int i = 0; text.size() < (3u << 20); ++i) text += std::to_string(i) + " ";
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  std::thread writer([&] {
    const int pipe = open(Path("pipe").c_str(), O_WRONLY);
    for (size_t at = 0; at < text.size(); at += 7919) {
      const std::string piece = text.substr(at, 7919);
      EXPECT_EQ(write(pipe, piece.data(), piece.size()), static_cast<ssize_t>(piece.size()));
    }
    close(pipe);
  });
  const InputFile file(Path("pipe"));
  writer.join();
  EXPECT_EQ(file.text(), text);
}

TEST_F(FileTest, ADashIsStandardInputWhateverItIs) {
  WriteFile(Path("in"), "from standard input");
  const int saved = dup(STDIN_FILENO);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  ASSERT_EQ(write(ends[1], "short", 5), 5);
  close(ends[1]);
  dup2(ends[0], STDIN_FILENO);
  close(ends[0]);
  {
    InputFile piped("-");
    EXPECT_EQ(piped.text(), "short");
    EXPECT_EQ(piped.path(), "standard input");
    const InputFile moved(std::move(piped));  // a text this short moves with its object: the bytes must follow
    EXPECT_EQ(moved.text(), "short");
  }
  const int file = open(Path("in").c_str(), O_RDONLY);
  dup2(file, STDIN_FILENO);
  close(file);
  EXPECT_EQ(InputFile("-").text(), "from standard input");
  dup2(saved, STDIN_FILENO);
  close(saved);
}

TEST_F(FileTest, AMovedInputKeepsItsBytes) {
  WriteFile(Path("in"), "mapped");
  InputFile file(Path("in"));
  const InputFile moved(std::move(file));
  EXPECT_EQ(moved.text(), "mapped");
  EXPECT_TRUE(file.bytes().empty());  // NOLINT: what is left behind must be harmless
}

// --- OutputFile

TEST_F(FileTest, AnOutputTakesItsNameInCommit) {
  {
    OutputFile file(Path("out"));
    file.Write("ab");
    file.Write(std::as_bytes(std::span("c", 1)));
    EXPECT_EQ(file.offset(), 3u);
    EXPECT_EQ(List(), Names{".out.tmp"});
    file.Commit();
    EXPECT_EQ(List(), Names{"out"});
  }
  EXPECT_EQ(Read(Path("out")), "abc");
  EXPECT_EQ(List(), Names{"out"});
}

TEST_F(FileTest, LargeWritesAndSmallOnesKeepTheirOrder) {
  OutputFile file(Path("out"));
  std::string expected;
  for (const size_t size : {1u, 1u << 20, 5u, (1u << 20) - 1, 3u << 20, 0u, 7u}) {
    const std::string piece(size, static_cast<char>('a' + expected.size() % 26));
    file.Write(piece);
    expected += piece;
  }
  EXPECT_EQ(file.offset(), expected.size());
  file.Commit();
  EXPECT_EQ(Read(Path("out")), expected);
}

TEST_F(FileTest, AnUncommittedOutputLeavesTheOldFileAndNothingElse) {
  WriteFile(Path("out"), "old");
  {
    OutputFile file(Path("out"));
    file.Write(std::string(3 << 20, 'n'));
    EXPECT_EQ(Read(Path("out")), "old");
  }
  EXPECT_EQ(Read(Path("out")), "old");
  EXPECT_EQ(List(), Names{"out"});
}

TEST_F(FileTest, ASecondWriterIsRefusedAndTheFirstGoesOn) {
  OutputFile first(Path("out"));
  first.Write("first");
  EXPECT_EQ(IoMessage([&] { OutputFile second(Path("out")); }), Path("out") + ": another process is writing it");
  first.Commit();
  EXPECT_EQ(Read(Path("out")), "first");
  WriteFile(Path("out"), "then another");
  EXPECT_EQ(Read(Path("out")), "then another");
}

TEST_F(FileTest, WritersInARowNeverMixTheirBytes) {
  const auto write = [&](char c) {
    for (int i = 0; i < 200; ++i) {
      try {
        WriteFile(Path("out"), std::string(20'000, c));
      } catch (const IoError& error) {
        EXPECT_EQ(error.what(), Path("out") + ": another process is writing it");
      }
    }
  };
  WriteFile(Path("out"), std::string(20'000, 'a'));
  {
    const std::jthread a(write, 'a'), b(write, 'b');
    for (int i = 0; i < 200; ++i) {
      const std::string text = Read(Path("out"));
      ASSERT_EQ(text.size(), 20'000u);
      ASSERT_EQ(text, std::string(20'000, text[0]));
    }
  }
  EXPECT_EQ(List(), Names{"out"});
}

TEST_F(FileTest, WhatAKilledWriterLeftIsOverwritten) {
  const pid_t child = fork();
  if (child == 0) {
    OutputFile file(Path("out"));
    file.Write(std::string(2 << 20, 'x'));  // longer than what comes after
    raise(SIGKILL);
  }
  int status;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  ASSERT_EQ(List(), Names{".out.tmp"});
  WriteFile(Path("out"), "new");
  EXPECT_EQ(Read(Path("out")), "new");
  EXPECT_EQ(List(), Names{"out"});
}

TEST_F(FileTest, OutputsThatCannotBeAreNamed) {
  EXPECT_EQ(IoMessage([&] { OutputFile file(Path("missing/out")); }),
            Path("missing/out") + ": No such file or directory");
  fs::create_directory(Path("folder"));
  EXPECT_EQ(IoMessage([&] { OutputFile file(Path("folder")); }), Path("folder") + ": Is a directory");
  EXPECT_EQ(IoMessage([&] { OutputFile file(""); }), ": No such file or directory");
  EXPECT_EQ(List(), Names{"folder"});
}

TEST_F(FileTest, AReadOnlyFolderIsNotWritten) {
  WriteFile(Path("out"), "old");
  const pid_t child = fork();
  if (child == 0) {
    // Permissions do not bind root: then another user tries.
    chmod(folder_.c_str(), 0555);
    if (getuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(77);
    _exit(IoMessage([&] { OutputFile file(Path("out")); }) == Path("out") + ": Permission denied" ? 0 : 1);
  }
  int status;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77)
    GTEST_SKIP() << "skipped: root writes everywhere, and may not become another user here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(Read(Path("out")), "old");
}

TEST_F(FileTest, AFullDiskIsToldAndNothingIsLeft) {
  if (mount("tmpfs", folder_.c_str(), "tmpfs", 0, "size=64k") != 0)
    GTEST_SKIP() << "skipped: this user cannot mount a tmpfs";
  WriteFile(Path("out"), "old");
  // Small writes wait in the buffer: the disk refuses in Commit. A large one is refused at once.
  EXPECT_EQ(IoMessage([&] { WriteFile(Path("out"), std::string(200'000, 'x')); }),
            Path("out") + ": No space left on device");
  EXPECT_EQ(IoMessage([&] {
              OutputFile file(Path("out"));
              file.Write(std::string(2 << 20, 'x'));
              ADD_FAILURE() << "2 MiB fitted in 64 KiB";
            }),
            Path("out") + ": No space left on device");
  EXPECT_EQ(Read(Path("out")), "old");
  EXPECT_EQ(List(), Names{"out"});
}

TEST_F(FileTest, PipesAndDevicesAreWrittenStraightAndStayWhatTheyAre) {
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  std::string read;
  std::thread reader([&] { read = Read(Path("pipe")); });
  WriteFile(Path("pipe"), "through the pipe");
  reader.join();
  EXPECT_EQ(read, "through the pipe");
  EXPECT_TRUE(fs::is_fifo(Path("pipe")));
  EXPECT_EQ(List(), Names{"pipe"});
}

TEST_F(FileTest, ALinkStaysALink) {
  fs::create_directory(Path("elsewhere"));
  WriteFile(Path("elsewhere/file"), "old");
  fs::create_symlink("elsewhere/file", Path("link"));
  WriteFile(Path("link"), "new");
  EXPECT_TRUE(fs::is_symlink(Path("link")));
  EXPECT_EQ(Read(Path("elsewhere/file")), "new");
  EXPECT_EQ(List(), (Names{"elsewhere", "link"}));
}

TEST_F(FileTest, ADashIsStandardOutput) {
  const int saved = dup(STDOUT_FILENO);
  const int file = open(Path("out").c_str(), O_WRONLY | O_CREAT, 0600);
  dup2(file, STDOUT_FILENO);
  {
    OutputFile output("-");
    output.Write("checkpoint");
    output.Commit();
    EXPECT_EQ(output.path(), "standard output");
  }
  EXPECT_EQ(fcntl(STDOUT_FILENO, F_GETFD), 0);  // still open
  const int full = open("/dev/full", O_WRONLY);
  dup2(full, STDOUT_FILENO);
  const std::string message = IoMessage([] { WriteFile("-", "x"); });
  dup2(saved, STDOUT_FILENO);
  for (const int descriptor : {saved, file, full}) close(descriptor);
  EXPECT_EQ(Read(Path("out")), "checkpoint");
  EXPECT_EQ(message, "standard output: No space left on device");
}

TEST_F(FileTest, ASignalIsNoFailure) {
  // A handler without SA_RESTART interrupts a write to a full pipe; the write continues.
  struct sigaction action = {}, before;
  action.sa_handler = [](int) {};
  sigaction(SIGUSR1, &action, &before);
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  const std::string text(4 << 20, 'x');
  std::string read;
  const pthread_t self = pthread_self();
  std::thread reader([&] {
    const InputFile file(Path("pipe"));
    read = file.text();
  });
  std::atomic<bool> done = false;
  std::thread signals([&] {
    while (!done) {
      pthread_kill(self, SIGUSR1);
      usleep(200);
    }
  });
  EXPECT_NO_THROW(WriteFile(Path("pipe"), text));
  done = true;
  signals.join();
  reader.join();
  sigaction(SIGUSR1, &before, nullptr);
  EXPECT_EQ(read, text);
}

TEST_F(FileTest, AFileOverItsSizeLimitIsTold) {
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);  // as RunTool does
    const rlimit limit = {1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    _exit(IoMessage([&] { WriteFile(Path("out"), std::string(5000, 'x')); }) == Path("out") + ": File too large" ? 0 : 1);
  }
  int status;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(List(), Names{});
}

// --- AppendedFile

TEST_F(FileTest, LinesAreAppended) {
  AppendedFile(Path("log")).WriteLine("one");
  AppendedFile file(Path("log"));
  EXPECT_EQ(Read(Path("log")), "one\n");
  file.WriteLine("");
  AppendedFile(Path("log")).WriteLine("from another program");
  file.WriteLine("two");
  EXPECT_EQ(Read(Path("log")), "one\n\nfrom another program\ntwo\n");
  EXPECT_EQ(IoMessage([&] { AppendedFile(Path("missing/log")); }), Path("missing/log") + ": No such file or directory");
  EXPECT_EQ(IoMessage([&] { AppendedFile("/dev/full").WriteLine("x"); }), "/dev/full: No space left on device");
}

TEST_F(FileTest, ALineThatWasCutOffIsMarked) {
  WriteFile(Path("log"), "step:1/20 train_loss:6.9\nstep:2/20 train_lo");
  AppendedFile(Path("log")).WriteLine("train --resume newest");
  EXPECT_EQ(Read(Path("log")), "step:1/20 train_loss:6.9\nstep:2/20 train_lo [cut off]\ntrain --resume newest\n");
}

// --- names that change and go

TEST_F(FileTest, ARenamedFileTakesThePlaceOfTheOther) {
  fs::create_directory(Path("elsewhere"));
  WriteFile(Path("elsewhere/file"), "old");
  fs::create_symlink("elsewhere/file", Path("link"));
  WriteFile(Path("from"), "new");
  RenameFile(Path("from"), Path("link"));
  EXPECT_EQ(Read(Path("elsewhere/file")), "new");
  EXPECT_EQ(List(), (Names{"elsewhere", "link"}));
  EXPECT_EQ(IoMessage([&] { RenameFile(Path("from"), Path("to")); }), Path("to") + ": No such file or directory");
  RemoveFile(Path("missing"));
  EXPECT_EQ(IoMessage([&] { RemoveFile(Path("elsewhere")); }), Path("elsewhere") + ": Is a directory");
}

TEST_F(FileTest, LeftOversAreRemovedByTheirPrefix) {
  for (const char* name : {".run-1.tmp", ".run-22.tmp", "run-1", ".other.tmp", ".run-3", "run-4.tmp"}) WriteFile(Path(name), "");
  RemoveLeftOvers(Path("run-"));
  EXPECT_EQ(List(), (Names{".other.tmp", ".run-3", "run-1", "run-4.tmp"}));
  EXPECT_EQ(IoMessage([&] { RemoveLeftOvers(Path("missing/run-")); }), Path("missing") + ": No such file or directory");
}

// --- folders and names

TEST_F(FileTest, DirectoriesAreMadeWithTheirParents) {
  MakeDirectories(Path("a/b/c"));
  MakeDirectories(Path("a/b/c"));
  EXPECT_TRUE(fs::is_directory(Path("a/b/c")));
  WriteFile(Path("file"), "");
  EXPECT_EQ(IoMessage([&] { MakeDirectories(Path("file/below")); }), Path("file/below") + ": Not a directory");
}

TEST(Paths, HaveADirectoryAndAName) {
  const std::string cases[][3] = {
      {"a/b.ckpt", "a", "b.ckpt"}, {"b.ckpt", ".", "b.ckpt"}, {"/b", "/", "b"}, {"a/", "a", ""},
      {"../a/.b", "../a", ".b"},   {"a//b", "a", "b"}};
  for (const auto& [path, directory, name] : cases) {
    EXPECT_EQ(DirectoryOf(path), directory) << path;
    EXPECT_EQ(BaseName(path), name) << path;
  }
}

TEST(Paths, ProgramDirectoryHoldsThisProgram) {
  EXPECT_TRUE(fs::exists(ProgramDirectory() + "/base_test"));
}

}  // namespace
}  // namespace fairway
