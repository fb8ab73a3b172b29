#include "common/quantise/grid.h"

#include <algorithm>

#include "common/base/text.h"
#include "common/plan/plan.h"

namespace fairway {
namespace {

bool MatchesAny(std::string_view name, std::string_view patterns) {
  return std::ranges::any_of(Split(patterns, ','), [&](const std::string& part) { return name.find(part) != std::string_view::npos; });
}

// Of a budget every tensor that is kept takes its share, so that the quantisers that have one keep none by default.
std::string_view KeptPatterns(const Settings& settings) {
  if (settings.fp16_keep_name_patterns != "auto") return settings.fp16_keep_name_patterns;
  return settings.quantiser == "published" ? "tok_emb" : "";
}

}  // namespace

bool HasSize(const Settings& settings) { return settings.quantiser == "rtn" || settings.quantiser == "gptq"; }

bool TrainsOnBudgetSteps(const Settings& settings) { return !settings.published_quirks && HasSize(settings); }

bool IsControlTensor(std::string_view name, const Settings& settings) {
  return MatchesAny(name, settings.control_tensor_name_patterns);
}

std::optional<Grid> ExportGrid(std::string_view name, int64_t rows, int64_t columns, const Settings& settings) {
  if (rows * columns <= settings.keep_max_numel) return std::nullopt;
  if (IsControlTensor(name, settings)) return std::nullopt;
  if (MatchesAny(name, KeptPatterns(settings))) return std::nullopt;
  switch (RoleOf(name)) {
    case Role::kMlpUp:
    case Role::kMlpDown: return kInt5;
    case Role::kQuery:
    case Role::kKey:
    case Role::kValue:
    case Role::kAttentionOutput:
    case Role::kBigramProjection: return kInt6;
    default: return kInt8;
  }
}

DType KeptDType(std::string_view name, int64_t numel, const Settings& settings) {
  return IsControlTensor(name, settings) && numel > settings.keep_max_numel ? DType::kFloat32 : DType::kFloat16;
}

}  // namespace fairway
