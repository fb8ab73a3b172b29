// Names of counters, for the code that counts and the code that reports. A technique is counted where it
// acts, on the path that is executed; a record's README is generated from these numbers and nothing else.
#pragma once

#include <string>

#include "common/base/text.h"

namespace fairway::counter {

// Training. Seconds are of training time: warm-up and validation left out, resumed runs added up.
inline constexpr char kSteps[] = "train.step";
inline constexpr char kTrainSeconds[] = "train.seconds";
inline constexpr char kDataWaitSeconds[] = "train.data_wait_seconds";  // of those, spent waiting for tokens
inline constexpr char kTokens[] = "train.tokens";                      // targets trained on, over all ranks
inline constexpr char kLastLoss[] = "loss.last";                       // nats per token, of the last step
inline constexpr char kWarmupSteps[] = "warmup.steps";
inline constexpr char kWarmupSeconds[] = "warmup.seconds";
inline constexpr char kResumes[] = "resumes";
inline constexpr char kStoppedByClock[] = "stop.wallclock";  // 1 where the wallclock ended the run, else 0

inline constexpr char kLooped[] = "train.looped";  // 1 once the looped layers are visited again
inline constexpr char kSkippedUpdates[] = "train.skipped_updates";  // left out because a loss or a gradient was no finite number

// Averages and late QAT.
inline constexpr char kEmaUpdates[] = "ema.updates";
inline constexpr char kSwaSnapshots[] = "swa.snapshots";
inline constexpr char kQatReplacements[] = "qat.replacements";  // matrices on their grid, one per step
inline constexpr char kQatFirstStep[] = "qat.first_step";       // steps already taken when late QAT began

// Where late QAT's grid follows from a budget: the step that it follows from, and the mean width of each matrix's steps,
// qat.width.blocks.0.attn.c_q.weight.
inline constexpr char kQatStep[] = "qat.step";
inline constexpr char kQatSeconds[] = "qat.seconds";  // of the training clock, that finding it took
inline constexpr char kQatWidthPrefix[] = "qat.width.";

// The share of each set that ema-finalize took: finalize.ema 1, or of a blend finalize.ema 0.5 and finalize.swa 0.5.
inline constexpr char kFinalizePrefix[] = "finalize.";

// What train found on the slice of select_tokens, nats per target, for each source there is: select.ema, select.ema:0.5,swa:0.5.
inline constexpr char kSelectPrefix[] = "select.";

// The quantiser, over all weights; entropy over the coded ones.
inline constexpr char kQuantiseMse[] = "quantise.mse";
inline constexpr char kQuantiseRelativeError[] = "quantise.relative_error";  // sqrt(sum of squared errors / of squares)
inline constexpr char kQuantiseEntropyBits[] = "quantise.entropy_bits";      // a code, of order 0

inline constexpr char kQuantiseStep[] = "quantise.step";                      // of rtn and gptq; 0: the finest there is
inline constexpr char kQuantiseBudget[] = "quantise.budget";                  // bytes that the artifact may have
inline constexpr char kQuantiseArtifactBytes[] = "quantise.artifact_bytes";   // and those that it has
inline constexpr char kQuantiseDrift[] = "quantise.drift";                    // width of steps over that in late QAT, geometric mean
inline constexpr char kCalibrationTokens[] = "calibration.tokens";            // that said what an error costs

// Tokens that training calibrated on for the quantiser, by the weights' source: calibration.of.ema; and the seconds of its clock.
inline constexpr char kCalibrationOfPrefix[] = "calibration.of.";
inline constexpr char kCalibrationSeconds[] = "calibration.seconds";

// The clip search of the quantiser. Where one percentile serves a whole matrix, each of its rows counts.
inline constexpr char kClipRowsSearched[] = "clip.rows_searched";
inline constexpr char kClipWinsPrefix[] = "clip.wins.";
inline std::string ClipWins(double percentile) {
  return kClipWinsPrefix + ShortestDouble(percentile);
}  // clip.wins.0.9995

}  // namespace fairway::counter
