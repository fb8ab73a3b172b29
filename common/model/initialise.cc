#include "common/model/initialise.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/diag.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/zeros.h>

#include <cmath>

namespace fairway {
namespace {

class WithThreads {
 public:
  explicit WithThreads(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~WithThreads() { at::set_num_threads(before_); }

 private:
  int before_;
};

// The framework's default for a linear layer: Kaiming uniform with a = sqrt 5.
void KaimingUniform(at::Tensor& weight, at::Generator& generator) {
  const double gain = std::sqrt(2.0 / (1.0 + std::pow(std::sqrt(5.0), 2)));
  const double bound = std::sqrt(3.0) * (gain / std::sqrt(static_cast<double>(weight.size(1))));
  weight.uniform_(-bound, bound, generator);
}

// Standard normals drawn row-major, QR of the tall orientation, columns signed by R's diagonal, as torch.nn.init.orthogonal_ does.
void Orthogonal(at::Tensor& weight, at::Generator& generator) {
  at::Tensor normals = at::empty(weight.sizes()).normal_(0, 1, generator);
  const bool wide = weight.size(0) < weight.size(1);
  if (wide) normals.t_();
  auto [q, r] = at::linalg_qr(normals);
  q.mul_(at::diag(r).sign());
  if (wide) q.t_();
  weight.copy_(q);
}

}  // namespace

NamedTensors InitialParameters(const Settings& settings) {
  const WithThreads two(2);
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(settings.seed));
  const Plan plan(settings);
  const std::vector<ParameterSpec> specs = ParameterSpecs(settings);
  NamedTensors parameters;
  for (const ParameterSpec& spec : specs) {
    at::Tensor tensor = at::zeros(spec.shape);
    if (spec.first.size() == 1) tensor.fill_(spec.first[0]);
    for (size_t row = 0; row < spec.first.size() && spec.first.size() > 1; ++row) tensor[static_cast<int64_t>(row)].fill_(spec.first[row]);
    parameters.emplace_back(spec.name, tensor);
  }
  for (const InitialDraw& draw : plan.draws) {
    at::Tensor drawn = at::empty(specs[draw.weight].shape);
    switch (draw.kind) {
      case InitialDraw::Kind::kNormal: drawn.normal_(0, draw.scale, generator); break;
      case InitialDraw::Kind::kKaimingUniform: KaimingUniform(drawn, generator); break;
      case InitialDraw::Kind::kOrthogonal:
        Orthogonal(drawn, generator);
        if (draw.scale != 1) drawn.mul_(draw.scale);
        break;
    }
    if (draw.kept) parameters[draw.weight].second = drawn;
  }
  for (size_t i = 0; i < specs.size(); ++i) {
    at::Tensor& tensor = parameters[i].second;
    if (settings.published_quirks && settings.precision == "bfloat16") tensor = tensor.to(at::kBFloat16);
    tensor = tensor.to(specs[i].dtype);
  }
  return parameters;
}

}  // namespace fairway
