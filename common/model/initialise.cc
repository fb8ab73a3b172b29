#include "common/model/initialise.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/diag.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <functional>

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

// Standard normals drawn row-major, QR of the tall orientation, columns signed by R's diagonal (section 2.1).
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

NamedTensors InitialParameters(const Settings& s) {
  const WithThreads two(2);
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(s.seed));
  const std::vector<ParameterSpec> specs = ParameterSpecs(s);
  NamedTensors parameters;
  for (const ParameterSpec& spec : specs) parameters.emplace_back(spec.name, at::zeros(spec.shape));
  const auto find = [&](const std::string& name) -> at::Tensor& {
    for (auto& [own, tensor] : parameters)
      if (own == name) return tensor;
    throw std::out_of_range("no parameter " + name);
  };
  const auto each_block = [&](std::initializer_list<const char*> names, const std::function<void(at::Tensor&)>& draw) {
    for (int64_t i = 0; i < s.num_layers; ++i)
      for (const char* name : names) draw(find("blocks." + std::to_string(i) + "." + name + ".weight"));
  };
  const bool bigram = s.bigram_vocab_size > 0, projected = bigram && s.bigram_dim != s.model_dim;

  // Construction: the framework's defaults.
  find("tok_emb.weight").normal_(0, 1, generator);
  if (bigram) find("bigram.embed.weight").normal_(0, 1, generator).zero_();
  if (projected) {
    KaimingUniform(find("bigram.proj.weight"), generator);
    find("bigram.proj.weight").zero_();
  }
  each_block({"attn.c_q", "attn.c_k", "attn.c_v", "attn.proj", "mlp.fc", "mlp.proj"},
             [&](at::Tensor& weight) { KaimingUniform(weight, generator); });
  each_block({"attn.proj", "mlp.proj"}, [](at::Tensor& weight) { weight.zero_(); });
  if (!s.tie_embeddings) {
    KaimingUniform(find("lm_head.weight"), generator);
    find("lm_head.weight").zero_();
  }

  // Initialisation proper.
  if (s.tie_embeddings) find("tok_emb.weight").normal_(0, s.tied_embed_init_std, generator);
  const auto orthogonal = [&](at::Tensor& weight) {
    if (weight.size(0) >= 64 && weight.size(1) >= 64) Orthogonal(weight, generator);
  };
  if (projected) {
    orthogonal(find("bigram.proj.weight"));
    find("bigram.proj.weight").mul_(1.0 / std::sqrt(2.0 * static_cast<double>(s.num_layers)));
  }
  each_block({"attn.c_q", "attn.c_k", "attn.c_v", "mlp.fc"}, orthogonal);

  // Constants.
  find("skip_weights").fill_(1);
  if (bigram) find("bigram.scale").fill_(0.05);
  for (int64_t i = 0; i < s.num_layers; ++i) {
    const std::string block = "blocks." + std::to_string(i) + ".";
    find(block + "attn_scale").fill_(1);
    find(block + "mlp_scale").fill_(1);
    find(block + "resid_mix")[0].fill_(1);
    find(block + "attn.q_gain").fill_(s.qk_gain_init);
  }

  for (size_t i = 0; i < specs.size(); ++i) {
    at::Tensor& tensor = parameters[i].second;
    if (s.published_quirks && s.precision == "bfloat16") tensor = tensor.to(at::kBFloat16);
    tensor = tensor.to(specs[i].dtype);
  }
  return parameters;
}

}  // namespace fairway
