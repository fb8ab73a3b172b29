// SHA-256 for identities that records quote, XXH3 (64 bits) to detect accidental damage inside files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace fairway {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  void Update(std::span<const std::byte> bytes);
  void Update(std::string_view text);
  std::string Finish();  // 32 raw bytes; the object cannot be used afterwards

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string Sha256Hex(std::span<const std::byte> bytes);
std::string Sha256Hex(std::string_view text);

class Xxh3 {
 public:
  Xxh3();
  ~Xxh3();
  void Update(std::span<const std::byte> bytes);
  void Update(std::string_view text);
  uint64_t Digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

inline uint64_t Xxh3Of(std::string_view text) {
  Xxh3 hash;
  hash.Update(text);
  return hash.Digest();
}

}  // namespace fairway
