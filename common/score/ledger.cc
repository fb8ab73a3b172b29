#include "common/score/ledger.h"

#include <algorithm>

#include "common/base/text.h"

namespace fairway {
namespace {

struct Words {
  const char *line, *past;  // in the log, in a violation
};

Words WordsOf(EventLedger::Event::Kind kind) {
  switch (kind) {
    case EventLedger::Event::Kind::kScored: return {"score", "scored"};
    case EventLedger::Event::Kind::kLearnt: return {"learn", "learnt from"};
    case EventLedger::Event::Kind::kTables: return {"update", "taken into the tables"};
    case EventLedger::Event::Kind::kReset: return {"reset", "begun anew"};
  }
  return {};
}

}  // namespace

void EventLedger::Scored(int64_t begin, int64_t end, uint64_t state) {
  events_.push_back({Event::Kind::kScored, begin, end, state});
  after_.push_back(state);
}

void EventLedger::Changed(Event::Kind kind, int64_t begin, int64_t end, uint64_t before, uint64_t after) {
  events_.push_back({kind, begin, end, before});
  after_.push_back(after);
}

EventLedger::Result EventLedger::Check() const {
  Result result{.targets = targets_, .events = static_cast<int64_t>(events_.size()), .violations = {}};
  std::vector<bool> scored(targets_), learnt(targets_);
  int64_t highest = 0;                                        // beyond all targets that are scored
  Event together{Event::Kind::kReset, 0, 0, 0};
  const auto violated = [&](std::string text) {
    if (result.violations.size() < 10) result.violations.push_back(std::move(text));
  };
  for (size_t i = 0; i < events_.size(); ++i) {
    const Event& event = events_[i];
    if (event.begin < 0 || event.end < event.begin || event.end > targets_) {
      violated(StringPrintf("event %zu is of targets %jd to %jd, of which there are %jd", i, event.begin, event.end, targets_));
      continue;
    }
    if (i > 0 && event.state != after_[i - 1])
      violated(StringPrintf("before targets %jd to %jd were %s the state was another than the one left behind: something changed it without an event",
                            event.begin, event.end, WordsOf(event.kind).past));
    // In the order of the text; documents whose adapters were set together may take turns.
    if (event.kind == Event::Kind::kReset) together = event;
    const bool in_turn = event.kind == Event::Kind::kScored && event.begin >= together.begin && event.end <= together.end;
    const bool in_order = event.kind == Event::Kind::kScored || event.kind == Event::Kind::kReset;
    if (in_order && event.begin < highest && !in_turn && event.begin < event.end && !scored[event.begin])
      violated(StringPrintf("targets %jd to %jd come after target %jd: out of the order of the text", event.begin, event.end, highest - 1));
    if (event.kind == Event::Kind::kScored) highest = std::max(highest, event.end);
    for (int64_t target = event.begin; target < event.end; ++target) {
      if (event.kind == Event::Kind::kScored) {
        if (scored[target]) ++result.doubled;
        scored[target] = true;
        continue;
      }
      if (event.kind == Event::Kind::kReset) {
        if (!scored[target]) continue;
        violated(StringPrintf("adapters of target %jd were reset after it was scored", target));
        break;
      }
      if (!scored[target]) {
        violated(StringPrintf("target %jd was %s before it was scored", target, WordsOf(event.kind).past));
        break;
      }
      if (event.kind == Event::Kind::kLearnt) learnt[target] = true;
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
    text += StringPrintf("%s %jd..%jd state %016jx\n", WordsOf(event.kind).line, event.begin, event.end, event.state);
  return text;
}

}  // namespace fairway
