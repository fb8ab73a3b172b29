#include <cstring>

#include "common/model/cpu_engine_impl.h"
#include "common/model/ops/attention.h"
#include "common/model/ops/formulas.h"
#include "common/model/schedule.h"
#include "common/tokens/shard_format.h"

namespace fairway {

// A chunk of one segment whose keys and values are computed behind those of the text so far.
void CpuEngine::Impl::BeginWithPast(const uint16_t* tokens, int64_t count, int64_t past) {
  const int64_t S = qkv(), D = plan_.D, row_bytes = S * ElementBytes(precision_);
  const Segment segment{.tokens = tokens, .length = count, .position = 0, .continues = past > 0};
  Begin({&segment, 1}, /*training=*/false);
  if (past == 0) text_.position = text_.rows = 0;
  // Memory for two windows, so that rows move to the front once per window, not once per call.
  text_.qkv.resize(visits().size());
  const int64_t capacity = static_cast<int64_t>(text_.qkv[0].size()) / row_bytes;
  const bool move = text_.rows + count > capacity;
  if (move) {
    for (std::vector<char>& qkv : text_.qkv) {
      if (past > 0) std::memmove(qkv.data(), qkv.data() + (text_.rows - past) * row_bytes, past * row_bytes);
      if (past + count > capacity) qkv.resize(2 * (past + count) * row_bytes);
    }
    text_.rows = past;
  }
  const QkShape seen{.T = past + count, .H = plan_.H, .Hkv = plan_.Hkv, .d = plan_.d};
  Elements y;
  float* lse = nullptr;
  const auto plan = [&](char* memory) {
    Planner planner(memory);
    y = planner.Take(seen.T * D, precision_);
    lse = planner.Take<float>(seen.T * plan_.H);
    for (char*& scratch : a_.scratch) scratch = planner.Take<char>(AttentionScratchBytes(seen));
    return planner.used();
  };
  text_.workspace.Reserve(plan(nullptr));
  plan(text_.workspace.data());
  for (size_t v = 0; v < visits().size(); ++v) {
    a_.saved[v].qkv = {text_.qkv[v].data() + text_.rows * row_bytes, precision_};
    a_.saved[v].y = y + past * D;
    a_.saved[v].lse = lse;
  }
  if (past > 0) {
    text_.rotary = RotaryTables(settings_, count, text_.position);
    heads_.cos = text_.rotary.cos.const_data_ptr<float>();
    heads_.sin = text_.rotary.sin.const_data_ptr<float>();
    if (plan_.smear_window == kNone && !(settings_.reset_at_bos && tokens[0] == kBos)) {
      before_ = text_.before;
      const int32_t rows = static_cast<int32_t>(plan_.bigram_rows);
      if (rows > 0) a_.bigram_rows[0] = formula::BigramRow(tokens[0], tokens[-1], rows);
    }
  }
  past_ = past;
}

void CpuEngine::Impl::ContinueLosses(const uint16_t* tokens, int64_t count, int64_t past, float* losses) {
  BeginWithPast(tokens, count, past);
  RunTeam(threads_, [&](const Team& team) {
    Pass pass(*this, team, /*first=*/0);
    ForwardPass(visits(), pass);
    pass.Score();
  });
  std::copy_n(a_.losses, count, losses);
  text_.before.assign(a_.x1 + (count - 1) * plan_.D, a_.x1 + count * plan_.D);
  text_.position += count;
  text_.rows += count;
  past_ = 0;
  before_.clear();
}

}  // namespace fairway
