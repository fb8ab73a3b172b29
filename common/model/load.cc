#include <ATen/ops/from_blob.h>

#include "common/base/error.h"
#include "common/model/transformer.h"
#include "common/quantise/artifact.h"

namespace fairway {

NamedTensors LoadParameters(const CheckpointReader& checkpoint, const Settings& settings) {
  const std::vector<ParameterSpec> specs = ParameterSpecs(settings);
  // Codes have the name NAME.q, their scales where their Quantisation says.
  std::vector<std::string> stored, scales;
  for (const ParameterSpec& spec : specs) {
    stored.push_back(checkpoint.Has(spec.name + ".q") ? spec.name + ".q" : spec.name);
    if (!checkpoint.Has(stored.back())) continue;
    const TensorInfo& info = checkpoint.Find(stored.back());
    if (!info.quantisation) continue;
    scales.push_back(info.quantisation->scale);
    if (!info.quantisation->column_scale.empty()) scales.push_back(info.quantisation->column_scale);
    for (const std::string& factor : {info.quantisation->low_rank_left, info.quantisation->low_rank_right}) {
      if (factor.empty() || !checkpoint.Has(factor)) continue;  // Dequantise says so
      scales.push_back(factor);
      if (const auto& of = checkpoint.Find(factor).quantisation) scales.push_back(of->scale);
    }
  }
  std::vector<std::string> all = stored;
  all.insert(all.end(), scales.begin(), scales.end());
  checkpoint.ExpectTensors(all);

  NamedTensors parameters;
  for (size_t i = 0; i < specs.size(); ++i) {
    const ParameterSpec& spec = specs[i];
    const TensorInfo& info = checkpoint.Find(stored[i]);
    if (info.shape != spec.shape)
      throw InputError(checkpoint.path(), "tensor " + info.name + " has another shape than the settings give");
    std::vector<float> values = info.quantisation ? Dequantise(checkpoint, info) : checkpoint.Floats(info.name);
    parameters.emplace_back(spec.name, at::from_blob(values.data(), spec.shape, at::kFloat).clone().to(spec.dtype));
  }
  return parameters;
}

}  // namespace fairway
