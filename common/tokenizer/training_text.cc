#include "common/tokenizer/training_text.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <span>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"

namespace fairway {
namespace {

// "fairway-documents SHA256\n", then the hashes.
std::string Header(const std::string& digest) { return "fairway-documents " + digest + "\n"; }

static_assert(std::endian::native == std::endian::little);  // as the file has them

}  // namespace

bool TrainingText::Has(uint64_t hash) const { return std::ranges::binary_search(hashes_, hash); }

std::optional<TrainingText> TrainingText::Read(const std::string& model, const std::string& digest) {
  const std::string path = Path(model);
  if (!std::filesystem::exists(path)) return std::nullopt;
  const InputFile file(path);
  const std::string header = Header(digest);
  const std::string_view text = file.text();
  if (text.size() < header.size() || (text.size() - header.size()) % sizeof(uint64_t) != 0)
    throw InputError(path, "is not the documents that a tokenizer was trained on: it is cut off; remove it, or train the tokenizer again");
  if (!text.starts_with(header))
    throw InputError(path, "is not of the tokenizer beside it, whose SHA-256 is " + digest + "; remove it, or train the tokenizer again");
  TrainingText result;
  result.hashes_.resize((text.size() - header.size()) / sizeof(uint64_t));
  if (!result.hashes_.empty()) std::memcpy(result.hashes_.data(), text.data() + header.size(), text.size() - header.size());
  std::ranges::sort(result.hashes_);
  return result;
}

void TrainingText::Write(const std::string& model, const std::string& digest) const {
  OutputFile file(Path(model));
  file.Write(Header(digest));
  file.Write(std::as_bytes(std::span(hashes_)));
  file.Commit();
}

}  // namespace fairway
