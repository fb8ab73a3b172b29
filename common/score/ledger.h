// In which order an evaluation scored targets and learnt from them, and whether a decoder could have followed it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fairway {

// One total order of all that an evaluation does. `state` is a digest of the weights and tables that the scores depend on.
class EventLedger {
 public:
  struct Event {
    enum class Kind { kScored, kLearnt, kTables, kReset } kind;
    int64_t begin, end;  // targets
    uint64_t state;      // before it
  };

  explicit EventLedger(int64_t targets) : targets_(targets) {}

  // Targets [begin, end) were scored in `state`.
  void Scored(int64_t begin, int64_t end, uint64_t state);
  // The state `before` became `after` by targets [begin, end): weights learnt from them, tables of n-grams took them in, or
  // (kReset) what scores them begins anew, by nothing that a target says.
  void Changed(Event::Kind kind, int64_t begin, int64_t end, uint64_t before, uint64_t after);

  struct Result {
    int64_t targets = 0;  // there are
    int64_t scored = 0;   // of them at least once
    int64_t doubled = 0;  // scored again, each time
    int64_t dropped = 0;  // never scored
    int64_t learnt = 0;   // learnt from at least once
    int64_t events = 0;
    // What a decoder could not have done, in words: learnt from or taken into tables before scored, a state that changed without an
    // event, a target out of range or out of the order of the text (documents whose adapters were reset together may be scored in
    // any order), what scores a target begun anew after that target was scored.
    std::vector<std::string> violations;
  };
  Result Check() const;

  // One line per event: `score 0..1024 state 01ab…`; `learn`, `update` (of tables) and `reset` likewise.
  std::string Text() const;

 private:
  int64_t targets_;
  std::vector<Event> events_;
  std::vector<uint64_t> after_;  // of each event
};

}  // namespace fairway
