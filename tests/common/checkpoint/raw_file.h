// A writer of checkpoints that are wrong in one way: protobuf fields by hand, with hashes that agree, so that what is
// refused is the defect itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/digest.h"

namespace fairway {

inline std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
inline std::string Fixed(uint64_t value) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(value >> 8 * i);
  return out;
}
inline std::string Field(int number, uint64_t value) {
  return Varint(number << 3) + Varint(value);
}
inline std::string Field(int number, std::string_view bytes) {
  return Varint(number << 3 | 2) + Varint(bytes.size()) + std::string(bytes);
}
inline std::string FixedField(int number, uint64_t value) {
  return Varint(number << 3 | 1) + Fixed(value);
}

// One message per tensor, as in the file; `data` is the payload within its last bytes.
struct RawTensor {
  std::string name, fields, data;
};

inline RawTensor Floats(const std::string& name, int64_t count) {
  return {name, Field(1, name) + Field(2, 1) + Field(3, Varint(count)), std::string(4 * count, 'x')};
}

struct RawFile {
  std::string header = Field(1, 1) + Field(2, 2) + Field(3, Field(1, "num_layers") + Field(2, "2"));
  std::vector<RawTensor> tensors = {Floats("a", 2), Floats("b", 3)};
  std::string between;       // fields before each tensor
  std::string after;         // fields between the last tensor and the footer
  std::string more_footer;   // further fields of the footer
  int skip_in_index = -1;    // a tensor that the index leaves out
  int64_t offset_error = 0;  // of the first entry of the index

  std::string Bytes() const {
    std::string file = "\tfairway\n" + Field(2, header);
    const uint64_t header_hash = Xxh3Of(file);
    std::string index;
    uint64_t begin = file.size();
    for (size_t i = 0; i < tensors.size(); ++i) {
      file += between + Field(3, tensors[i].fields + Field(15, tensors[i].data));
      const uint64_t error = i == 0 ? offset_error : 0, size = tensors[i].data.size();
      if (static_cast<int>(i) == skip_in_index) continue;
      index += Field(1, Field(1, tensors[i].name) + FixedField(2, file.size() - size + error) + FixedField(3, size) +
                            FixedField(4, Xxh3Of(std::string_view(file).substr(begin))));
      begin = file.size();
    }
    file += after;
    const uint64_t offset = file.size();
    const std::string body = index + more_footer + FixedField(5, header_hash);
    const std::string footer = std::string("\x7a") + Varint(body.size() + 18) + body;
    return file + footer + FixedField(6, Xxh3Of(footer)) + FixedField(15, offset);
  }
};

// The same of a packed checkpoint: 2 x 3 codes, the rows of larger scales first, and their scales 1 and 2.
struct RawPacked {
  std::string header = Field(1, 3) + Field(2, 3) + Field(3, Field(1, "num_layers") + Field(2, "2"));
  std::string codes = Field(1, "w.q") + Field(2, 4) + Field(3, Varint(2) + Varint(3));
  std::string quantisation = Field(1, "int5") + Field(2, 31) + Field(3, 30) + Field(4, "w.scale");  // codes -16 to 15
  uint64_t order = 1;
  std::string stream;  // a field of the codes
  std::string scales = Field(1, "w.scale") + Field(2, 2) + Field(3, Varint(2));
  std::string data = std::string("\4\5\6\1\2\3\x3c\x40\0\0", 10);
  std::string after;  // fields behind the data

  std::string Bytes() const {
    const std::string file = "\tfairway\n" + Field(2, header) + Field(3, codes + Field(4, quantisation) + Field(5, order) + stream) +
                             Field(3, scales) + Field(4, data) + after;
    return file + FixedField(5, Xxh3Of(file));
  }
};

}  // namespace fairway
