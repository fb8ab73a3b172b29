// A mapped file can fail while it is used: it was truncated, or the disk failed. The system then sends SIGBUS to whoever
// touches it.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace fairway {

// From now on that ends the program with one line "PROGRAM: FILE: …" on standard error and status 3, as failed reads
// do.
void CatchReadErrors(const std::string& program);

// Names a mapping for that line, and forgets it again.
void NameMapping(std::span<const std::byte> bytes, const std::string& path);
void ForgetMapping(std::span<const std::byte> bytes);

}  // namespace fairway
