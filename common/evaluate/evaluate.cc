#include "common/evaluate/evaluate.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/mean.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "common/base/error.h"
#include "common/base/text.h"

namespace fairway {
namespace {

// A run of windows with the tokens behind them.
struct Batch {
  std::vector<Window> windows;
  std::vector<uint16_t> tokens;  // from the first window's begin up to the last target of all
  int64_t width;
  std::vector<float> losses;     // [windows, width], of the scored positions

  const uint16_t* tokens_of(const Window& window) const {
    return tokens.data() + (window.begin - windows.front().begin);
  }
};

Batch ReadBatch(const ShardSet& val, const WindowPlan& plan, int64_t first, int64_t count) {
  Batch batch;
  for (int64_t i = first; i < first + count; ++i) batch.windows.push_back(plan[i]);
  const int64_t begin = batch.windows.front().begin;
  batch.tokens.resize(batch.windows.back().end() + 1 - begin);
  val.Read(begin, batch.tokens.size(), batch.tokens.data());
  batch.width = plan.width();
  batch.losses.resize(count * batch.width);
  return batch;
}

// Bytes of text that the scored targets of a window stand for.
int64_t ScoredBytes(const ByteTable& table, const Batch& batch, const Window& window) {
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

// What some windows add to the score.
struct Addend {
  int64_t begin, end;  // targets
  double nats;
  int64_t bytes;
};

// Evaluates the windows of `plan`, `batch_windows` at a time; addends(batch) is what a batch adds to the sum, `addends_of_batch`
// at most. In each round every rank has one batch.
template <typename Addends>
Score ScoreWindows(Engine& model, const ShardSet& val, const WindowPlan& plan, int64_t batch_windows, const OnBatch& on_batch,
                   Communicator& communicator, int64_t addends_of_batch, Addends addends) {
  constexpr int64_t kNumbers = 4;
  ScoreSum sum(plan);
  const int64_t batches = (plan.size() + batch_windows - 1) / batch_windows, ranks = communicator.world_size();
  for (int64_t round = 0; round < batches; round += ranks) {
    const int64_t mine = round + communicator.rank();
    // Counts and positions stay exact in a double.
    std::vector<double> numbers(addends_of_batch * kNumbers);
    if (mine < batches) {
      Batch batch = ReadBatch(val, plan, mine * batch_windows, std::min(batch_windows, plan.size() - mine * batch_windows));
      ComputeLosses(model, batch);
      double* to = numbers.data();
      for (const Addend& addend : addends(batch))
        for (double number : {static_cast<double>(addend.begin), static_cast<double>(addend.end), addend.nats, static_cast<double>(addend.bytes)})
          *to++ = number;
    }
    const std::vector<double> all = communicator.Gather(numbers);
    for (int64_t number = round; number < std::min(round + ranks, batches); ++number) {
      const double* from = all.data() + (number - round) * addends_of_batch * kNumbers;
      for (int64_t i = 0; i < addends_of_batch && from[1] > 0; ++i, from += kNumbers)
        sum.Add(static_cast<int64_t>(from[0]), static_cast<int64_t>(from[1]), from[2], static_cast<int64_t>(from[3]));
      const int64_t done = std::min((number + 1) * batch_windows, plan.size());
      if (on_batch) on_batch({number, done, plan.size(), sum.bits_per_byte()});
    }
  }
  const Score score = sum.Finish();
  if (score.bytes == 0)
    throw InputError(val.files().front(), "its tokens stand for no text: bits per byte are undefined");
  return score;
}

[[noreturn]] void ThrowTooShort(const ShardSet& val, int64_t needed) {
  throw InputError(
      val.files().front(),
      StringPrintf("the validation split holds %ld tokens where at least %ld are needed", val.tokens(), needed));
}

}  // namespace

bool IsSliding(const Settings& settings) {
  return settings.eval_stride > 0 && settings.eval_stride < settings.train_seq_len;
}

Score EvaluatePlain(Engine& model, const ShardSet& val, const ByteTable& table, const Settings& settings,
                    const OnBatch& on_batch, Communicator& communicator) {
  const int64_t batch_windows = settings.val_batch_size / 8 / settings.train_seq_len;
  if (batch_windows == 0) {
    throw UsageError(StringPrintf("VAL_BATCH_SIZE=%ld is less than 8 sequences of TRAIN_SEQ_LEN=%ld",
                                  settings.val_batch_size, settings.train_seq_len));
  }
  const WindowPlan plan = WindowPlan::Plain(val.tokens() - 1, settings.train_seq_len);
  if (plan.size() == 0) ThrowTooShort(val, settings.train_seq_len + 1);
  return ScoreWindows(model, val, plan, batch_windows, on_batch, communicator, 1, [&](Batch& batch) {
    const int64_t count = static_cast<int64_t>(batch.losses.size());
    const double nats = at::from_blob(batch.losses.data(), {count}).mean().item<float>() * static_cast<double>(count);
    int64_t bytes = 0;
    for (const Window& window : batch.windows) bytes += ScoredBytes(table, batch, window);
    return std::vector<Addend>{{batch.windows.front().begin, batch.windows.back().end(), nats, bytes}};
  });
}

Score EvaluateSliding(Engine& model, const ShardSet& val, const ByteTable& table, const Settings& settings,
                      const OnBatch& on_batch, Communicator& communicator) {
  const int64_t targets = val.tokens() - 1;
  const int64_t needed = settings.compat ? settings.train_seq_len : 1;
  if (targets < needed) ThrowTooShort(val, needed + 1);
  const WindowPlan plan = settings.compat ? WindowPlan::Published(targets, settings.train_seq_len, settings.eval_stride)
                                          : WindowPlan::Sliding(targets, settings.train_seq_len, settings.eval_stride);
  return ScoreWindows(model, val, plan, settings.eval_batch_seqs, on_batch, communicator, settings.eval_batch_seqs,
                      [&](const Batch& batch) {
                        std::vector<Addend> addends;
                        const float* row = batch.losses.data();
                        for (const Window& window : batch.windows) {
                          const double nats = std::accumulate(row + window.score_from, row + window.length, 0.0);
                          addends.push_back({window.first_scored(), window.end(), nats, ScoredBytes(table, batch, window)});
                          row += plan.width();
                        }
                        return addends;
                      });
}

}  // namespace fairway
