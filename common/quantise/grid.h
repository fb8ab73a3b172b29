// Which grid each tensor is exported on (pull request 531). The quantiser and late quantisation-aware
// training both ask here, so that training rounds to the very grid that the export will use.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "common/checkpoint/checkpoint.h"
#include "common/settings/settings.h"

namespace fairway {

// The integers that a code may be; a weight is code * scale of its row.
struct Grid {
  std::string_view name;
  int32_t q_min, q_max;
  bool operator==(const Grid&) const = default;
};

inline constexpr Grid kInt5{"int5", -16, 15};
inline constexpr Grid kInt6{"int6", -32, 31};
inline constexpr Grid kInt8{"int8", -127, 127};
// Of rtn and gptq: what keeps codes short is the entropy code behind them.
inline constexpr Grid kEntropyCoded = kInt8;

// Half to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no bits behind the point. Unlike a call of rint it vectorises.
inline float RoundHalfEven(float x) {
  constexpr float kShift = 0x1.8p23f;
  return (x + kShift) - kShift;
}

// Whether the quantiser fills a number of bytes (rtn, gptq).
bool HasSize(const Settings& settings);
// Whether late QAT trains on uniform steps that follow from the budget (steps.h, budget.h): where the export of QUANTISER rtn or
// gptq has them. The published quantiser has ExportGrid's; published_quirks trains on the published grid whatever the export's.
bool TrainsOnBudgetSteps(const Settings& settings);

// Whether `name` is one of the control tensors of settings.control_tensor_name_patterns.
bool IsControlTensor(std::string_view name, const Settings& settings);

// The grid of the matrix `name`, or nothing where it stays in floating point: at most keep_max_numel elements, a
// control tensor, or on the keep list. MLP matrices take int5, attention and other projections int6, all else int8.
std::optional<Grid> ExportGrid(std::string_view name, int64_t rows, int64_t columns, const Settings& settings);

// The dtype of a tensor that has no grid: float32 for control tensors of more than keep_max_numel elements, else
// float16.
DType KeptDType(std::string_view name, int64_t numel, const Settings& settings);

}  // namespace fairway
