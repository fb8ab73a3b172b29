#include "common/evaluate/document_ttt.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numbers>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/text.h"
#include "common/tokens/segments.h"
#include "common/tokens/shard_format.h"

namespace fairway {
namespace {

using Target = Transformer::AdapterTarget;
constexpr uint64_t kAdapterSeed = 1337;

// In the order in which the published entry draws them.
struct TargetName {
  Target target;
  const char* name;
};
constexpr TargetName kPerVisit[] = {
    {Target::kQuery, "q_loras."}, {Target::kValue, "v_loras."}, {Target::kKey, "k_loras."}, {Target::kMlp, "mlp_loras."}, {Target::kAttentionOutput, "o_loras."}};

int64_t OutputsOf(const Plan& plan, Target target) {
  switch (target) {
    case Target::kKey:
    case Target::kValue: return plan.Hkv * plan.d;
    case Target::kHead: return plan.V;
    default: return plan.D;
  }
}

// One set of adapters, for the documents of a group.
class Adapters {
 public:
  Adapters(const Settings& settings, const Plan& plan, const NamedTensors& first_values) : settings_(settings) {
    const auto add = [&](Target target, size_t visit, const std::string& name) {
      const auto found = std::find_if(first_values.begin(), first_values.end(), [&](const auto& own) { return own.first == name; });
      if (found == first_values.end()) throw std::logic_error("no first values of " + name);
      const at::Tensor& a = found->second;
      Add({target, visit}, {.first = a.clone(), .a = a.clone(), .b = at::zeros({a.size(0), OutputsOf(plan, target), a.size(1)})});
    };
    add(Target::kHead, 0, "lm_head_lora.A");
    for (const TargetName& target : kPerVisit)
      for (size_t visit = 0; visit < plan.visits(plan.loops()).size(); ++visit) add(target.target, visit, target.name + std::to_string(visit) + ".A");
  }

  // Of inputs [documents, T, in], each by the adapters of that number.
  at::Tensor operator()(Target target, size_t visit, const at::Tensor& x, const at::Tensor& numbers) const {
    const Pair& pair = pairs_.at({target, visit});
    const double scale = settings_.ttt_lora_alpha / static_cast<double>(settings_.ttt_lora_rank);
    const at::Tensor a = pair.a.index_select(0, numbers), b = pair.b.index_select(0, numbers);
    return (at::matmul(at::matmul(x.to(at::kFloat), a.mT()), b.mT()) * scale).to(x.scalar_type());
  }

  // A copy that learns by itself, of the values as they are, before any step.
  Adapters Clone() const {
    Adapters copy(settings_);
    for (const auto& [target, pair] : pairs_) copy.Add(target, {.first = pair.first, .a = pair.a.detach().clone(), .b = pair.b.detach().clone()});
    return copy;
  }

  uint64_t Digest() const {
    Xxh3 digest;
    for (const auto& [target, pair] : pairs_)
      for (const at::Tensor& tensor : {pair.a, pair.b})
        digest.Update(std::as_bytes(std::span(tensor.const_data_ptr<float>(), static_cast<size_t>(tensor.numel()))));
    return digest.Digest();
  }

  // For the next group of documents.
  void Reset() {
    const at::NoGradGuard constant;
    for (auto& [target, pair] : pairs_) {
      pair.b.zero_();
      if (!settings_.ttt_warm_start_a) pair.a.copy_(pair.first);
    }
    for (Moments& moments : moments_) {
      moments.first.zero_();
      moments.second.zero_();
    }
    steps_ = 0;
  }

  // AdamW on the gradients, which are gone afterwards.
  void Step() {
    const at::NoGradGuard constant;
    ++steps_;
    const double lr = settings_.ttt_lora_lr, beta1 = settings_.ttt_beta1, beta2 = settings_.ttt_beta2;
    const double correction1 = 1 - std::pow(beta1, steps_), correction2 = 1 - std::pow(beta2, steps_);
    for (Moments& moments : moments_) {
      const at::Tensor gradient = moments.parameter.grad();
      moments.parameter.mul_(1 - lr * settings_.ttt_weight_decay);
      moments.first.lerp_(gradient, 1 - beta1);
      moments.second.mul_(beta2).addcmul_(gradient, gradient, 1 - beta2);
      moments.parameter.addcdiv_(moments.first, (moments.second.sqrt() / std::sqrt(correction2)).add_(1e-10), -lr / correction1);
      moments.parameter.mutable_grad().reset();
    }
  }

 private:
  struct Pair {
    at::Tensor first, a, b;
  };
  struct Moments {
    at::Tensor parameter, first, second;
  };

  explicit Adapters(const Settings& settings) : settings_(settings) {}

  void Add(std::pair<Target, size_t> target, Pair pair) {
    for (at::Tensor* tensor : {&pair.a, &pair.b}) {
      tensor->set_requires_grad(true);
      moments_.push_back({*tensor, at::zeros_like(*tensor), at::zeros_like(*tensor)});
    }
    pairs_.emplace(target, std::move(pair));
  }

  Settings settings_;
  std::map<std::pair<Target, size_t>, Pair> pairs_;
  std::vector<Moments> moments_;
  double steps_ = 0;
};

struct Document {
  int64_t start, tokens;  // the next document's BOS included
  int64_t targets() const { return tokens - 1; }
};

std::vector<Document> DocumentsOf(const std::vector<uint16_t>& ids) {
  const int64_t count = static_cast<int64_t>(ids.size());
  std::vector<int64_t> starts{0};
  for (int64_t i = 1; i < count; ++i)
    if (ids[i] == kBos) starts.push_back(i);
  std::vector<Document> documents;
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t next = i + 1 < starts.size() ? starts[i + 1] + 1 : count;
    if (next - starts[i] > 1) documents.push_back({starts[i], next - starts[i]});
  }
  return documents;
}

class Evaluation {
 public:
  Evaluation(const NamedTensors& parameters, const ShardSet& val, const ByteTable& table, const Settings& settings, const DocumentTtt& ttt,
             BatchObserver* observer, NgramMixture* mixture)
      : settings_(settings), ttt_(ttt), witness_(observer), mixture_(mixture), plan_(settings), model_(settings, parameters), quirks_(settings.published_quirks) {
    int64_t targets = val.tokens() - 1;
    dropped_ = quirks_ ? targets % WindowLength() : 0;
    targets -= dropped_;
    if (targets < 1) throw InputError(val.files().front(), "holds no target to score");
    ids_.resize(targets + 1);
    val.Read(0, targets + 1, ids_.data());
    bytes_.resize(targets + 1);
    if (val.has_bytes()) val.ReadBytes(0, targets + 1, bytes_.data());
    else
      for (int64_t i = 1; i <= targets; ++i) bytes_[i] = static_cast<uint16_t>(table.Bytes(ids_[i - 1], ids_[i]));
    documents_ = DocumentsOf(ids_);
  }

  Score Run(const std::string& path) {
    Groups();
    auto full = std::make_shared<Adapters>(settings_, plan_, FirstValues(settings_.ttt_batch_size));
    std::vector<std::pair<int64_t, size_t>> scored;  // group and place in it, of each document scored so far
    int64_t done = 0, learnt_from = 0;
    const int64_t limit = std::min<int64_t>(settings_.phased_ttt_prefix_docs, documents_.size()), phases = settings_.phased_ttt_num_phases;
    for (int64_t phase = 1; const size_t number : order_) {
      const std::vector<Document>& group = groups_[number];
      if (static_cast<int64_t>(group.size()) == settings_.ttt_batch_size) {
        full->Reset();
        ScoreGroup(group, full);
      } else {
        ScoreGroup(group, std::make_shared<Adapters>(settings_, plan_, FirstValues(static_cast<int64_t>(group.size()))));
      }
      for (size_t i = 0; i < group.size(); ++i) scored.emplace_back(number, i);
      done += static_cast<int64_t>(group.size());
      if (ttt_.on_group) ttt_.on_group(done, static_cast<int64_t>(documents_.size()), nats_ / std::numbers::ln2 / std::max<double>(1, static_cast<double>(text_bytes_)));
      if (limit == 0 || phase > phases || done < limit * phase / phases) continue;
      const int64_t border = limit * phase / phases;
      ++phase;
      std::vector<std::pair<int64_t, size_t>> chosen(scored.begin() + learnt_from, scored.end());
      if (quirks_) {
        std::sort(chosen.begin(), chosen.end());
        chosen.resize(border);
      } else {
        learnt_from = static_cast<int64_t>(scored.size());
      }
      Phase(chosen);
      if (quirks_) full = std::make_shared<Adapters>(settings_, plan_, FirstValues(settings_.ttt_batch_size));
    }
    if (witness_) witness_->OnEnd({});
    const int64_t targets = static_cast<int64_t>(ids_.size()) - 1;
    if (targets_ != targets) throw std::logic_error(StringPrintf("%jd targets were scored of %jd", targets_, targets));
    if (text_bytes_ == 0) throw InputError(path, "its tokens have no bytes of text: bits per byte are undefined");
    return {.val_loss = nats_ / static_cast<double>(targets),
            .val_bpb = nats_ / std::numbers::ln2 / static_cast<double>(text_bytes_),
            .targets = targets,
            .bytes = text_bytes_,
            .rescored = 0,
            .dropped = dropped_};
  }

 private:
  int64_t WindowLength() const { return settings_.eval_seq_len > 0 ? settings_.eval_seq_len : settings_.train_seq_len; }

  // Which documents are scored together, and in which order.
  void Groups() {
    std::vector<Document> documents = documents_;
    if (quirks_) std::stable_sort(documents.begin(), documents.end(), [](const Document& a, const Document& b) { return a.tokens < b.tokens; });
    for (size_t first = 0; first < documents.size(); first += settings_.ttt_batch_size)
      groups_.emplace_back(documents.begin() + first,
                           documents.begin() + std::min(first + static_cast<size_t>(settings_.ttt_batch_size), documents.size()));
    order_.resize(groups_.size());
    std::iota(order_.begin(), order_.end(), 0);
    if (quirks_)
      std::stable_sort(order_.begin(), order_.end(), [&](size_t a, size_t b) { return groups_[a].back().tokens > groups_[b].back().tokens; });
  }

  NamedTensors FirstValues(int64_t documents) const {
    if (ttt_.first_values) return ttt_.first_values(documents);
    at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(kAdapterSeed);
    NamedTensors all;
    const auto add = [&](const std::string& name) {
      const double bound = 1 / std::sqrt(static_cast<double>(plan_.D));
      all.emplace_back(name, at::empty({documents, settings_.ttt_lora_rank, plan_.D}).uniform_(-bound, bound, generator));
    };
    add("lm_head_lora.A");
    for (const TargetName& target : kPerVisit)
      for (size_t visit = 0; visit < plan_.visits(plan_.loops()).size(); ++visit) add(target.name + std::to_string(visit) + ".A");
    return all;
  }

  // The text that documents are read from: tokens from the split's token `first` on.
  struct Text {
    const uint16_t* tokens;
    int64_t first;
  };

  // One chunk of some documents: where each is read and scored, and the number of its adapters.
  struct Chunk {
    std::vector<Window> windows;
    std::vector<int64_t> adapters;
    int64_t width;
  };

  // The path that scores: losses [windows, width]. Windows are filled up at the right.
  at::Tensor Losses(const Chunk& chunk, const Text& text, const Adapters& adapters) {
    const int64_t count = static_cast<int64_t>(chunk.windows.size());
    const at::Tensor ids = at::zeros({count, chunk.width}, at::kLong), targets = at::zeros({count, chunk.width}, at::kLong);
    for (int64_t w = 0; w < count; ++w) {
      const Window& window = chunk.windows[w];
      const uint16_t* from = text.tokens + (window.begin - text.first);
      std::copy_n(from, window.length, ids.mutable_data_ptr<int64_t>() + w * chunk.width);
      std::copy_n(from + 1, window.length, targets.mutable_data_ptr<int64_t>() + w * chunk.width);
    }
    const at::Tensor numbers = at::empty({count}, at::kLong);
    std::ranges::copy(chunk.adapters, numbers.mutable_data_ptr<int64_t>());
    model_.Adapt([&](Target target, size_t visit, const at::Tensor& x) { return adapters(target, visit, x, numbers); });
    const at::Tensor losses = model_.TokenLosses(ids, targets);
    model_.Adapt({});
    return losses;
  }

  // The losses of the model mixed with n-grams over the chunks before.
  at::Tensor Mixed(const Chunk& chunk, const Text& text, const at::Tensor& losses) const {
    if (!mixture_) return losses;
    const at::Tensor mixed = losses.clone();
    for (size_t w = 0; w < chunk.windows.size(); ++w)
      mixture_->Mix(text.tokens + (chunk.windows[w].begin - text.first), chunk.windows[w],
                    mixed.mutable_data_ptr<float>() + static_cast<int64_t>(w) * chunk.width);
    return mixed;
  }

  // After a chunk is scored: its targets go into the tables.
  void UpdateTables(const Chunk& chunk, const at::Tensor& mixed) const {
    std::vector<TargetRange> targets;
    for (size_t w = 0; w < chunk.windows.size(); ++w) {
      const Window& window = chunk.windows[w];
      mixture_->Update(ids_.data() + window.begin, window, mixed.const_data_ptr<float>() + static_cast<int64_t>(w) * chunk.width);
      targets.push_back({window.first_scored(), window.end()});
    }
    if (BatchObserver* const observer = FileOrderWitness()) observer->OnTables(targets);
  }

  // Chunk by chunk: score, then learn. scored(chunk, losses, whether gradients are recorded) comes before learnt(targets).
  template <typename Scored, typename Learnt>
  void AdaptTo(const std::vector<Document>& group, Adapters& adapters, const Text& text, Scored scored, Learnt learnt) {
    const int64_t size = settings_.ttt_chunk_size, longest = settings_.ttt_eval_seq_len;
    const auto last_of = [&](const Document& document) { return (document.targets() + size - 1) / size - 1; };
    int64_t last = 0;
    for (const Document& document : group) last = std::max(last, last_of(document));
    for (int64_t number = 0; number <= last; ++number) {
      Chunk chunk{.windows = {}, .adapters = {}, .width = std::min((number + 1) * size, longest)};
      std::vector<TargetRange> ranges;
      std::vector<float> learns;
      for (size_t b = 0; b < group.size(); ++b) {
        const Document& document = group[b];
        if (number > last_of(document)) continue;
        const int64_t end = std::min((number + 1) * size, document.targets()), begin = std::max<int64_t>(0, end - longest);
        chunk.windows.push_back({.begin = document.start + begin, .length = end - begin, .score_from = number * size - begin});
        chunk.adapters.push_back(static_cast<int64_t>(b));
        learns.push_back(number < last_of(document) ? 1 : 0);
        if (learns.back() > 0) ranges.push_back({document.start + number * size, document.start + end});
      }
      const at::Tensor losses = [&] {
        const at::AutoGradMode record(number < last);
        return Losses(chunk, text, adapters);
      }();
      scored(chunk, losses.detach(), number < last);
      if (number == last) break;
      const at::Tensor share = at::empty({static_cast<int64_t>(learns.size())});
      std::ranges::copy(learns, share.mutable_data_ptr<float>());
      (losses.narrow(1, chunk.width - size, size).mean(1) * share).sum().backward();
      adapters.Step();
      learnt(ranges);
    }
  }

  // The observer, where documents are scored in the order of the file.
  BatchObserver* FileOrderWitness() const { return quirks_ ? nullptr : witness_; }

  // A batch of the observer, of these windows.
  Batch BatchOf(const Chunk& chunk) const {
    Batch batch{.windows = chunk.windows, .tokens = {}, .bytes = {}, .width = chunk.width, .losses = {}, .adapters = chunk.adapters};
    const auto begin = ids_.begin() + batch.windows.front().begin;
    batch.tokens.assign(begin, ids_.begin() + batch.windows.back().end() + 1);
    batch.losses.resize(batch.windows.size() * static_cast<size_t>(batch.width));
    return batch;
  }
  static void CopyLosses(const Window& window, const float* row, float* to) {
    std::copy(row + window.score_from, row + window.length, to);
  }

  void ScoreGroup(const std::vector<Document>& group, const std::shared_ptr<Adapters>& adapters) {
    BatchObserver* const observer = FileOrderWitness();
    const TargetRange all{group.front().start, group.back().start + group.back().targets()};
    std::optional<Adapters> first;
    Batch documents;  // whole, with the losses of all chunks
    if (observer) {
      observer->OnReset(all, [adapters] { return adapters->Digest(); });
      first = adapters->Clone();
      Chunk whole{.windows = {}, .adapters = {}, .width = 0};
      for (size_t b = 0; b < group.size(); ++b) {
        whole.windows.push_back({.begin = group[b].start, .length = group[b].targets(), .score_from = 0});
        whole.adapters.push_back(static_cast<int64_t>(b));
        whole.width = std::max(whole.width, group[b].targets());
      }
      documents = BatchOf(whole);
    }
    // Into a batch of whole documents.
    const auto keep = [](const Chunk& chunk, const at::Tensor& losses, Batch& to) {
      for (size_t w = 0; w < chunk.windows.size(); ++w) {
        const int64_t b = chunk.adapters[w];
        CopyLosses(chunk.windows[w], losses.const_data_ptr<float>() + static_cast<int64_t>(w) * chunk.width,
                   to.losses.data() + b * to.width + (chunk.windows[w].first_scored() - to.windows[b].begin));
      }
    };

    const auto scored = [&](const Chunk& chunk, const at::Tensor& of_model, bool recorded) {
      const at::Tensor losses = Mixed(chunk, {ids_.data(), 0}, of_model);
      if (observer) {
        Batch batch = BatchOf(chunk);
        for (size_t w = 0; w < chunk.windows.size(); ++w) {
          const int64_t at = static_cast<int64_t>(w) * chunk.width;
          CopyLosses(chunk.windows[w], losses.const_data_ptr<float>() + at, batch.losses.data() + at + chunk.windows[w].score_from);
        }
        observer->OnBatch(batch, [&](Batch& other) {
          const at::AutoGradMode record(recorded);
          const Chunk others{other.windows, other.adapters, other.width};
          const Text text{other.tokens.data(), other.windows.front().begin};
          const at::Tensor again = Mixed(others, text, Losses(others, text, *adapters).detach());
          std::copy_n(again.const_data_ptr<float>(), other.losses.size(), other.losses.data());
        });
        keep(chunk, of_model, documents);  // without the tables, which all documents share
      }
      const size_t count = group.size();
      DocumentTtt::Chunk heard{.width = chunk.width, .offset = std::vector<int64_t>(count), .length = std::vector<int64_t>(count), .nats = std::vector<double>(count), .bytes = 0};
      for (size_t w = 0; w < chunk.windows.size(); ++w) {
        const Window& window = chunk.windows[w];
        const int64_t b = chunk.adapters[w];
        const float* row = losses.const_data_ptr<float>() + static_cast<int64_t>(w) * chunk.width;
        heard.offset[b] = window.score_from;
        heard.length[b] = window.length - window.score_from;
        heard.nats[b] = std::accumulate(row + window.score_from, row + window.length, 0.0);
        const int64_t bytes = std::accumulate(bytes_.begin() + window.first_scored() + 1, bytes_.begin() + window.end() + 1, int64_t{0});
        nats_ += heard.nats[b];
        targets_ += heard.length[b];
        heard.bytes += bytes;
        if (witness_) witness_->OnAdded(window.first_scored(), window.end(), bytes);
      }
      text_bytes_ += heard.bytes;
      if (mixture_) UpdateTables(chunk, losses);
      if (ttt_.on_chunk) ttt_.on_chunk(heard);
    };
    AdaptTo(group, *adapters, {ids_.data(), 0}, scored, [&](const std::vector<TargetRange>& targets) {
      if (observer) observer->OnLearnt(targets);
    });
    if (observer)
      observer->OnDocuments(documents, [&](Batch& other) {
        Adapters own = first->Clone();
        AdaptTo(group, own, {other.tokens.data(), other.windows.front().begin},
                [&](const Chunk& chunk, const at::Tensor& losses, bool) { keep(chunk, losses, other); }, [](const auto&) {});
      });
  }

  // Gradient descent of all base weights over the chosen documents.
  void Phase(const std::vector<std::pair<int64_t, size_t>>& chosen) {
    const int64_t size = settings_.global_ttt_chunk_tokens, window = WindowLength(), rows = size / window;
    std::vector<uint16_t> text;
    std::vector<TargetRange> targets;  // that the text is made of
    for (const auto& [group, place] : chosen) {
      const Document& document = groups_[group][place];
      // As published each document brings its next one's BOS, so that two of them meet.
      const int64_t end = document.start + document.tokens - (!quirks_ && ids_[document.start + document.tokens - 1] == kBos ? 1 : 0);
      text.insert(text.end(), ids_.begin() + document.start, ids_.begin() + end);
      targets.push_back({document.start, end - 1});
    }
    const int64_t tokens = static_cast<int64_t>(text.size()), chunks = (tokens - 1 + size - 1) / size;
    std::vector<at::Tensor> weights, velocities;
    for (const auto& [name, tensor] : model_.parameters()) {
      weights.push_back(tensor);
      velocities.emplace_back();
      weights.back().set_requires_grad(true);
    }
    std::vector<double> losses;
    for (int64_t i = 0; i + 1 < chunks; ++i) {
      const double share = static_cast<double>(i) / static_cast<double>(std::max<int64_t>(chunks - 1, 1));
      const double lr = settings_.global_ttt_lr * 0.5 * (1 + std::cos(std::numbers::pi * share));
      for (int64_t r = 0; r < rows; r += settings_.global_ttt_batch_seqs) {
        const int64_t begin = i * size + r * window, end = i * size + std::min(r + settings_.global_ttt_batch_seqs, rows) * window;
        const at::Tensor all = at::empty({1, end - begin + 1}, at::kLong);
        std::copy(text.begin() + begin, text.begin() + end + 1, all.mutable_data_ptr<int64_t>());
        const std::vector<int32_t> found = SegmentStarts({text.data() + begin, static_cast<size_t>(end - begin)}, window);
        const at::Tensor loss = model_.Loss(all.narrow(1, 0, end - begin), all.narrow(1, 1, end - begin), {found.begin(), found.end()});
        loss.backward();
        losses.push_back(loss.item<double>());
        Descend(weights, velocities, lr);
      }
    }
    for (at::Tensor& weight : weights) weight.set_requires_grad(false);
    // What is learnt from is the text's beginning.
    int64_t left = std::max<int64_t>(chunks - 1, 0) * size;
    std::erase_if(targets, [&](TargetRange& range) {
      const int64_t length = range.end + 1 - range.begin, learnt = std::min(length - 1, left);
      left = std::max<int64_t>(left - length, 0);
      range.end = range.begin + learnt;
      return learnt <= 0;
    });
    if (witness_ && !targets.empty()) witness_->OnLearnt(targets);
    if (ttt_.on_phase) ttt_.on_phase(losses);
  }

  void Descend(std::vector<at::Tensor>& weights, std::vector<at::Tensor>& velocities, double lr) const {
    const at::NoGradGuard constant;
    double squares = 0;
    for (const at::Tensor& weight : weights)
      if (weight.grad().defined()) squares += std::pow(at::linalg_vector_norm(weight.grad().to(at::kFloat)).item<double>(), 2);
    const double factor = settings_.global_ttt_grad_clip > 0 ? std::min(1.0, settings_.global_ttt_grad_clip / (std::sqrt(squares) + 1e-6)) : 1;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (!weights[i].grad().defined()) continue;
      const at::Tensor gradient = weights[i].grad() * factor;
      velocities[i] = velocities[i].defined() ? velocities[i] * settings_.global_ttt_momentum + gradient : gradient;
      weights[i].add_(velocities[i], -lr);
      weights[i].mutable_grad().reset();
    }
  }

  const Settings settings_;
  const DocumentTtt& ttt_;
  BatchObserver* const witness_;
  NgramMixture* const mixture_;
  const Plan plan_;
  Transformer model_;
  const bool quirks_;
  std::vector<uint16_t> ids_, bytes_;  // the split's tokens that are read, and the bytes of text of each
  std::vector<Document> documents_;
  std::vector<std::vector<Document>> groups_;
  std::vector<size_t> order_;
  int64_t dropped_ = 0, targets_ = 0, text_bytes_ = 0;
  double nats_ = 0;
};

}  // namespace

Score EvaluateDocuments(const NamedTensors& parameters, const ShardSet& val, const ByteTable& table, const Settings& settings,
                        const DocumentTtt& ttt, BatchObserver* observer, NgramMixture* mixture) {
  return Evaluation(parameters, val, table, settings, ttt, observer, mixture).Run(val.files().front());
}

}  // namespace fairway
