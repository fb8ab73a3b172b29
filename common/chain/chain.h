// Which stages of a run have to be made, decided by content alone: what a stage would be made from is compared with what its product
// says that it was made from. Times of files, paths, thread counts and the location of the checkout do not matter.
//
// A run is a folder with the products of its stages (train.ckpt … submission/), the links `data` (shards), byte_table.pb and
// source.tar.zst, and for each stage that was made a file PROGRAM.settings: a profile with every setting of that stage, and where it
// came from. Settings that were given by hand (in the environment, which is how make passes its command line) stay those of the run
// until others are given.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/settings/settings.h"

namespace fairway {

struct ChainOptions {
  std::string run = ".";      // the run's folder
  std::string profile;        // as --profile takes it
  std::string goal;           // train, finalize, quantise, pack, eval or submission
  bool again = false;         // replace finished stages that differ
  int64_t source_bytes = 0;   // size of the source archive: what TARGET_BYTES counts beside the artifact
  int64_t budget = 0;         // bytes that artifact and code may have together; 0: no limit
};

// A stage that has to be made.
struct DueStage {
  std::string name;    // train, finalize, quantise, pack, eval, before-last, before-ema, before-swa, submission
  bool afresh = false;  // train: remove the checkpoints of an unfinished run with other settings first
  bool none = false;    // before-…: training kept no such weights
  std::string why;      // "train.ckpt: iterations was 140 and is 100 now"; empty where there is no product yet
};

class Chain {
 public:
  // Reads what the products up to the goal say. Throws UsageError for an unknown goal, and what reading throws.
  explicit Chain(ChainOptions options);
  ~Chain();

  // To be called before anything is made. Throws UsageError where a finished stage would be replaced without --again, naming what
  // differs, and where the settings of what has to be made cannot end in a record (combinations.h). The stage that is the goal
  // itself is replaced where its settings differ, all others, and training always, only with `again`. Of settings that the goal and
  // a stage before it share, what is given by hand applies to the goal alone. Returns lines for the user: what is kept though it
  // differs, and what will have no effect.
  std::vector<std::string> Check() const;

  // The stages that have to be made, in order: the first as things are now, those after it unless they come out the same; ask again
  // then.
  std::vector<DueStage> Due() const;

  // Writes PROGRAM.settings of a stage that is about to be made.
  void WriteSettings(const std::string& stage) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fairway
