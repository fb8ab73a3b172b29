#include "common/evaluate/generate.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <span>

namespace fairway {
namespace {

// An id drawn as Generate describes. Of equally likely tokens the one with the lower id comes first.
int64_t Draw(const at::Tensor& logits, const Sampling& sampling, std::mt19937_64& random) {
  const at::Tensor doubles = logits.to(at::kDouble).cpu().contiguous();
  const std::span<const double> logit(doubles.const_data_ptr<double>(), doubles.numel());
  std::vector<int64_t> ids(logit.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::ranges::stable_sort(ids, std::greater<>(), [&](int64_t id) { return logit[id]; });
  if (sampling.temperature <= 0) return ids[0];
  if (sampling.top_k > 0) ids.resize(std::min<size_t>(ids.size(), sampling.top_k));

  std::vector<double> upto;  // unnormalised cumulative probabilities, the most likely token first
  double total = 0;
  for (const int64_t id : ids) upto.push_back(total += std::exp((logit[id] - logit[ids[0]]) / sampling.temperature));
  // The first token that brings the sum to top_p is the last one kept.
  const auto last = std::lower_bound(upto.begin(), upto.end() - 1, sampling.top_p * total);
  // 53 bits of the generator rather than a standard distribution, whose draws differ between libraries.
  const double point = static_cast<double>(random() >> 11) * 0x1p-53 * *last;
  return ids[std::upper_bound(upto.begin(), last, point) - upto.begin()];
}

}  // namespace

std::vector<int64_t> Generate(const Transformer& model, const Settings& settings, std::vector<int64_t> prompt,
                              const Sampling& sampling, const std::function<void(int64_t id)>& on_token) {
  const at::NoGradGuard no_grad;
  const at::Device device = model.parameters().front().second.device();
  std::mt19937_64 random(sampling.seed);
  std::vector<int64_t>& ids = prompt;
  const size_t prompt_size = ids.size();
  for (int64_t i = 0; i < sampling.tokens; ++i) {
    const int64_t length = std::min<int64_t>(ids.size(), settings.train_seq_len);
    const at::Tensor context = at::tensor(at::ArrayRef<int64_t>(ids).slice(ids.size() - length)).unsqueeze(0);
    const int64_t id = Draw(model.Logits(context.to(device))[0][-1], sampling, random);
    if (id == sampling.stop) break;
    ids.push_back(id);
    if (on_token) on_token(id);
  }
  return {ids.begin() + prompt_size, ids.end()};
}

}  // namespace fairway
