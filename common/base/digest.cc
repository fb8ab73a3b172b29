#include "common/base/digest.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include "common/base/text.h"

namespace fairway {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) { EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr); }
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
void Sha256::Update(std::span<const std::byte> bytes) { EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()); }
void Sha256::Update(std::string_view text) { EVP_DigestUpdate(state_->context, text.data(), text.size()); }
std::string Sha256::Finish() {
  std::string digest(32, '\0');
  EVP_DigestFinal_ex(state_->context, reinterpret_cast<unsigned char*>(digest.data()), nullptr);
  return digest;
}

std::string Sha256Hex(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return ToHex(hash.Finish());
}
std::string Sha256Hex(std::string_view text) { return Sha256Hex(std::as_bytes(std::span<const char>(text))); }

struct Xxh3::State {
  XXH3_state_t* hash = XXH3_createState();
  ~State() { XXH3_freeState(hash); }
};

Xxh3::Xxh3() : state_(std::make_unique<State>()) { XXH3_64bits_reset(state_->hash); }
Xxh3::~Xxh3() = default;
void Xxh3::Update(std::span<const std::byte> bytes) { XXH3_64bits_update(state_->hash, bytes.data(), bytes.size()); }
void Xxh3::Update(std::string_view text) { XXH3_64bits_update(state_->hash, text.data(), text.size()); }
uint64_t Xxh3::Digest() const { return XXH3_64bits_digest(state_->hash); }

}  // namespace fairway
