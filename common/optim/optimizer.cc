#include "common/optim/optimizer.h"

#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

namespace fairway {

Optimizer::Optimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters, FlatTensors gradients,
                     Communicator& communicator)
    : settings_(settings),
      parameters_(std::move(parameters)),
      gradients_(std::move(gradients)),
      // published_quirks keeps the moments in the parameter's dtype, as the framework's optimiser does.
      m_(layout, settings.published_quirks ? layout.embeddings_dtype() : at::kFloat, Group::kEmbeddings, Group::kVectors,
         parameters_.device()),
      v_(layout, settings.published_quirks ? layout.embeddings_dtype() : at::kFloat, Group::kEmbeddings, Group::kVectors,
         parameters_.device()),
      momentum_(layout, at::kFloat, Group::kMatrices, Group::kMatrices, parameters_.device()),
      updates_(at::zeros_like(momentum_.group(Group::kMatrices), at::kBFloat16)),
      adams_{{Group::kEmbeddings, settings.tie_embeddings ? settings.tied_embed_lr : settings.embed_lr,
              settings.embed_wd < 0 ? settings.weight_decay : settings.embed_wd},
             {Group::kHead, settings.head_lr, 0},
             {Group::kVectors, settings.scalar_lr, settings.adam_wd < 0 ? settings.weight_decay : settings.adam_wd}},
      partition_(layout, communicator.world_size()),
      communicator_(communicator) {}

double Optimizer::GradientNorm() const {
  if (communicator_.world_size() == 1) return std::sqrt(Squares({0, gradients_.buffers().front().numel()}));
  double mine = 0, squares = 0;
  for (const Partition::Bucket& bucket : partition_.buckets())
    for (const Partition::Shard& shard : bucket.shards)
      if (shard.rank == communicator_.rank()) mine += Squares(shard.range);
  for (double of_rank : communicator_.Gather({&mine, 1})) squares += of_rank;
  return std::sqrt(squares);
}

double Optimizer::ClipFactor(double norm) const {
  return settings_.grad_clip_norm > 0 ? std::min(1.0, settings_.grad_clip_norm / (norm + 1e-6)) : 1;
}

bool Optimizer::ClipsPerRank() const { return communicator_.world_size() > 1 && quirks_1855(); }

double Optimizer::ClipPerRank() {
  const double ranks = static_cast<double>(communicator_.world_size());
  const double norm = ranks * std::sqrt(Squares({0, gradients_.buffers().front().numel()}));
  double largest = 0;
  for (const double of_rank : communicator_.Gather({&norm, 1}))
    if (!(of_rank <= largest)) largest = of_rank;  // also where it is no number
  if (!std::isfinite(largest)) return largest;
  gradients_.buffers().front().mul_(ranks * ClipFactor(norm));
  const at::Tensor matrices = gradients_.group(Group::kMatrices);
  matrices.copy_(matrices.to(at::kBFloat16));
  return largest;
}

std::vector<Message> Optimizer::Matrices(const at::Tensor& of_group) const {
  std::vector<Message> messages;
  for (const Partition::Shard& matrix : partition_.matrices()) {
    const int64_t first = matrix.range.first - partition_.others().last, bytes = of_group.element_size();
    messages.push_back({static_cast<char*>(of_group.data_ptr()) + first * bytes, matrix.range.size() * bytes, matrix.rank});
  }
  return messages;
}

std::unique_ptr<Communicator::Transfer> Optimizer::ShareUpdates() { return communicator_.Broadcast(Matrices(updates_)); }

void Optimizer::ShareMomentum() {
  communicator_.Wait(communicator_.Broadcast(Matrices(momentum_.group(Group::kMatrices))));
}

NamedTensors Optimizer::State() const {
  NamedTensors state;
  for (size_t i = 0; i < m_.tensors().size(); ++i) {
    const std::string& name = m_.tensors()[i].first;
    state.emplace_back("adam_m/" + name, m_.tensors()[i].second);
    state.emplace_back("adam_v/" + name, v_.tensors()[i].second);
  }
  for (const auto& [name, tensor] : momentum_.tensors()) state.emplace_back("muon/" + name, tensor);
  return state;
}

}  // namespace fairway
