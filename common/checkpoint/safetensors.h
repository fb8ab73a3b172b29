// Tensors as Python users keep them: a .safetensors file is the length of a JSON header (8 bytes, little-endian), the
// header
// ({"NAME": {"dtype", "shape", "data_offsets"}, …, "__metadata__": {"TEXT": "TEXT", …}}), and the data without gaps.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/checkpoint/checkpoint.h"

namespace fairway {

// Opens a file memory-mapped; its whole header is checked at once. The format has no hashes: damage inside the data
// goes unnoticed. Every defect is an InputError naming the file and the cause.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::string& path);  // "-": standard input
  ~SafetensorsReader();
  SafetensorsReader(SafetensorsReader&&) noexcept;

  const std::string& path() const;
  const std::vector<TensorInfo>& tensors() const;  // in the order of their data
  const SettingValues& metadata() const;           // name and text, by name
  std::string digest() const;                      // SHA-256 of the whole file, hexadecimal

  bool Has(std::string_view name) const;
  const TensorInfo& Find(std::string_view name) const;           // InputError "misses tensor NAME"
  std::span<const std::byte> Data(std::string_view name) const;  // of no particular alignment
  std::vector<float> Floats(std::string_view name) const;        // of float32, float16, bfloat16: widened to float32

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Writes these tensors, larger dtypes first, so that every tensor is aligned to its elements. `data` is asked for the
// bytes of one tensor after the other, which must stay until it is called again. REQUIRES: they are info.bytes() many;
// no name twice. Throws IoError.
void WriteSafetensors(const std::string& path, std::vector<TensorInfo> tensors, const SettingValues& metadata,
                      const std::function<std::span<const std::byte>(const TensorInfo&)>& data);

}  // namespace fairway
