#include "common/evaluate/evaluate.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/square.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <numeric>
#include <vector>

#include "common/base/error.h"
#include "common/base/text.h"

namespace fairway {
namespace {

Batch ReadBatch(const ShardSet& val, const WindowPlan& plan, int64_t first, int64_t count) {
  Batch batch;
  for (int64_t i = first; i < first + count; ++i) batch.windows.push_back(plan[i]);
  const int64_t begin = batch.windows.front().begin;
  batch.tokens.resize(batch.windows.back().end() + 1 - begin);
  val.Read(begin, batch.tokens.size(), batch.tokens.data());
  if (val.has_bytes()) {
    batch.bytes.resize(batch.tokens.size());
    val.ReadBytes(begin, batch.bytes.size(), batch.bytes.data());
  }
  batch.width = plan.width();
  batch.losses.resize(count * batch.width);
  return batch;
}

// Bytes of text of the scored targets of a window, by the split's sidecar where it has one.
int64_t ScoredBytes(const ByteTable& table, const Batch& batch, const Window& window) {
  if (!batch.bytes.empty()) {
    const auto target_bytes = batch.bytes.begin() + batch.offset_of(window) + 1;
    return std::accumulate(target_bytes + window.score_from, target_bytes + window.length, int64_t{0});
  }
  const uint16_t* tokens = batch.tokens_of(window);
  int64_t bytes = 0;
  for (int64_t i = window.score_from; i < window.length; ++i) bytes += table.Bytes(tokens[i], tokens[i + 1]);
  return bytes;
}

// Windows of one length that score from one position are computed together.
void ComputeLosses(Engine& model, Batch& batch) {
  std::vector<float> losses;
  const auto alike = [](const Window& a, const Window& b) { return a.length == b.length && a.score_from == b.score_from; };
  for (size_t first = 0, last; first < batch.windows.size(); first = last) {
    const Window& window = batch.windows[first];
    std::vector<const uint16_t*> sequences;
    for (last = first; last < batch.windows.size() && alike(batch.windows[last], window); ++last)
      sequences.push_back(batch.tokens_of(batch.windows[last]));
    const int64_t scored = window.length - window.score_from;
    losses.resize(sequences.size() * scored);
    model.TokenLosses(sequences, window.length, window.score_from, losses.data());
    for (size_t i = first; i < last; ++i)
      std::copy_n(losses.data() + (i - first) * scored, scored, batch.losses.data() + i * batch.width + window.score_from);
  }
}

// The same with attention inside a document: all windows side by side as one row, each cut where a document begins.
void ComputePackedLosses(Engine& model, Batch& batch, int64_t longest) {
  std::vector<Segment> segments;
  for (const Window& window : batch.windows) {
    const std::vector<Segment> own = PackedSegments(batch.tokens_of(window), window.length, longest);
    segments.insert(segments.end(), own.begin(), own.end());
  }
  std::vector<float> losses(PositionsIn(segments));
  model.TokenLosses(segments, 0, losses.data());
  auto from = losses.begin();
  for (size_t i = 0; i < batch.windows.size(); from += batch.windows[i++].length)
    std::copy_n(from, batch.windows[i].length, batch.losses.begin() + static_cast<int64_t>(i) * batch.width);
}

// What some windows add to the score.
struct Addend {
  int64_t begin, end;  // targets
  double nats;
  int64_t bytes;
};

// Of overlapping windows, each of which adds its scored losses, summed in float64.
std::vector<Addend> AddendsOf(const ByteTable& table, const Batch& batch) {
  std::vector<Addend> addends;
  const float* row = batch.losses.data();
  for (const Window& window : batch.windows) {
    const double nats = std::accumulate(row + window.score_from, row + window.length, 0.0);
    addends.push_back({window.first_scored(), window.end(), nats, ScoredBytes(table, batch, window)});
    row += batch.width;
  }
  return addends;
}

// How windows are taken: `batch_windows` at a time, and no batch across a multiple of `chunk_windows`; what a batch adds to the sum
// is `addends` numbers at most.
struct Batches {
  int64_t batch_windows, chunk_windows, addends;
};
// Overlapping windows, each of which adds its own number.
Batches BatchesOf(const Settings& settings, int64_t chunk_windows) {
  return {settings.eval_batch_seqs, chunk_windows, settings.eval_batch_seqs};
}

// Evaluates the windows of `plan`. compute(batch) fills in a batch's losses, add(batch) is what it adds to the score; after a chunk
// learn(windows done) may change the model. In each round every rank has one batch. With a mixture a batch is one window, and there
// is one rank. `observer` sees every batch; `of_model_afresh` is what it is given at the end where computing a batch cannot be
// repeated in its place.
template <typename Compute, typename Add, typename Learn>
Score ScoreWindows(const ShardSet& val, const WindowPlan& plan, Batches by, const OnBatch& on_batch, Communicator& communicator,
                   Compute of_model, Add add, Learn learn, BatchObserver* observer, NgramMixture* mixture = nullptr,
                   const BatchObserver::Compute& of_model_afresh = {}) {
  constexpr int64_t kNumbers = 4;
  const auto mixed = [mixture](const BatchObserver::Compute& losses) -> BatchObserver::Compute {
    if (!mixture || !losses) return losses;
    return [mixture, losses](Batch& batch) {
      losses(batch);
      for (size_t w = 0; w < batch.windows.size(); ++w)
        mixture->Mix(batch.tokens_of(batch.windows[w]), batch.windows[w], batch.losses.data() + static_cast<int64_t>(w) * batch.width);
    };
  };
  const BatchObserver::Compute compute = mixed(of_model), afresh = mixed(of_model_afresh);
  if (mixture) by.batch_windows = 1;  // scored from what was taken in before the batch
  ScoreSum sum(plan);
  const int64_t ranks = communicator.world_size();
  const auto end_of = [&](int64_t first) {
    return std::min({first + by.batch_windows, plan.size(), (first / by.chunk_windows + 1) * by.chunk_windows});
  };
  for (int64_t done = 0, number = 0; done < plan.size();) {
    int64_t first = done;
    for (int64_t rank = 0; rank < communicator.rank() && first < plan.size(); ++rank) first = end_of(first);
    // Counts and positions stay exact in a double.
    std::vector<double> numbers(by.addends * kNumbers);
    Batch batch;
    if (first < plan.size()) {
      batch = ReadBatch(val, plan, first, end_of(first) - first);
      compute(batch);
      if (observer) observer->OnBatch(batch, afresh ? BatchObserver::Compute() : compute);
      double* to = numbers.data();
      for (const Addend& addend : add(batch))
        for (double value : {double(addend.begin), double(addend.end), addend.nats, double(addend.bytes)}) *to++ = value;
    }
    const std::vector<double> all = communicator.Gather(numbers);
    for (int64_t rank = 0; rank < ranks && done < plan.size(); ++rank, ++number) {
      const double* from = all.data() + rank * by.addends * kNumbers;
      for (int64_t i = 0; i < by.addends && from[1] > 0; ++i, from += kNumbers) {
        sum.Add(static_cast<int64_t>(from[0]), static_cast<int64_t>(from[1]), from[2], static_cast<int64_t>(from[3]));
        if (observer) observer->OnAdded(static_cast<int64_t>(from[0]), static_cast<int64_t>(from[1]), static_cast<int64_t>(from[3]));
      }
      done = end_of(done);
      if (on_batch) on_batch({number, done, plan.size(), sum.bits_per_byte()});
    }
    if (mixture) {
      const Window& window = batch.windows.front();
      mixture->Update(batch.tokens.data(), window, batch.losses.data());
      if (observer) observer->OnTables(std::array{TargetRange{window.first_scored(), window.end()}});
    }
    if (done % by.chunk_windows == 0) learn(done);
  }
  if (observer) observer->OnEnd(afresh ? afresh : compute);
  const Score score = sum.Finish();
  if (score.bytes == 0)
    throw InputError(val.files().front(), "its tokens have no bytes of text: bits per byte are undefined");
  return score;
}

constexpr auto LearnNothing = [](int64_t) {};

// Gradient descent with momentum; gradients are 0 after a step.
class Descent {
 public:
  Descent(const NamedTensors& parameters, const NamedTensors& gradients, double momentum)
      : parameters_(parameters), gradients_(gradients), momentum_(momentum) {
    for (const auto& [name, gradient] : gradients) velocities_.push_back(at::zeros_like(gradient));
  }

  void Step(double learning_rate) {
    constexpr double kLargestNorm = 1;
    double squares = 0;
    for (const auto& [name, gradient] : gradients_) squares += gradient.square().sum(at::kDouble).item<double>();
    const double factor = std::min(1.0, kLargestNorm / (std::sqrt(squares) + 1e-6));
    for (size_t i = 0; i < parameters_.size(); ++i) {
      at::Tensor parameter = parameters_[i].second, gradient = gradients_[i].second;
      velocities_[i].mul_(momentum_).add_(gradient, factor);
      parameter.add_(velocities_[i], -learning_rate);
      gradient.zero_();
    }
  }

 private:
  const NamedTensors parameters_, gradients_;
  std::vector<at::Tensor> velocities_;
  const double momentum_;
};

[[noreturn]] void ThrowTooShort(const ShardSet& val, int64_t needed) {
  throw InputError(
      val.files().front(),
      StringPrintf("the %s split holds %jd tokens where at least %jd are needed", val.split() == "val" ? "validation" : "training", val.tokens(), needed));
}

}  // namespace

void CheckPlain(const ShardSet& val, const Settings& settings) {
  if (settings.val_batch_size / 8 < settings.train_seq_len) {
    throw UsageError(StringPrintf("VAL_BATCH_SIZE=%jd is less than 8 sequences of TRAIN_SEQ_LEN=%jd",
                                  settings.val_batch_size, settings.train_seq_len));
  }
  if (val.tokens() <= settings.train_seq_len) ThrowTooShort(val, settings.train_seq_len + 1);
}

Score EvaluatePlain(Engine& model, const ShardSet& val, const ByteTable& table, const Settings& settings,
                    const OnBatch& on_batch, Communicator& communicator, BatchObserver* observer) {
  CheckPlain(val, settings);
  const int64_t T = settings.train_seq_len, batch_windows = settings.val_batch_size / 8 / T;
  // Pull request 1855 scores whole batches only.
  const bool whole = settings.packed_documents && settings.published_quirks && (val.tokens() - 1) / T >= batch_windows;
  const WindowPlan plan = WindowPlan::Plain(val.tokens() - 1, T, whole ? batch_windows : 1);
  return ScoreWindows(
      val, plan, {batch_windows, plan.size(), 1}, on_batch, communicator,
      [&](Batch& batch) {
        // Its windows lie side by side: one row.
        if (settings.packed_documents)
          model.TokenLosses(PackedSegments(batch.tokens.data(), static_cast<int64_t>(batch.losses.size()), T), 0, batch.losses.data());
        else
          ComputeLosses(model, batch);
      },
      [&](Batch& batch) {
        const int64_t count = static_cast<int64_t>(batch.losses.size());
        // The published evaluation takes a batch's mean in float32: seven digits.
        const double nats = settings.published_quirks
                                ? at::from_blob(batch.losses.data(), {count}).mean().item<float>() * static_cast<double>(count)
                                : std::accumulate(batch.losses.begin(), batch.losses.end(), 0.0);
        int64_t bytes = 0;
        for (const Window& window : batch.windows) bytes += ScoredBytes(table, batch, window);
        return std::vector<Addend>{{batch.windows.front().begin, batch.windows.back().end(), nats, bytes}};
      },
      LearnNothing, observer);
}

Score EvaluateSliding(Engine& model, const ShardSet& val, const ByteTable& table, const Settings& settings,
                      const OnBatch& on_batch, Communicator& communicator, BatchObserver* observer, NgramMixture* mixture) {
  const int64_t targets = val.tokens() - 1;
  const int64_t needed = settings.published_quirks ? settings.train_seq_len : 1;
  if (targets < needed) ThrowTooShort(val, needed + 1);
  const WindowPlan plan = settings.published_quirks ? WindowPlan::Published(targets, settings.train_seq_len, settings.eval_stride)
                                          : WindowPlan::Sliding(targets, settings.train_seq_len, settings.eval_stride);
  return ScoreWindows(
      val, plan, BatchesOf(settings, plan.size()), on_batch, communicator,
      [&](Batch& batch) {
        if (settings.packed_documents) ComputePackedLosses(model, batch, settings.train_seq_len);
        else ComputeLosses(model, batch);
      },
      [&](const Batch& batch) { return AddendsOf(table, batch); }, LearnNothing, observer, mixture);
}

Score EvaluateCached(Engine& model, const ShardSet& val, const ByteTable& table, const Settings& settings,
                     const OnBatch& on_batch, BatchObserver* observer, NgramMixture* mixture) {
  const int64_t targets = val.tokens() - 1;
  if (targets < 1) ThrowTooShort(val, 2);
  const WindowPlan plan = WindowPlan::Sliding(targets, settings.train_seq_len, settings.eval_stride);
  // `fresh`: the first window begins a text.
  const auto compute = [&](Batch& batch, bool fresh) {
    float* row = batch.losses.data();
    for (const Window& window : batch.windows) {
      const int64_t past = fresh ? 0 : window.score_from;
      model.ContinueLosses(batch.tokens_of(window) + past, window.length - past, past, row + past);
      row += batch.width;
      fresh = false;
    }
  };
  return ScoreWindows(
      val, plan, BatchesOf(settings, plan.size()), on_batch, Communicator::Single(), [&](Batch& batch) { compute(batch, false); },
      [&](const Batch& batch) { return AddendsOf(table, batch); }, LearnNothing, observer, mixture,
      [&](Batch& batch) { compute(batch, true); });
}

Score EvaluateAdapting(Engine& model, const NamedTensors& parameters, const NamedTensors& gradients, const ShardSet& val,
                       const ByteTable& table, const Settings& settings, const OnBatch& on_batch, BatchObserver* observer, NgramMixture* mixture) {
  const int64_t targets = val.tokens() - 1, T = settings.train_seq_len;
  if (targets < 1) ThrowTooShort(val, 2);
  const WindowPlan plan = WindowPlan::Sliding(targets, T, settings.eval_stride);
  const int64_t chunk_windows = std::max<int64_t>(settings.ttt_chunk_tokens / settings.eval_stride, 1);
  const int64_t last_chunk = (plan.size() - 1) / chunk_windows;
  Descent descent(parameters, gradients, settings.ttt_momentum);
  int64_t learnt = 0;  // targets below are learnt from
  const auto learn = [&](int64_t done) {
    const int64_t chunk = done / chunk_windows - 1, sequences = (plan[done - 1].end() - learnt) / T;
    if (chunk == last_chunk || sequences == 0) return;
    std::vector<uint16_t> tokens(sequences * T + 1);
    val.Read(learnt, sequences * T + 1, tokens.data());
    std::vector<const uint16_t*> starts;
    for (int64_t i = 0; i < sequences; ++i) starts.push_back(tokens.data() + i * T);
    const double share = static_cast<double>(chunk) / static_cast<double>(last_chunk);
    for (int64_t step = 0; step < settings.ttt_steps; ++step) {
      model.AccumulateGradients(starts, T, 1);
      model.FinishGradients();
      descent.Step(settings.ttt_lr * 0.5 * (1 + std::cos(std::numbers::pi * share)));
      model.Prepare(/*fake_quantise=*/false);
    }
    if (observer) observer->OnLearnt(std::array{TargetRange{learnt, learnt + sequences * T}});
    learnt += sequences * T;
  };
  return ScoreWindows(
      val, plan, BatchesOf(settings, chunk_windows), on_batch, Communicator::Single(),
      [&](Batch& batch) { ComputeLosses(model, batch); },
      [&](const Batch& batch) { return AddendsOf(table, batch); }, learn, observer, mixture);
}

}  // namespace fairway
