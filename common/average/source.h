// One set of weights out of the several that a training run ends with: the last ones, their exponential moving average
// (EMA), the average of snapshots (SWA), or a blend (pull request 531).
//
// In a TRAINING checkpoint the last weights have their plain names, the EMA is stored as ema/NAME (float32), and SWA's sum
// over swa.snapshots snapshots as swa_sum/NAME (float32; with published_quirks in the weight's own dtype).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/checkpoint/checkpoint.h"
#include "common/settings/settings.h"

namespace fairway {

// The weights taken are the sum of share * set; a plain source has one part with share 1.
struct SourcePart {
  std::string set;  // "last", "ema", "swa"
  double share = 1;
};
using Source = std::vector<SourcePart>;

// "swa", or a blend such as "ema:0.5,swa:0.5" whose shares sum to 1 within 1e-6. Throws UsageError.
Source ParseSource(std::string_view text);

// The sources that source = select chooses from, where there are these sets besides the last weights: each alone, and halves of
// any two.
std::vector<std::string> SelectableSources(bool ema, bool swa);

// What settings.source means for this checkpoint, which must hold the sets asked for: InputError names the counter that says it
// does not. "select" is the source with the least loss of those that train scored on tokens that it never trained on
// (select_tokens); where it scored none, InputError. With published_quirks, "swa" is the published order: the EMA where there is
// one, replaced by SWA if that has more than one snapshot. Logs each set as it applies, in the published lines.
Source ChooseSource(const CheckpointReader& training, const Settings& settings);

// Writes the weights of `source`. The last weights keep their dtype; averages are float32 so that the quantiser sees
// them unrounded, or with published_quirks in the weight's dtype, as loading them into the model would leave them.
void WriteWeights(const CheckpointReader& training, const Source& source, bool published_quirks, CheckpointWriter& out);

// Throws UsageError where training with `train` will not have what finalize.source takes: a set that is switched off, or scores
// to select by. `why_no_snapshot`: WhyNoSnapshot(train) of common/settings/schedule.h.
void CheckSource(const Settings& train, const Settings& finalize, const std::string& why_no_snapshot);

}  // namespace fairway
