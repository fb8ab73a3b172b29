#include "common/train/estimate.h"

#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "common/calibrate/calibrate.h"
#include "common/cuda/memory.h"
#include "common/evaluate/memory.h"
#include "common/model/transformer.h"
#include "common/quantise/budget.h"
#include "common/quantise/calibration.h"
#include "common/quantise/grid.h"
#include "common/train/late_qat.h"

namespace fairway {

Estimate EstimateTraining(const Settings& s, int64_t world_size, at::Device device) {
  const Plan plan(s);
  Estimate estimate{.parameters = plan.parameters()};
  double state = 0;
  for (const ParameterSpec& spec : ParameterSpecs(s)) {
    const double numel = static_cast<double>(spec.numel());
    const bool by_muon = spec.group == Group::kMatrices;
    // Weight, gradient, one or two moments, EMA, SWA sum; float32 but for bfloat16 weights and gradients.
    state += numel * (2 * (spec.dtype == at::kBFloat16 ? 2 : 4) + 4 * (by_muon ? 1 : 2) + 4 * (s.ema_enabled + s.swa_enabled));
    if (by_muon) state += numel * 2;         // Muon's update
    if (world_size > 1) state += numel * 4;  // other ranks' gradients on their way into sums
    const bool matrix = IsTable(spec.role) || IsLinear(spec.role);
    const auto grid = matrix ? ExportGrid(spec.name, spec.shape[0], spec.shape[1], s) : std::nullopt;
    // A row's largest of some hundred normals is about 3.2 standard deviations; a rounded normal of k steps a standard
    // deviation has log2(k) + 2.05 bits of entropy.
    estimate.artifact_bytes += numel * (grid ? std::log2(grid->q_max / 3.2) + 2.05 : 16) / 8;
  }
  // What StartFakeQuantisation takes beside everything else, and gives back: calibration; weights, codes and their compressed form.
  // Or the calibration at the end: other weights than the last ones.
  double choosing_steps = 0;
  if (TrainingCalibrates(s)) choosing_steps = 8.0 * static_cast<double>(estimate.parameters) + EstimateCalibration(s) - kLibTorchBytes;
  if (s.late_qat_threshold > 0 && TrainsOnBudgetSteps(s)) {
    estimate.artifact_bytes = static_cast<double>(TargetBytes(s, estimate.parameters));
    choosing_steps = 12.0 * static_cast<double>(estimate.parameters) + (s.calibration_windows > 0 ? EstimateCalibration(s) - kLibTorchBytes : 0);
  }
  const double T = s.train_seq_len;
  // Forward and backward are three products of 2 operations a multiply-add; causal attention has 2 products over T/2 positions.
  const double tokens = s.train_batch_tokens;
  estimate.flops_per_step = tokens * 6 * (plan.ProductsPerToken(plan.loops()) + plan.AttentionPerTokenAndPosition(plan.loops()) * T / 2);
  // Newton-Schulz: per iteration three products, 2 m m n + m m m multiply-adds for an m x n matrix, m <= n.
  for (const Weight& weight : plan.weights) {
    if (weight.group != Group::kMatrices) continue;
    const double m = static_cast<double>(std::min(weight.shape[0], weight.shape[1])), n = static_cast<double>(std::max(weight.shape[0], weight.shape[1]));
    estimate.flops_per_step += static_cast<double>(s.muon_backend_steps) * 2 * (2 * m * m * n + m * m * m);
  }
  // Of a calibration: gradients of its windows, and for gptq the inputs' products and what inverts them (n^3 multiply-adds for each
  // layer).
  const double windows = s.calibration_windows, calibrated = windows * static_cast<double>(s.calibration_tokens);
  double calibration = calibrated * 6 * (plan.ProductsPerToken(false) + plan.AttentionPerTokenAndPosition(false) * static_cast<double>(s.calibration_tokens) / 2);
  if (s.quantiser == "gptq") {
    calibration *= 4.0 / 3;
    for (const Weight& weight : plan.weights) {
      if (weight.shape.size() != 2 || !IsLinear(weight.role) || !ExportGrid(weight.name, weight.shape[0], weight.shape[1], s)) continue;
      const auto n = static_cast<double>(weight.shape[1]);
      calibration += 2 * n * n * (calibrated + n);
    }
  }
  estimate.flops_of_calibration = windows > 0 ? calibration * (TrainingCalibrates(s) + FindsSteps(s)) : 0;
  // Gradients in float32 as well, initial values, and one tensor on its way into a checkpoint; the stream's 64 MB read ahead.
  const int64_t micro_batch = s.train_batch_tokens / s.grad_micro_steps, sequences = (micro_batch + s.train_seq_len - 1) / s.train_seq_len;
  const Settings eval = s.ForEvaluation();
  if (!device.is_cpu()) {  // its passes for training and for scoring are there side by side
    const int64_t at_a_time = s.micro_batch_seqs > 0 ? std::min(s.micro_batch_seqs, sequences) : sequences;
    estimate.memory_bytes = kDeviceLibraryBytes + state + DeviceEngineBytes(s, at_a_time, s.train_seq_len, /*training=*/true, device) + ScoringBytes(eval, device);
    return estimate;
  }
  estimate.memory_bytes = kLibTorchBytes + 64e6 + 1.5 * state + choosing_steps +
                          std::max(EngineBytes(s, sequences, /*training=*/true), ScoringBytes(eval));
  return estimate;
}

double MeasureProducts(const Settings& s, at::Device device) {
  const int64_t size = device.is_cuda() ? 8192 : 1024;
  const double operations_of_one = 2.0 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size);
  const at::ScalarType dtype = s.precision == "bfloat16" ? at::kBFloat16 : at::kFloat;
  const at::Tensor a = at::ones({size, size}, at::TensorOptions().dtype(dtype).device(device));
  const auto product = [&] { at::matmul(a, a).view(-1)[0].item<float>(); };  // the last waits for it
  product();
  const auto begin = std::chrono::steady_clock::now();
  double seconds = 0, operations = 0;
  while (seconds < 0.2) {
    product();
    operations += operations_of_one;
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  return operations / seconds;
}

}  // namespace fairway
