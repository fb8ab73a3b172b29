// The system calls by which files are written, with a fault at one of them. Loaded into a program by LD_PRELOAD, it stands beneath
// all that the program does, so programs need not know that such a thing exists.
//
//   FAULTS_LIST=FILE   each call is noted there: "number call path"
//   FAULTS_AT=n        the call, counted from 1, at which …
//   FAULTS_ON=text     or the first call whose note, without its number, ends with this, at which …
//   FAULTS_KIND=kind   kill: the process is killed instead of the call; torn: after half of a write, and after any other call;
//                      full, quota: no space on the disk for this call and all later ones; io: this call fails, EIO;
//                      short: of this write one half is taken; eintr: this call is interrupted; stall: it takes 8 seconds;
//                      plain: as kill, on a file system that cannot exchange two folders
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

template <typename Function>
Function* Real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

const char* Environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

enum Call { kOpen, kWrite, kTruncate, kSync, kRename, kRemove, kMakeFolder };
constexpr const char* kNames[] = {"open", "write", "truncate", "sync", "rename", "remove", "mkdir"};

bool Is(const char* kind) { return std::strcmp(Environment("FAULTS_KIND"), kind) == 0; }

// What is done to a call. `fails` with `error`, or continues; `half`: with half of the bytes; `last`: and the process ends then.
struct Fault {
  int error = 0;
  bool half = false, last = false;
};

[[noreturn]] void Die() {
  kill(getpid(), SIGKILL);
  while (true) pause();
}

Fault Next(Call call, const std::string& path) {
  static std::atomic<int> count = 0;
  static std::atomic<int> at = std::atoi(Environment("FAULTS_AT"));
  static const std::string on = Environment("FAULTS_ON");
  const int number = ++count;
  if (!on.empty() && at == 0 && (kNames[call] + (" " + path)).ends_with(on)) at = number;
  if (const char* list = Environment("FAULTS_LIST"); *list) {
    static auto* const open = Real<int(const char*, int, ...)>("open");
    static auto* const write = Real<ssize_t(int, const void*, size_t)>("write");
    static const int file = open(list, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    const std::string line = std::to_string(number) + " " + kNames[call] + " " + path + "\n";
    if (write(file, line.data(), line.size()) < 0) Die();
  }
  const bool takes_room = call == kOpen || call == kWrite || call == kSync || call == kMakeFolder;
  if (at > 0 && number >= at && takes_room && Is("full")) return {.error = ENOSPC};
  if (at > 0 && number >= at && takes_room && Is("quota")) return {.error = EDQUOT};
  if (number != at) return {};
  if (Is("kill") || Is("plain")) Die();
  if (Is("torn")) return {.half = true, .last = true};
  if (Is("io")) return {.error = EIO};
  if (Is("short")) return {.half = true};
  if (Is("stall")) sleep(8);
  if (Is("eintr") && (call == kOpen || call == kWrite || call == kTruncate || call == kSync)) return {.error = EINTR};
  return {};
}

template <typename Body>
auto Run(Call call, const std::string& path, Body body) -> decltype(body(false)) {
  const Fault fault = Next(call, path);
  if (fault.error != 0) {
    errno = fault.error;
    return -1;
  }
  const auto result = body(fault.half);
  if (fault.last) Die();
  return result;
}

bool IsRegular(int descriptor) {
  struct stat status;
  return fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
}

std::string PathOf(int descriptor) {
  char path[4096];
  const ssize_t size = readlink(("/proc/self/fd/" + std::to_string(descriptor)).c_str(), path, sizeof path);
  return size > 0 ? std::string(path, size) : "?";
}

int OpenAt(int directory, const char* path, int flags, mode_t mode) {
  static auto* const next = Real<int(int, const char*, int, ...)>("openat");
  // Pipes and devices are no files, and what is read is not at issue.
  const bool written = (flags & O_ACCMODE) != O_RDONLY && std::strncmp(path, "/dev/", 5) != 0;
  if (!written) return next(directory, path, flags, mode);
  return Run(kOpen, path, [&](bool) { return next(directory, path, flags, mode); });
}

mode_t ModeOf(int flags, va_list arguments) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0; }

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

#define OPEN(name)                                     \
  EXPORT int name(const char* path, int flags, ...) {  \
    va_list arguments;                                 \
    va_start(arguments, flags);                        \
    const mode_t mode = ModeOf(flags, arguments);      \
    va_end(arguments);                                 \
    return OpenAt(AT_FDCWD, path, flags, mode);        \
  }
OPEN(open)
OPEN(open64)

EXPORT ssize_t write(int descriptor, const void* bytes, size_t size) {
  static auto* const next = Real<ssize_t(int, const void*, size_t)>("write");
  if (!IsRegular(descriptor) || size == 0) return next(descriptor, bytes, size);
  return Run(kWrite, PathOf(descriptor), [&](bool half) { return next(descriptor, bytes, half ? (size + 1) / 2 : size); });
}

EXPORT int ftruncate(int descriptor, off_t size) {
  static auto* const next = Real<int(int, off_t)>("ftruncate");
  return Run(kTruncate, PathOf(descriptor), [&](bool) { return next(descriptor, size); });
}

EXPORT int fsync(int descriptor) {
  static auto* const next = Real<int(int)>("fsync");
  return Run(kSync, PathOf(descriptor), [&](bool) { return next(descriptor); });
}

EXPORT int rename(const char* from, const char* to) {
  static auto* const next = Real<int(const char*, const char*)>("rename");
  return Run(kRename, to, [&](bool) { return next(from, to); });
}

EXPORT int renameat2(int from_directory, const char* from, int to_directory, const char* to, unsigned flags) {
  static auto* const next = Real<int(int, const char*, int, const char*, unsigned)>("renameat2");
  if (Is("plain")) {
    errno = EINVAL;
    return -1;
  }
  return Run(kRename, to, [&](bool) { return next(from_directory, from, to_directory, to, flags); });
}

EXPORT int unlink(const char* path) {
  static auto* const next = Real<int(const char*)>("unlink");
  return Run(kRemove, path, [&](bool) { return next(path); });
}

EXPORT int unlinkat(int directory, const char* path, int flags) {
  static auto* const next = Real<int(int, const char*, int)>("unlinkat");
  return Run(kRemove, path, [&](bool) { return next(directory, path, flags); });
}

EXPORT int remove(const char* path) {
  static auto* const next = Real<int(const char*)>("remove");
  return Run(kRemove, path, [&](bool) { return next(path); });
}

EXPORT int mkdir(const char* path, mode_t mode) {
  static auto* const next = Real<int(const char*, mode_t)>("mkdir");
  return Run(kMakeFolder, path, [&](bool) { return next(path, mode); });
}
