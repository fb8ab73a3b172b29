#include "common/evaluate/generate.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace fairway {
namespace {

// An index drawn with probability proportional to exp(logits / temperature).
int64_t Draw(const at::Tensor& logits, double temperature, std::mt19937_64& random) {
  const at::Tensor doubles = logits.to(at::kDouble).cpu().contiguous();
  const double* begin = doubles.const_data_ptr<double>();
  const double* end = begin + doubles.numel();
  const double* largest = std::max_element(begin, end);
  if (temperature <= 0) return largest - begin;

  std::vector<double> upto;  // unnormalised cumulative probabilities
  double total = 0;
  for (const double* logit = begin; logit != end; ++logit)
    upto.push_back(total += std::exp((*logit - *largest) / temperature));
  // 53 bits of the generator rather than a standard distribution, whose draws differ between libraries.
  const double point = static_cast<double>(random() >> 11) * 0x1p-53 * total;
  const int64_t index = std::upper_bound(upto.begin(), upto.end(), point) - upto.begin();
  return std::min<int64_t>(index, doubles.numel() - 1);
}

}  // namespace

std::vector<int64_t> Generate(const Transformer& model, const Settings& settings, std::vector<int64_t> prompt,
                              const Sampling& sampling) {
  const at::NoGradGuard no_grad;
  const at::Device device = model.parameters().front().second.device();
  std::mt19937_64 random(sampling.seed);
  std::vector<int64_t>& ids = prompt;
  const size_t prompt_size = ids.size();
  for (int64_t i = 0; i < sampling.tokens; ++i) {
    const int64_t length = std::min<int64_t>(ids.size(), settings.train_seq_len);
    const at::Tensor context = at::tensor(at::ArrayRef<int64_t>(ids).slice(ids.size() - length)).unsqueeze(0);
    const int64_t id = Draw(model.Logits(context.to(device))[0][-1], sampling.temperature, random);
    if (id == sampling.stop) break;
    ids.push_back(id);
  }
  return {ids.begin() + prompt_size, ids.end()};
}

}  // namespace fairway
