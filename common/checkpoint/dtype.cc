#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "common/checkpoint/checkpoint.h"

namespace fairway {

std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kInt8:
      return "int8";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
  }
  throw std::logic_error("no such dtype");
}

size_t DTypeSize(DType dtype) {
  switch (dtype) {
    case DType::kInt8:
      return 1;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kInt64:
      return 8;
  }
  throw std::logic_error("no such dtype");
}

bool IsFloatingPoint(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 0x1f, mantissa = half & 0x3ff;
  if (exponent == 0) return std::copysign(static_cast<float>(mantissa) * 0x1p-24f, std::bit_cast<float>(sign));
  const uint32_t widened = exponent == 0x1f ? 0xff : exponent - 15 + 127;
  return std::bit_cast<float>(sign | widened << 23 | mantissa << 13);
}

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = bits >> 16 & 0x8000;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00;
  if (magnitude >= 65520) return sign | 0x7c00;  // rounds beyond the largest half, 65504
  if (magnitude < 0x1p-14f) {
    // Adding 1/2 moves the last bit of the sum to 2^-24, the spacing of subnormal halves: the addition rounds for us.
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(magnitude + 0.5f) - std::bit_cast<uint32_t>(0.5f));
  }
  uint32_t rounded = bits & 0x7fffffff;
  rounded += 0xfff + (rounded >> 13 & 1);  // to nearest, ties to even; a carry goes into the exponent, as it should
  return sign | static_cast<uint16_t>((rounded >> 13) - ((127 - 15) << 10));
}

float BFloat16ToFloat(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

uint16_t FloatToBFloat16(float value) {
  if (std::isnan(value)) return 0x7fc0;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

std::vector<float> Widen(DType dtype, std::span<const std::byte> data) {
  std::vector<float> values(data.size() / DTypeSize(dtype));
  if (dtype == DType::kFloat32) {
    if (!values.empty()) std::memcpy(values.data(), data.data(), data.size());
    return values;
  }
  if (!IsFloatingPoint(dtype)) throw std::logic_error("Widen takes floating-point data");
  const auto widen = dtype == DType::kFloat16 ? HalfToFloat : BFloat16ToFloat;
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t narrow;
    std::memcpy(&narrow, data.data() + 2 * i, 2);
    values[i] = widen(narrow);
  }
  return values;
}

}  // namespace fairway
