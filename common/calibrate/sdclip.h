// GPTQ with scales by each row's standard deviation ("SDClip") and low-rank correction of what rounding did (LQER), as
// openai/parameter-golf pull requests 1394 and 1855 have them, operation by operation: from the same Hessians come the same codes.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "common/model/transformer.h"
#include "common/quantise/coded.h"
#include "common/settings/settings.h"
#include "common/tokens/shards.h"

namespace fairway {

using Hessians = std::map<std::string, at::Tensor>;  // of matrices, by name; float32

// Codes of a matrix `weight` [rows, columns] with error feedback by `hessian` [columns, columns], the sum of x x^T over inputs x, both
// float32 (GPTQ, arXiv 2210.17323). With top = 2^(bits - 1) - 1 a row's scale is float16(max(sigmas * deviation / top, 1e-10)), the
// deviation with divisor columns - 1; columns are taken by falling diagonal of H + .01 mean(diag H), 128 at a time; columns of no
// input are coded 0. Where a scale is too small for float16, and so 0, the row comes back as 0.
ScaledCodes QuantiseSdClip(const at::Tensor& weight, const at::Tensor& hessian, int64_t bits, double sigmas);

// The best correction of `error` [rows, columns], float32, of rank at most lqer_rank, in codes.
LowRankCorrection CorrectLowRank(const at::Tensor& error, const Settings& settings);

// H = sum of x x^T over the inputs x of each matrix with an export grid, at all positions and visits of its layer, over
// gptq_calibration_batches micro-batches of plain windows of train_seq_len tokens of `train`, divided by the number of batches;
// windows as pull request 1855 draws them (tokens/shuffled_windows.h), by calibration_seed, under published_quirks by its seed 0.
// On the CPU. `weights` are as LoadParameters gives them; tables that are only looked up have the identity. progress(done, of) is
// called after each window. Throws InputError where no shard holds a window. REQUIRES: CheckQuantiser(settings) passed.
Hessians MeasureHessians(const NamedTensors& weights, const Settings& settings, const ShardSet& train,
                         const std::function<void(int64_t, int64_t)>& progress);

// Bytes of memory that MeasureHessians and QuantiseSdClip take beside the weights, at most.
double EstimateSdClip(const Settings& settings);

// Codes of all matrices of `weights` that QUANTISER=gptq_sdclip codes: those with an export grid (embed_bits and embed_clip_sigmas
// for the token embedding; matrix_bits, and the sigmas of MLP, attention or other matrices), attention gates with
// gated_attn_quant_gate, and with lqer_enabled corrections of the lqer_top_k matrices whose error is largest.
// REQUIRES: a Hessian for every matrix with an export grid.
CodedMatrices QuantiseSdClip(const NamedTensors& weights, const Hessians& hessians, const Settings& settings);

}  // namespace fairway
