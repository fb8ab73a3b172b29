#include "common/checkpoint/coder.h"

#include "common/checkpoint/coder_model.h"

namespace fairway {
namespace {

using coder_model::Model;

class Encoder {
 public:
  bool Code(bool bit, int p) {
    const uint64_t range = high_ - low_, middle = low_ + (range >> 16) * p + ((range & 65535) * p >> 16);
    (bit ? high_ : low_) = bit ? middle : middle + 1;
    for (; (low_ ^ high_) >> 56 == 0; low_ <<= 8, high_ = high_ << 8 | 255) bytes_ += static_cast<char>(low_ >> 56);
    return bit;
  }
  std::string Finish() { return bytes_ + static_cast<char>(high_ >> 56); }

 private:
  uint64_t low_ = 0, high_ = ~0ull;
  std::string bytes_;
};

class Decoder {
 public:
  explicit Decoder(std::string_view bytes) : bytes_(bytes) {
    for (int i = 0; i < 8; ++i) Shift();
  }
  bool Code(bool, int p) {
    const uint64_t range = high_ - low_, middle = low_ + (range >> 16) * p + ((range & 65535) * p >> 16);
    const bool bit = value_ <= middle;
    (bit ? high_ : low_) = bit ? middle : middle + 1;
    for (; (low_ ^ high_) >> 56 == 0; low_ <<= 8, high_ = high_ << 8 | 255) Shift();
    return bit;
  }
  // The encoder's last byte is followed by seven that do not matter.
  bool AtEnd() const { return position_ == bytes_.size() + 7; }

 private:
  void Shift() {
    value_ = value_ << 8 | (position_ < bytes_.size() ? static_cast<unsigned char>(bytes_[position_]) : 0);
    ++position_;
  }
  uint64_t low_ = 0, high_ = ~0ull, value_ = 0;
  std::string_view bytes_;
  size_t position_ = 0;
};

}  // namespace

std::string EncodeCodes(std::span<const CodeMatrix> matrices) {
  Encoder encoder;
  Model model(encoder);
  for (const CodeMatrix& matrix : matrices) model.Code(matrix);
  return encoder.Finish();
}

bool DecodeCodes(std::string_view stream, std::span<const CodeMatrix> matrices) {
  Decoder decoder(stream);
  Model model(decoder);
  for (const CodeMatrix& matrix : matrices) model.Code(matrix);
  return decoder.AtEnd();
}

}  // namespace fairway
