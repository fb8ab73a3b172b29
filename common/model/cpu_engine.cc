#include "common/model/cpu_engine.h"

#include <ATen/Parallel.h>

#include <cstring>

#include "common/model/cpu_engine_impl.h"
#include "common/model/memory.h"
#include "common/model/ops/formulas.h"
#include "common/model/positions.h"
#include "common/model/schedule.h"

namespace fairway {
namespace {

constexpr int64_t kRowsPerThread = 1024;  // of a chunk: its activations stay in the outer caches

// How many of the segments from `first` on are computed together. Attention is dealt out by segment and key/value head.
template <class LengthOf>
int64_t ChunkOf(const Settings& s, int64_t threads, int64_t first, int64_t all, LengthOf length_of) {
  if (s.micro_batch_seqs > 0) return std::min(s.micro_batch_seqs, all - first);
  const int64_t least = (threads + s.num_kv_heads - 1) / s.num_kv_heads;
  int64_t count = 0;
  for (int64_t rows = 0; first + count < all && (rows < threads * kRowsPerThread || count < least); ++count) rows += length_of(first + count);
  return count;
}

}  // namespace

CpuEngine::Impl::Impl(const Settings& settings, NamedTensors parameters, NamedTensors gradients)
    : settings_(settings),
      parameters_(std::move(parameters)),
      gradients_(std::move(gradients)),
      plan_(settings),
      precision_(settings.precision == "bfloat16" ? Precision::kBFloat16 : Precision::kFloat32),
      threads_(at::get_num_threads()),
      negative_slope_(static_cast<float>(settings.mlp_negative_slope)),
      memory_(plan_, parameters_, gradients_, precision_),
      weights_(settings, plan_, memory_, !gradients_.empty(), threads_),
      smear_(plan_.D) {
  looped = plan_.loops();
  for (int i = 0; i < threads_; ++i) vectors_.emplace_back(plan_);
  Prepare(/*fake_quantise=*/false);
}

int64_t CpuEngine::Impl::Prepare(bool fake_quantise) {
  const float* smear = memory_.value(plan_.smear_gate);
  for (int64_t j = 0; j < plan_.D; ++j) smear_[j] = smear != nullptr ? formula::Sigmoid(smear[j]) : 0;
  if (const float* gates = memory_.value(plan_.skip_gates)) {
    skip_gates_.resize(plan_.skips * plan_.D);
    for (size_t j = 0; j < skip_gates_.size(); ++j) skip_gates_[j] = formula::Sigmoid(gates[j]);
  }
  return weights_.Prepare(fake_quantise, profile);
}

void CpuEngine::Impl::Begin(std::span<const Segment> segments, bool training) {
  segments_.clear();
  int64_t rows = 0, longest = 0, positions = 0;
  for (const Segment& segment : segments) {
    segments_.push_back({rows, rows + segment.length});
    rows += segment.length;
    longest = std::max(longest, segment.length);
    positions = std::max(positions, segment.position + segment.length);
  }
  const ActivationShape shape{.plan = &plan_, .looped = looped, .precision = precision_, .rows = rows, .longest = longest,
                              .training = training, .threads = threads_};
  Planner count(nullptr);
  PlanActivations(shape, count);
  workspace_.Reserve(count.used());
  Planner plan(workspace_.data());
  a_ = PlanActivations(shape, plan);
  // What lies behind an odd row is multiplied by 0, and must be a number.
  if (Stride(plan_.F) != plan_.F) std::memset(a_.act.data, 0, a_.N * Stride(plan_.F) * ElementBytes(precision_));
  if (rotary_positions_ < positions) {
    rotary_ = RotaryTables(settings_, positions);
    rotary_positions_ = positions;
  }
  heads_ = {.T = longest,
            .H = plan_.H,
            .Hkv = plan_.Hkv,
            .d = plan_.d,
            .rotated = plan_.rotated,
            .cos = rotary_.cos.const_data_ptr<float>(),
            .sin = rotary_.sin.const_data_ptr<float>(),
            .positions = a_.positions};
  EachPosition(settings_, segments, [&](int64_t n, const Position& position) {
    a_.ids[n] = position.id;
    a_.targets[n] = position.target;
    a_.positions[n] = position.position;
    a_.joined[n] = position.joined;
    if (plan_.bigram_rows > 0) a_.bigram_rows[n] = position.bigram_row;
  });
  before_.clear();
  if (plan_.smear_window == kNone || !a_.joined[0]) return;
  // The gate reads token embeddings alone, so the row before the chunk is its token's.
  before_id_ = segments.front().tokens[-1];
  before_.resize(plan_.D);
  const Elements row = memory_.elements(plan_.tok_emb) + before_id_ * plan_.D;
  for (int64_t j = 0; j < plan_.D; ++j)
    before_[j] = precision_ == Precision::kBFloat16 ? formula::FromBFloat16(static_cast<const BFloat16*>(row.data)[j].bits) : row.floats()[j];
}

double CpuEngine::Impl::AccumulateGradients(std::span<const Segment> segments, double share, const OnBlock* on_block) {
  const int64_t all = static_cast<int64_t>(segments.size()), positions = PositionsIn(segments);
  const float share_of_one = static_cast<float>(share / static_cast<double>(positions));
  double loss = 0;
  for (VectorGradients& vectors : vectors_) vectors.Clear();
  for (int64_t first = 0, count = 0; first < all; first += count) {
    count = ChunkOf(settings_, threads_, first, all, [&](int64_t i) { return segments[i].length; });
    if (between_chunks) between_chunks();
    Begin(segments.subspan(first, count), /*training=*/true);
    const bool last = first + count >= all;
    RunTeam(threads_, [&](const Team& team) {
      Pass pass(*this, team, /*first=*/0, last ? on_block : nullptr);
      ForwardPass(visits(), pass);
      pass.HeadWithGradients(share_of_one);
      BackwardPass(visits(), pass);
    });
    for (int64_t n = 0; n < a_.N; ++n) loss += a_.losses[n];
  }
  for (VectorGradients& vectors : vectors_) vectors.AddTo(plan_, memory_);
  if (on_block != nullptr && weights_.bigram_proj) weights_.Finish({&*weights_.bigram_proj}, profile);
  return loss / static_cast<double>(positions);
}

void CpuEngine::Impl::TokenLosses(std::span<const Segment> segments, int64_t first_position, float* losses) {
  const int64_t all = static_cast<int64_t>(segments.size());
  for (int64_t first = 0, count = 0; first < all; first += count) {
    count = ChunkOf(settings_, threads_, first, all, [&](int64_t i) { return segments[i].length; });
    if (between_chunks) between_chunks();
    Begin(segments.subspan(first, count), /*training=*/false);
    RunTeam(threads_, [&](const Team& team) {
      Pass pass(*this, team, first_position);
      ForwardPass(visits(), pass);
      pass.Score();
    });
    for (const Rows& segment : segments_)
      losses = std::copy(a_.losses + segment.first + first_position, a_.losses + segment.last, losses);
  }
}

double EngineBytes(const Settings& s, int64_t sequences, bool training) {
  const Plan plan(s);
  const int64_t T = s.train_seq_len;
  const int threads = s.ThreadCount();
  // Segments of several lengths fill a chunk beyond its mark by less than one of them.
  const int64_t chunk = ChunkOf(s, threads, 0, sequences, [&](int64_t) { return T; });
  const int64_t rows = std::min(chunk + (s.packed_documents && s.micro_batch_seqs == 0), sequences) * T;
  Planner count(nullptr);
  PlanActivations({.plan = &plan,
                   .looped = plan.loops(),
                   .precision = s.precision == "bfloat16" ? Precision::kBFloat16 : Precision::kFloat32,
                   .rows = rows,
                   .longest = T,
                   .training = training,
                   .threads = threads},
                  count);
  return static_cast<double>(count.used()) + 8 * static_cast<double>(plan.parameters());
}

CpuEngine::CpuEngine(const Settings& settings, NamedTensors parameters, NamedTensors gradients)
    : impl_(std::make_unique<Impl>(settings, std::move(parameters), std::move(gradients))) {}
CpuEngine::~CpuEngine() = default;
int64_t CpuEngine::Prepare(bool fake_quantise) {
  losses_.clear();
  return impl_->Prepare(fake_quantise);
}
void CpuEngine::FixSteps(const FixedSteps& steps) { impl_->weights_.FixSteps(steps); }
void CpuEngine::SetLooped(bool looped) { impl_->looped = looped; }
void CpuEngine::AccumulateGradients(std::span<const Segment> segments, double share) {
  losses_.push_back(static_cast<float>(impl_->AccumulateGradients(segments, share)));
}
void CpuEngine::FinishGradients() { impl_->weights_.Finish(impl_->weights_.all(), impl_->profile); }
void CpuEngine::AccumulateLastGradients(std::span<const Segment> segments, double share, const OnBlock& on_block) {
  losses_.push_back(static_cast<float>(impl_->AccumulateGradients(segments, share, &on_block)));
}
void CpuEngine::TokenLosses(std::span<const Segment> segments, int64_t first, float* losses) {
  impl_->TokenLosses(segments, first, losses);
}
void CpuEngine::ContinueLosses(const uint16_t* tokens, int64_t count, int64_t past, float* losses) {
  impl_->ContinueLosses(tokens, count, past, losses);
}
void CpuEngine::SetBetweenChunks(std::function<void()> between) { impl_->between_chunks = std::move(between); }
void CpuEngine::SetProfile(StepProfile* profile) { impl_->profile = profile; }

}  // namespace fairway
