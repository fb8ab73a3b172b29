#include "common/score/ledger.h"

#include <algorithm>

#include "common/base/text.h"

namespace fairway {

void EventLedger::Scored(int64_t begin, int64_t end, uint64_t state) {
  events_.push_back({Event::Kind::kScored, begin, end, state});
  after_.push_back(state);
}

void EventLedger::Learnt(int64_t begin, int64_t end, uint64_t before, uint64_t after) {
  events_.push_back({Event::Kind::kLearnt, begin, end, before});
  after_.push_back(after);
}

EventLedger::Result EventLedger::Check() const {
  Result result{.targets = targets_, .events = static_cast<int64_t>(events_.size()), .violations = {}};
  std::vector<bool> scored(targets_), learnt(targets_);
  const auto violated = [&](std::string text) {
    if (result.violations.size() < 10) result.violations.push_back(std::move(text));
  };
  for (size_t i = 0; i < events_.size(); ++i) {
    const Event& event = events_[i];
    const bool scores = event.kind == Event::Kind::kScored;
    if (event.begin < 0 || event.end < event.begin || event.end > targets_) {
      violated(StringPrintf("event %zu is of targets %ld to %ld, of which there are %ld", i, event.begin, event.end, targets_));
      continue;
    }
    if (i > 0 && event.state != after_[i - 1])
      violated(StringPrintf("before targets %ld to %ld were %s the state was another than the one left behind: something changed it without an event",
                            event.begin, event.end, scores ? "scored" : "learnt from"));
    for (int64_t target = event.begin; target < event.end; ++target) {
      if (scores) {
        if (scored[target]) ++result.doubled;
        scored[target] = true;
        continue;
      }
      if (!scored[target]) {
        violated(StringPrintf("target %ld was learnt from before it was scored", target));
        break;
      }
      learnt[target] = true;
    }
  }
  result.scored = std::ranges::count(scored, true);
  result.learnt = std::ranges::count(learnt, true);
  result.dropped = targets_ - result.scored;
  return result;
}

std::string EventLedger::Text() const {
  std::string text;
  for (const Event& event : events_)
    text += StringPrintf("%s %ld..%ld state %016lx\n", event.kind == Event::Kind::kScored ? "score" : "learn", event.begin, event.end,
                         static_cast<unsigned long>(event.state));
  return text;
}

}  // namespace fairway
