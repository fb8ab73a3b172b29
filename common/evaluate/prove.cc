#include "common/evaluate/prove.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/text.h"
#include "common/tokens/shard_format.h"

namespace fairway {
namespace {

constexpr size_t kMaxFailures = 20;

// UTF-8 bytes of the text that `token` spells after `previous`, from the piece's text rather than from what the table says of it.
int64_t SpeltBytes(const ByteTable& table, bool case_ops, int64_t previous, int64_t token) {
  const ByteTable::Piece& piece = table.pieces[token];
  if (piece.boundary) return 0;
  if (piece.byte) return 1;
  constexpr std::string_view kSpace = "\xe2\x96\x81", kMark = "\xee\x80";  // U+2581; the marks of CaseOps, U+E001 to U+E004
  int64_t bytes = 0;
  for (size_t at = 0; at < piece.text.size();) {
    if (piece.text.compare(at, kSpace.size(), kSpace) == 0) {
      at += kSpace.size();
      ++bytes;
    } else if (case_ops && piece.text.compare(at, kMark.size(), kMark) == 0) {
      at += 3;
    } else {
      ++at;
      ++bytes;
    }
  }
  // A text does not begin with the space that its first word is spelt with, unless the tokenizer keeps texts as they are.
  return bytes - (!table.exact && piece.text.starts_with(kSpace) && table.pieces[previous].boundary ? 1 : 0);
}

// visit(target, index of its loss) for all that a batch scores.
template <typename Visit>
void Scored(const Batch& batch, Visit visit) {
  for (size_t w = 0; w < batch.windows.size(); ++w)
    for (int64_t i = batch.windows[w].score_from; i < batch.windows[w].length; ++i)
      visit(batch.windows[w].begin + i, static_cast<int64_t>(w) * batch.width + i);
}

bool Same(float a, float b) {
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}

}  // namespace

Proof::Proof(const ShardSet& val, const ByteTable& table, std::function<uint64_t()> state, int64_t samples,
             uint64_t seed)
    : val_(val),
      table_(table),
      state_of_(std::move(state)),
      samples_(std::max<int64_t>(samples, 1)),
      targets_(val.tokens() - 1),
      random_(seed),
      ledger_(targets_),
      state_(state_of_()) {}

void Proof::Fail(std::string text) {
  if (report_.failures.size() < kMaxFailures) report_.failures.push_back(std::move(text));
}

void Proof::OnBatch(const Batch& batch, const Compute& again) {
  int64_t samples = 0;
  for (; next_sample_ < samples_ && next_sample_ * targets_ / samples_ < batch.windows.back().end(); ++next_sample_)
    ++samples;
  if (samples == 0) return;
  if (again) {
    Look(batch, again, false, samples);
    return;
  }
  Batch kept = batch;
  kept.windows.resize(std::min<size_t>(kept.windows.size(), 3));
  kept_.push_back(std::move(kept));
}

void Proof::OnAdded(int64_t begin, int64_t end, int64_t bytes) {
  ledger_.Scored(begin, end, state_);
  report_.bytes += bytes;
}

void Proof::OnLearnt(int64_t begin, int64_t end) {
  const uint64_t before = state_;
  state_ = state_of_();
  ledger_.Learnt(begin, end, before, state_);
}

void Proof::OnEnd(const Compute& afresh) {
  if (const uint64_t now = state_of_(); now != state_)
    Fail("the weights at the end are not those that scored: they changed without an event");
  for (Batch& batch : kept_) {
    afresh(batch);
    Look(batch, afresh, true, 1);
  }
  kept_.clear();
}

void Proof::Look(const Batch& batch, const Compute& compute, bool one_window, int64_t samples) {
  if (const uint64_t now = state_of_(); now != state_) {
    Fail(
        StringPrintf("at target %ld the weights are other ones than the last event left: they changed without an event",
                     batch.windows.front().first_scored()));
    state_ = now;
  }
  // The same again.
  Batch copy = batch;
  compute(copy);
  bool repeats = true;
  Scored(batch, [&](int64_t, int64_t at) {
    repeats &= Same(copy.losses[at], batch.losses[at]);
    ++report_.repeated;
  });
  if (!repeats)
    Fail(StringPrintf("scores from target %ld on differ when they are computed again",
                      batch.windows.front().first_scored()));

  // Windows that lie side by side may be computed as one row.
  const bool row = batch.windows.size() > 1 && batch.windows[1].begin >= batch.windows[0].end();
  const int64_t at_a_time = one_window || row ? 1 : static_cast<int64_t>(batch.windows.size());
  for (int64_t sample = 0; sample < samples; ++sample) {
    const Window* window;
    int64_t position;
    // Where a document begins another computation does: of another shape, and not to the last bit the same.
    for (int tries = 0; tries < 16; ++tries) {
      window = &batch.windows[random_() % batch.windows.size()];
      position = window->score_from + static_cast<int64_t>(random_() % static_cast<uint64_t>(window->length - window->score_from));
      if (batch.tokens[batch.offset_of(*window) + position + 1] != kBos) break;
    }
    Flip(batch, compute, *window, position);
    Sum(batch, compute, *window, position, at_a_time);
  }
}

// A later token changed: scores before it stay as they are.
void Proof::Flip(const Batch& batch, const Compute& compute, const Window& window, int64_t position) {
  const int64_t changed = batch.offset_of(window) + position + 1;  // the token that this position predicts
  const int64_t target = window.begin + position;
  Batch copy = batch;
  // Any other token but the one that begins a document.
  const uint16_t old = copy.tokens[changed];
  do {
    copy.tokens[changed] = static_cast<uint16_t>(random_() % static_cast<uint64_t>(table_.size()));
  } while (copy.tokens[changed] == old || copy.tokens[changed] == kBos);
  compute(copy);
  ++report_.flips;
  std::string moved;
  Scored(batch, [&](int64_t of, int64_t at) {
    if (of >= target) return;
    ++report_.kept;
    if (!Same(copy.losses[at], batch.losses[at]) && moved.empty())
      moved = StringPrintf("the score of target %ld changes with token %ld, which comes after it", of, target + 1);
  });
  if (!moved.empty()) Fail(moved);
}

// Every token in the place of the target: their probabilities are one distribution. Of a window no more than is needed
// is taken.
void Proof::Sum(const Batch& batch, const Compute& compute, const Window& window, int64_t position, int64_t at_a_time) {
  const int64_t first = std::max<int64_t>(0, position + 1 - kProofContext), length = position + 1 - first;
  const uint16_t* const context = batch.tokens_of(window) + first;
  double sum = 0;
  for (int64_t token = 0; token < table_.size(); token += at_a_time) {
    const int64_t count = std::min(at_a_time, table_.size() - token);
    Batch variants{.windows = {}, .tokens = {}, .bytes = {}, .width = length, .losses = {}};
    for (int64_t i = 0; i < count; ++i) {
      variants.windows.push_back({.begin = i * (length + 1), .length = length, .score_from = length - 1});
      variants.tokens.insert(variants.tokens.end(), context, context + length);
      variants.tokens.push_back(static_cast<uint16_t>(token + i));
    }
    variants.losses.resize(count * length);
    compute(variants);
    for (int64_t i = 0; i < count; ++i) sum += std::exp(-static_cast<double>(variants.losses[(i + 1) * length - 1]));
  }
  ++report_.sums;
  const double distance = std::fabs(sum - 1);
  report_.worst_sum = std::isfinite(distance) ? std::max(report_.worst_sum, distance) : INFINITY;
  if (!(distance <= kSumTolerance))
    Fail(StringPrintf("the %ld probabilities at target %ld sum to %.6f, not to 1", table_.size(),
                      window.begin + position, sum));
}

ProofReport Proof::Finish(const Score& score) {
  report_.order = ledger_.Check();
  for (const std::string& violation : report_.order.violations) Fail(violation);
  if (report_.order.doubled > 0) Fail(StringPrintf("%ld targets were scored more than once", report_.order.doubled));
  if (report_.order.dropped > 0)
    Fail(StringPrintf("%ld of %ld targets were not scored", report_.order.dropped, report_.order.targets));
  if (report_.bytes != score.bytes)
    Fail(StringPrintf("the score counts %ld bytes, its parts %ld", score.bytes, report_.bytes));
  // The text once, whatever was scored.
  constexpr int64_t kRead = 1 << 16;
  const bool case_ops = table_.case_ops();
  std::vector<uint16_t> tokens(kRead + 1), bytes(kRead + 1);
  for (int64_t at = 0; at < targets_; at += kRead) {
    const int64_t count = std::min(kRead, targets_ - at);
    val_.Read(at, count + 1, tokens.data());
    if (val_.has_bytes()) val_.ReadBytes(at, count + 1, bytes.data());
    for (int64_t i = 0; i < count; ++i)
      report_.spelt_bytes += val_.has_bytes() ? bytes[i + 1] : SpeltBytes(table_, case_ops, tokens[i], tokens[i + 1]);
  }
  if (report_.order.doubled == 0 && report_.order.dropped == 0 && report_.bytes != report_.spelt_bytes)
    Fail(StringPrintf("the score counts %ld bytes of text; its tokens spell %ld", report_.bytes, report_.spelt_bytes));
  return report_;
}

}  // namespace fairway
