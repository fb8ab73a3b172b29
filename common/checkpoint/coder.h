// An adaptive binary arithmetic coder for the codes of matrices. A model predicts each code from what the decoder already has; all of
// it is integer arithmetic, so that any processor writes and reads the same bytes. docs/formats.md describes the model.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace fairway {

// A matrix of codes, row-major, with its scales as float16 bits.
struct CodeMatrix {
  int64_t rows, columns;
  std::span<const uint16_t> scales;   // one per row
  std::span<const uint16_t> factors;  // one per column, or empty: 1
  int8_t* codes;                      // [rows * columns]; EncodeCodes leaves them as they are, but writes to them
};

// One stream for `matrices`, which share the model's statistics in their order.
std::string EncodeCodes(std::span<const CodeMatrix> matrices);

// Writes the codes of such a stream to `matrices`. False where the stream is not exactly as long as its codes.
bool DecodeCodes(std::string_view stream, std::span<const CodeMatrix> matrices);

}  // namespace fairway
