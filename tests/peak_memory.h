// How much memory a program held at most.
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <string>

namespace fairway {

struct Measured {
  int status = -1;         // as a shell says it
  int64_t peak_bytes = 0;  // resident, shared libraries and mapped files included
};

// Runs a shell command, one program, in `folder`, programs of `bin` on its path.
inline Measured RunMeasured(const std::string& folder, const std::string& bin, const std::string& command) {
  const pid_t child = fork();
  if (child == 0) {
    const std::string path = "PATH=" + bin + ":/usr/bin:/bin", script = "exec " + command;
    const char* const arguments[] = {"sh", "-c", script.c_str(), nullptr};
    const char* const environment[] = {path.c_str(), "OMP_WAIT_POLICY=PASSIVE", nullptr};
    if (chdir(folder.c_str()) == 0) execve("/bin/sh", const_cast<char**>(arguments), const_cast<char**>(environment));
    _exit(127);
  }
  int status = 0;
  rusage usage = {};
  wait4(child, &status, 0, &usage);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), static_cast<int64_t>(usage.ru_maxrss)
                                                                                << 10};
}

// Of "estimate: memory 0.42 GB" in a log, the bytes; 0 where there is no such line.
inline int64_t EstimateOf(const std::string& log) {
  constexpr char kBegin[] = "estimate: memory ";
  const size_t at = log.find(kBegin);
  return at == std::string::npos ? 0 : static_cast<int64_t>(std::stod(log.substr(at + sizeof kBegin - 1)) * 1e9);
}

}  // namespace fairway
