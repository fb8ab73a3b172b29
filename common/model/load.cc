#include <ATen/ops/from_blob.h>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/model/transformer.h"
#include "common/quantise/artifact.h"

namespace fairway {

NamedTensors LoadParameters(const CheckpointReader& checkpoint, const Settings& settings) {
  const std::vector<ParameterSpec> specs = ParameterSpecs(settings);
  // Codes stand under NAME.q; everything else that belongs to them is named by their Quantisation.
  std::vector<std::string> missing, unexpected, known;
  NamedTensors parameters;
  for (const ParameterSpec& spec : specs) {
    const bool codes = checkpoint.Has(spec.name + ".q");
    const std::string stored = codes ? spec.name + ".q" : spec.name;
    if (!checkpoint.Has(stored)) {
      missing.push_back(spec.name);
      continue;
    }
    const TensorInfo& info = checkpoint.Find(stored);
    known.push_back(stored);
    if (info.quantisation) known.push_back(info.quantisation->scale);
    if (info.shape != spec.shape)
      throw InputError(checkpoint.path(), "tensor " + stored + " has another shape than the settings give");
    std::vector<float> values = info.quantisation ? Dequantise(checkpoint, info) : checkpoint.Floats(stored);
    parameters.emplace_back(spec.name, at::from_blob(values.data(), spec.shape, at::kFloat).clone().to(spec.dtype));
  }
  for (const TensorInfo& info : checkpoint.tensors())
    if (std::find(known.begin(), known.end(), info.name) == known.end()) unexpected.push_back(info.name);
  if (missing.empty() && unexpected.empty()) return parameters;
  std::string cause = "does not hold the tensors of its model";
  if (!missing.empty()) cause += "; missing: " + Join(missing, ", ");
  if (!unexpected.empty()) cause += "; unexpected: " + Join(unexpected, ", ");
  throw InputError(checkpoint.path(), cause);
}

}  // namespace fairway
