#include "common/evaluate/prove.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/digest.h"
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
      base_(state_of_()),
      state_(base_) {}

uint64_t Proof::State() const {
  if (!adapters_) return state_of_();
  const uint64_t parts[] = {state_of_(), adapters_()};
  Xxh3 digest;
  digest.Update(std::as_bytes(std::span(parts)));
  return digest.Digest();
}

void Proof::Fail(std::string text) {
  if (report_.failures.size() < kMaxFailures) report_.failures.push_back(std::move(text));
}

void Proof::OnBatch(const Batch& batch, const Compute& again) {
  int64_t samples = 0, scored = added_;
  for (const Window& window : batch.windows) scored += window.length - window.score_from;
  for (; next_sample_ < samples_ && next_sample_ * targets_ / samples_ < scored; ++next_sample_) ++samples;
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
  added_ += end - begin;
}

void Proof::OnLearnt(std::span<const TargetRange> targets) { Changed(EventLedger::Event::Kind::kLearnt, targets); }

void Proof::OnTables(std::span<const TargetRange> targets) { Changed(EventLedger::Event::Kind::kTables, targets); }

void Proof::Changed(EventLedger::Event::Kind kind, std::span<const TargetRange> targets) {
  const uint64_t before = state_;
  base_ = state_of_();
  state_ = State();
  // Of several ranges that one step learns from, the last one's event is what changes the state.
  for (const TargetRange& range : targets)
    ledger_.Changed(kind, range.begin, range.end, before, &range == &targets.back() ? state_ : before);
}

void Proof::OnReset(TargetRange targets, std::function<uint64_t()> digest) {
  if (const uint64_t base = state_of_(); base != base_) {
    Fail(StringPrintf("weights changed without an event before adapters were set for target %jd", targets.begin));
    base_ = base;
  }
  adapters_ = std::move(digest);
  const uint64_t before = state_;
  state_ = State();
  ledger_.Changed(EventLedger::Event::Kind::kReset, targets.begin, targets.end, before, state_);
}

void Proof::OnDocuments(const Batch& documents, const Compute& again) {
  if (next_group_ == kProofGroups || documents.windows.back().end() <= next_group_ * targets_ / kProofGroups) return;
  ++next_group_;
  Repeat(documents, again);
  const auto [window, position] = Draw(documents);
  Flip(documents, again, *window, position);
}

void Proof::OnEnd(const Compute& afresh) {
  if (State() != state_)
    Fail("the weights at the end are not those that scored: they changed without an event");
  for (Batch& batch : kept_) {
    afresh(batch);
    Look(batch, afresh, true, 1);
  }
  kept_.clear();
}

void Proof::Look(const Batch& batch, const Compute& compute, bool one_window, int64_t samples) {
  if (const uint64_t now = State(); now != state_) {
    Fail(
        StringPrintf("at target %jd the weights are other ones than the last event left: they changed without an event",
                     batch.windows.front().first_scored()));
    state_ = now;
  }
  Repeat(batch, compute);

  // Windows that lie side by side may be computed as one row.
  const bool row = batch.windows.size() > 1 && batch.windows[1].begin >= batch.windows[0].end();
  constexpr int64_t kVariants = 32;  // of one document
  const int64_t at_a_time = one_window ? 1 : !batch.adapters.empty() ? kVariants : row ? 1 : static_cast<int64_t>(batch.windows.size());
  for (int64_t sample = 0; sample < samples; ++sample) {
    const auto [window, position] = Draw(batch);
    Flip(batch, compute, *window, position);
    Sum(batch, compute, *window, position, at_a_time);
  }
}

// The same again.
void Proof::Repeat(const Batch& batch, const Compute& compute) {
  Batch copy = batch;
  compute(copy);
  bool repeats = true;
  Scored(batch, [&](int64_t, int64_t at) {
    repeats &= Same(copy.losses[at], batch.losses[at]);
    ++report_.repeated;
  });
  if (!repeats)
    Fail(StringPrintf("scores from target %jd on differ when they are computed again", batch.windows.front().first_scored()));
}

std::pair<const Window*, int64_t> Proof::Draw(const Batch& batch) {
  const Window* window = nullptr;
  int64_t position = 0;
  // Where a document begins another computation does: of another shape, and not to the last bit the same.
  for (int tries = 0; tries < 16; ++tries) {
    window = &batch.windows[random_() % batch.windows.size()];
    position = window->score_from + static_cast<int64_t>(random_() % static_cast<uint64_t>(window->length - window->score_from));
    if (batch.tokens[batch.offset_of(*window) + position + 1] != kBos) break;
  }
  return {window, position};
}

// A later token changed: scores before it stay as they are, and those of other documents that have adapters of their own.
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
    const bool other = !batch.adapters.empty() && (of < window.begin || of >= window.end());
    if (of >= target && !other) return;
    ++report_.kept;
    if (!Same(copy.losses[at], batch.losses[at]) && moved.empty())
      moved = StringPrintf("the score of target %jd changes with token %jd, %s", of, target + 1,
                           of < target ? "which comes after it" : "which is of another document of its group");
  });
  if (!moved.empty()) Fail(moved);
}

// Every token in place of the target: their probabilities are one distribution. Of a window no more than is needed
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
    if (!batch.adapters.empty()) variants.adapters.assign(count, batch.adapters[&window - batch.windows.data()]);
    compute(variants);
    for (int64_t i = 0; i < count; ++i) sum += std::exp(-static_cast<double>(variants.losses[(i + 1) * length - 1]));
  }
  ++report_.sums;
  const double distance = std::fabs(sum - 1);
  report_.worst_sum = std::isfinite(distance) ? std::max(report_.worst_sum, distance) : INFINITY;
  if (!(distance <= kSumTolerance))
    Fail(StringPrintf("the %jd probabilities at target %jd sum to %.6f, not to 1", table_.size(),
                      window.begin + position, sum));
}

ProofReport Proof::Finish(const Score& score, bool text_proved) {
  report_.order = ledger_.Check();
  for (const std::string& violation : report_.order.violations) Fail(violation);
  if (report_.sums == 0) Fail("no target was looked into: nothing is known of its distribution");
  if (report_.order.doubled > 0) Fail(StringPrintf("%jd targets were scored more than once", report_.order.doubled));
  if (report_.order.dropped > 0)
    Fail(StringPrintf("%jd of %jd targets were not scored", report_.order.dropped, report_.order.targets));
  if (report_.bytes != score.bytes)
    Fail(StringPrintf("the score counts %jd bytes, its parts %jd", score.bytes, report_.bytes));
  // The text once, whatever was scored.
  constexpr int64_t kRead = 1 << 16;
  const bool case_ops = table_.case_ops();
  std::vector<uint16_t> tokens(kRead + 1), bytes(kRead + 1);
  if (val_.has_bytes()) report_.sidecar_bytes = 0;
  for (int64_t at = 0; at < targets_; at += kRead) {
    const int64_t count = std::min(kRead, targets_ - at);
    val_.Read(at, count + 1, tokens.data());
    if (val_.has_bytes()) val_.ReadBytes(at, count + 1, bytes.data());
    for (int64_t i = 0; i < count; ++i) {
      report_.spelt_bytes += SpeltBytes(table_, case_ops, tokens[i], tokens[i + 1]);
      if (val_.has_bytes()) report_.sidecar_bytes += bytes[i + 1];
    }
  }
  const int64_t stated = val_.has_bytes() ? report_.sidecar_bytes : report_.spelt_bytes;
  if (report_.order.doubled == 0 && report_.order.dropped == 0 && report_.bytes != stated)
    Fail(StringPrintf("the score counts %jd bytes of text; its %s %jd", report_.bytes, val_.has_bytes() ? "byte sidecar says" : "tokens spell", stated));
  const double apart = static_cast<double>(stated) / static_cast<double>(std::max<int64_t>(report_.spelt_bytes, 1)) - 1;
  if (!text_proved && std::fabs(apart) > kSidecarTolerance)
    Fail(StringPrintf("the byte sidecar counts %jd bytes, %.1f%% %s than the %jd that the pieces spell", stated, 100 * std::fabs(apart),
                      apart > 0 ? "more" : "fewer", report_.spelt_bytes));
  return report_;
}

}  // namespace fairway
