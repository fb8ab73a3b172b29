// What a GPU computes against what the CPU computes by the same operations (tests/common/cuda hold those to the float64 formula),
// each tensor's largest difference printed; then the time of a training step at the record's shape.
//
// Status 0: all within tolerance, or no GPU: skipped. 5: not. With --rehearse the CPU plays the GPU, so that what is here runs
// where there is none; nothing is timed.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/scalar_tensor.h>

#include <chrono>
#include <cstdio>

#include "common/base/error.h"
#include "common/base/machine.h"
#include "common/base/text.h"
#include "common/cuda/device.h"
#include "common/cuda/optimizer.h"
#include "common/cuda/transformer.h"
#include "tests/common/cuda/host_machine.h"
#include "tests/common/model/shapes.h"

namespace fairway::cuda {
namespace {

bool all_good = true;

// ‖ours - theirs‖ / ‖theirs‖, and the largest difference.
void Compare(const std::string& what, const at::Tensor& ours, const at::Tensor& theirs, double tolerance) {
  if (theirs.numel() == 0) return;
  const at::Tensor difference = ours.cpu().to(at::kDouble) - theirs.to(at::kDouble);
  const double norm = theirs.to(at::kDouble).norm().item<double>();
  const double relative = difference.norm().item<double>() / std::max(norm, 1e-12);
  const bool good = relative <= tolerance;
  all_good = all_good && good;
  std::printf("  %-34s largest difference %.3e, of the norm %.3e%s\n", what.c_str(), difference.abs().max().item<double>(), relative,
              good ? "" : StringPrintf(": MORE THAN %.0e", tolerance).c_str());
}

void Expect(bool holds, const char* what) {
  all_good = all_good && holds;
  std::printf("  %-34s %s\n", what, holds ? "yes" : "NO");
}

std::vector<uint16_t> RandomTokens(const Settings& settings, int64_t count) {
  const at::Tensor ids = RandomIds(settings, 1, count);
  const int64_t* from = ids.const_data_ptr<int64_t>();
  return {from, from + count};
}

std::vector<const uint16_t*> Sequences(const std::vector<uint16_t>& tokens, int64_t B, int64_t T) {
  std::vector<const uint16_t*> sequences;
  for (int64_t b = 0; b < B; ++b) sequences.push_back(tokens.data() + b * T);
  return sequences;
}

NamedTensors Doubles(const FlatTensors& flat) {
  NamedTensors copies;
  for (const auto& [name, tensor] : flat.tensors()) copies.emplace_back(name, tensor.cpu().to(at::kDouble));
  return copies;
}

// A model with its optimiser on one machine.
struct Training {
  Training(const Settings& settings, Machine& machine)
      : layout(settings),
        parameters(layout, layout.embeddings_dtype(), Group::kEmbeddings, Group::kMatrices, machine.device()),
        gradients(layout, at::kFloat, Group::kEmbeddings, Group::kMatrices, machine.device()) {
    const NamedTensors initial = RandomParameters(settings);
    for (size_t i = 0; i < initial.size(); ++i) parameters.tensors()[i].second.copy_(initial[i].second);
    engine = MakeEngine(settings, parameters.tensors(), gradients.tensors(), machine);
    optimizer = std::make_unique<DeviceOptimizer>(settings, layout, parameters, gradients, machine);
  }
  void Accumulate(const std::vector<const uint16_t*>& sequences, int64_t T, int64_t micro_steps, bool fake_quantise) {
    engine->Prepare(fake_quantise);
    for (int64_t i = 0; i < micro_steps; ++i)
      engine->AccumulateGradients(sequences, T, 1 / static_cast<double>(micro_steps));
    engine->FinishGradients();
  }
  void Step(double momentum) {
    const double norm = optimizer->GradientNorm();
    optimizer->Step(1, momentum, optimizer->ClipFactor(norm));
  }
  const FlatLayout layout;
  const FlatTensors parameters, gradients;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<DeviceOptimizer> optimizer;
};

void CheckParity(Machine& gpu, const Options& options, double tolerance) {
  Options all = {{"model_dim", "64"}, {"vocab_size", "300"}, {"num_layers", "5"}, {"xsa_last_n", "2"}, {"bigram_vocab_size", "200"}};
  std::string title;
  for (const auto& [name, value] : options) {
    all[name] = value;
    title += name + "=" + value + " ";
  }
  std::printf("%s\n", title.c_str());
  const Settings settings = Shape(all);
  constexpr int64_t B = 6, T = 150;
  const std::vector<uint16_t> tokens = RandomTokens(settings, B * T + 1);
  const auto sequences = Sequences(tokens, B, T);
  HostMachine host;
  Training ours(settings, gpu), theirs(settings, host), again(settings, gpu);

  constexpr int64_t kScored = 100;
  std::vector<float> our_losses(B * kScored), their_losses(B * kScored);
  ours.engine->Prepare(false);
  theirs.engine->Prepare(false);
  ours.engine->TokenLosses(sequences, T, T - kScored, our_losses.data());
  theirs.engine->TokenLosses(sequences, T, T - kScored, their_losses.data());
  const auto as_tensor = [](std::vector<float>& values) { return at::from_blob(values.data(), {B * kScored}, at::kFloat); };
  Compare("losses", as_tensor(our_losses), as_tensor(their_losses), tolerance);

  for (const bool fake_quantise : {false, true}) {
    // Once as it is, once captured, twice replayed.
    for (Training* training : {&ours, &theirs, &again}) training->Accumulate(sequences, T, 4, fake_quantise);
    const std::vector<float> loss = ours.engine->Losses(), their_loss = theirs.engine->Losses();
    for (size_t i = 0; i < loss.size(); ++i)
      Compare("loss of a micro-step", at::scalar_tensor(loss[i], at::kFloat), at::scalar_tensor(their_loss[i], at::kFloat), tolerance);
    bool same = again.engine->Losses() == loss;
    for (size_t i = 0; i < ours.gradients.tensors().size(); ++i) {
      const auto& [name, gradient] = ours.gradients.tensors()[i];
      Compare(name, gradient, theirs.gradients.tensors()[i].second, tolerance);
      same = same && gradient.equal(again.gradients.tensors()[i].second);
    }
    Expect(same, "the same bits twice");
    Compare("gradient norm", at::scalar_tensor(ours.optimizer->GradientNorm(), at::kDouble),
            at::scalar_tensor(theirs.optimizer->GradientNorm(), at::kDouble), tolerance);
    const NamedTensors our_start = Doubles(ours.parameters), their_start = Doubles(theirs.parameters);
    for (Training* training : {&ours, &theirs, &again}) training->Step(0.9);
    const NamedTensors our_end = Doubles(ours.parameters), their_end = Doubles(theirs.parameters);
    for (size_t i = 0; i < our_end.size(); ++i) {
      const bool muons = ours.layout.entries()[i].spec.group == Group::kMatrices;
      // Newton-Schulz is bfloat16 in any case. AdamW's first steps are little but the signs of gradients: where these are all but 0, a
      // rounding turns them. A step in the other direction is a distance of 2, none at all one of 1.
      Compare("what a step adds to " + our_end[i].first, our_end[i].second - our_start[i].second,
              their_end[i].second - their_start[i].second, muons ? std::max(4 * tolerance, 0.1) : std::max(6 * tolerance, 0.05));
    }
  }
}

// The record's shape with one GPU's micro-steps of 98,304 tokens.
void TimeSteps(Machine& gpu, const char* precision, int64_t B) {
  Settings settings;
  settings.Set("precision", precision, Origin::kCommandLine, "check-gpu");
  const int64_t T = settings.train_seq_len;
  const std::vector<uint16_t> tokens = RandomTokens(settings, B * T + 1);
  const auto sequences = Sequences(tokens, B, T);
  Training training(settings, gpu);
  const auto seconds_of = [&](int times, const auto& work) {
    training.optimizer->GradientNorm();  // waits
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) work();
    training.optimizer->GradientNorm();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / times;
  };
  const auto micro_step = [&] { training.engine->AccumulateGradients(sequences, T, 1); };
  const auto rest = [&] {
    training.engine->FinishGradients();
    training.Step(0.95);
    training.engine->Prepare(/*fake_quantise=*/false);
  };
  training.engine->Prepare(false);
  for (int i = 0; i < 3; ++i) micro_step();
  rest();
  constexpr int kTimes = 10;
  const double micro = seconds_of(kTimes, micro_step), update = seconds_of(kTimes, rest);
  std::printf("%s, %ld x %ld tokens: %.2f ms a micro-step, %.2f ms for the rest of a step; %.0f tokens/s at one micro-step a step\n",
              precision, B, T, 1e3 * micro, 1e3 * update, static_cast<double>(B * T) / (micro + update));
}

void CheckParities(Machine& gpu) {
  for (const char* tie : {"1", "0"}) {
    CheckParity(gpu, {{"precision", "float32"}, {"tie_embeddings", tie}}, 1e-4);
    CheckParity(gpu, {{"precision", "bfloat16"}, {"tie_embeddings", tie}, {"num_kv_heads", "4"}}, 0.05);
  }
  CheckParity(gpu, {{"precision", "bfloat16"}, {"reset_at_bos", "1"}, {"bigram_dim", "64"}}, 0.05);
}

int Finish() {
  std::printf("check-gpu: %s\n", all_good ? "all within tolerance" : "NOT within tolerance");
  return static_cast<int>(all_good ? ExitStatus::kDone : ExitStatus::kGate);
}

int Main(bool rehearse) {
  if (rehearse) {
    at::set_num_threads(1);
    HostMachine host;
    CheckParities(host);
    return Finish();
  }
  if (!BuiltWithCuda() || GpuCount() == 0) {
    std::printf("check-gpu: %s; no GPU: skipped\n", BuiltWithCuda() ? "this build has CUDA" : "this build is for CPUs only");
    return 0;
  }
  Settings settings;
  settings.Set("device", "cuda", Origin::kCommandLine, "check-gpu");
  Machine& gpu = *ChooseDevice(settings);
  at::set_num_threads(settings.ThreadCount());
  std::printf("on %s\n", gpu.name().c_str());
  CheckParities(gpu);
  TimeSteps(gpu, "bfloat16", 48);
  TimeSteps(gpu, "float32", 8);
  return Finish();
}

}  // namespace
}  // namespace fairway::cuda

int main(int argc, char** argv) {
  try {
    return fairway::cuda::Main(argc == 2 && std::string(argv[1]) == "--rehearse");
  } catch (const fairway::Error& error) {
    std::printf("check-gpu: %s\n", error.what());
    return static_cast<int>(error.status());
  }
}
