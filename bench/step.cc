// bench-step: the time of whole training steps, of the matrix products in one alone, and of sliding evaluation's windows, on the
// shards of DATA_PATH. bench/race.py runs it beside PyTorch.
#include <ATen/Parallel.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <map>
#include <chrono>
#include <ctime>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "common/base/error.h"
#include "common/model/ops/attention.h"
#include "common/model/ops/product.h"
#include "common/model/ops/team.h"
#include "common/plan/plan.h"
#include "common/tool/tool.h"
#include "common/train/trainer.h"

namespace fairway {
namespace {

double SecondsOf(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Operations a second in a product [M, K] x [K, N], at most: by the library's or by ours, whichever is faster, again and again on operands that
// are packed, so that starting threads counts for nothing, and the best of five times.
double BestRate(const Settings& settings, int64_t M, int64_t N, int64_t K) {
  const Precision precision = settings.precision == "bfloat16" ? Precision::kBFloat16 : Precision::kFloat32;
  const at::ScalarType dtype = precision == Precision::kBFloat16 ? at::kBFloat16 : at::kFloat;
  const at::Tensor a = at::ones({M, K}, dtype), b = at::ones({K, N}, dtype), out = at::ones({M, N}, dtype);
  std::vector<Word> words(Panels::Words(precision, K, N) + 16);
  const Panels packed{.words = words.data(), .K = K, .N = N, .precision = precision};
  PackRows(ElementsOf(b), N, packed, {0, K});
  const double operations = 2.0 * static_cast<double>(M * N * K);
  const int64_t times = 1 + static_cast<int64_t>(2e9 / operations);
  const auto ours = [&] {
    RunTeam(at::get_num_threads(), [&](const Team& team) {
      for (int64_t i = 0; i < times; ++i) MultiplyTo({.a = ElementsOf(a), .a_stride = K, .b = packed}, ElementsOf(out), N, team.Share(M, 6), {0, N});
    });
  };
  at::Tensor product = at::matmul(a, b);
  const auto library = [&] {
    for (int64_t i = 0; i < times; ++i) at::matmul_out(product, a, b);
  };
  double seconds = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 5; ++i) seconds = std::min({seconds, SecondsOf(ours), SecondsOf(library)});
  return operations * static_cast<double>(times) / seconds;
}

// Seconds of as many operations in q k^T as in P v, for each of them: of sequences of T positions.
double AttentionSeconds(const Settings& s, int64_t T, int64_t d) { return 1 / BestRate(s, T, kAttentionKeys, d) + 1 / BestRate(s, T, d, T); }

// Seconds that the products of a step take at those rates: forward, towards the input and towards the weight for every linear
// layer, six for causal attention, and Newton-Schulz with the symmetry of two of its three.
double ProductSeconds(const Settings& s) {
  const Plan plan(s);
  const int64_t d = plan.d, T = s.train_seq_len;
  const int64_t rows = std::min<int64_t>(s.train_batch_tokens, 4096);
  const double tokens = static_cast<double>(s.train_batch_tokens);
  std::map<std::pair<int64_t, int64_t>, double> measured;  // seconds of a linear layer, by its shape
  const auto linear = [&](const Linear& layer) {
    if (layer.weights.empty()) return 0.0;
    const auto [known, fresh] = measured.try_emplace({layer.rows, layer.columns}, 0);
    if (!fresh) return known->second;
    const int64_t out = layer.rows, in = layer.columns;
    const double one = 2 * tokens * static_cast<double>(out * in);
    return known->second = one / BestRate(s, rows, out, in) + one / BestRate(s, rows, in, out) + one / BestRate(s, out, in, rows);
  };
  double seconds = linear(plan.head) + linear(plan.bigram_proj);
  for (const Visit& visit : plan.visits(plan.loops())) {
    const LayerPlan& layer = plan.layers[visit.layer];
    for (const Linear* one : {&layer.qkv, &layer.attn_proj, &layer.mlp_fc, &layer.mlp_proj}) seconds += linear(*one);
  }
  // Of q k^T and of P v each, over all visits and heads: half of attention's multiply-adds, at half of the positions.
  const double attention = 2 * tokens * plan.AttentionPerTokenAndPosition(plan.loops()) / 2 * static_cast<double>(T) / 2;
  seconds += 3 * attention * AttentionSeconds(s, T, d);
  const auto newton_schulz = [&](int64_t rows_of, int64_t columns) {
    const int64_t m = std::min(rows_of, columns), n = std::max(rows_of, columns);
    const double gram = static_cast<double>(m * m * n), square = static_cast<double>(m * m * m);
    return static_cast<double>(s.muon_backend_steps) *
           (gram / BestRate(s, m, m, n) + square / BestRate(s, m, m, m) + 2 * gram / BestRate(s, m, n, m));
  };
  std::map<std::pair<int64_t, int64_t>, double> of_shape;
  for (const Weight& weight : plan.weights) {
    if (weight.group != Group::kMatrices) continue;
    const auto [known, fresh] = of_shape.try_emplace({weight.shape[0], weight.shape[1]}, 0);
    if (fresh) known->second = newton_schulz(weight.shape[0], weight.shape[1]);
    seconds += known->second;
  }
  return seconds;
}

// The same for a window of sliding evaluation, of which the last `eval_stride` targets are scored: forward, and behind the last layer's keys and
// values for these positions alone.
double WindowProductSeconds(const Settings& s) {
  const Plan plan(s);
  const int64_t d = plan.d, T = s.train_seq_len, rows = std::min<int64_t>(T * s.eval_batch_seqs, 4096);
  std::map<std::pair<int64_t, int64_t>, double> rates;
  const auto linear = [&](int64_t out, int64_t in, int64_t tokens) {
    const auto [rate, fresh] = rates.try_emplace({out, in}, 0);
    if (fresh) rate->second = BestRate(s, rows, out, in);
    return 2 * static_cast<double>(tokens * out * in) / rate->second;
  };
  const std::vector<Visit>& visits = plan.visits(plan.loops());
  const double attention = 2 * plan.AttentionPerTokenAndPosition(plan.loops()) / 2 / static_cast<double>(visits.size());  // of a visit, as above
  const double per_operation = AttentionSeconds(s, T, d);
  double seconds = linear(plan.head.rows, plan.head.columns, s.eval_stride);
  for (const Visit& visit : visits) {
    const LayerPlan& layer = plan.layers[visit.layer];
    const bool last = &visit == &visits.back();
    const int64_t tokens = last ? s.eval_stride : T, keys = 2 * plan.Hkv * d;
    seconds += linear(keys, plan.D, T) + linear(layer.qkv.rows - keys, plan.D, tokens);
    for (const Linear* one : {&layer.attn_proj, &layer.mlp_fc, &layer.mlp_proj}) seconds += linear(one->rows, one->columns, tokens);
    seconds += attention * static_cast<double>(tokens) * static_cast<double>(last ? T : T / 2) * per_operation;
  }
  return seconds;
}

// Seconds by operation, of one of `count` repetitions.
Json Parts(const StepProfile& profile, int64_t count) {
  Json parts;
  for (int i = 0; i < StepProfile::kOperations; ++i) parts[StepProfile::kNames[i]] = profile.seconds[i] / static_cast<double>(count);
  return parts;
}

Json Steps(const Settings& settings, int64_t warmup, int64_t steps) {
  Trainer trainer(settings, ShardSet(settings.data_path, "train", settings.vocab_size));
  trainer.LoopFrom(1);
  StepProfile profile;
  std::vector<double> times, processor;  // processor: seconds of all threads
  for (int64_t i = 0; i < warmup + steps; ++i) {
    if (i == warmup) trainer.SetProfile(&profile);
    const std::clock_t begin = std::clock();
    const double seconds = SecondsOf([&] {
      trainer.AccumulateGradients();
      trainer.Update(1);
    });
    if (i < warmup) continue;
    times.push_back(seconds);
    processor.push_back(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
  }
  return {{"step_s", Median(times)}, {"processor_s", Median(processor)}, {"times_s", times}, {"parts_s", Parts(profile, steps)}, {"data_wait_s", trainer.data_wait_seconds()}};
}

Json Windows(const Settings& settings, int64_t steps) {
  Trainer trainer(settings, ShardSet(settings.data_path, "train", settings.vocab_size));
  const int64_t T = settings.train_seq_len, stride = settings.eval_stride, windows = settings.eval_batch_seqs;
  std::vector<uint16_t> tokens(T + windows * stride + 1);
  trainer.shards().Read(0, tokens.size(), tokens.data());
  std::vector<const uint16_t*> sequences;
  for (int64_t i = 0; i < windows; ++i) sequences.push_back(tokens.data() + i * stride);
  std::vector<float> losses(windows * stride);
  Engine& model = trainer.ModelForScoring();
  StepProfile profile;
  std::vector<double> times;
  for (int64_t i = 0; i <= steps; ++i) {
    if (i == 1) trainer.SetProfile(&profile);
    const double seconds = SecondsOf([&] { model.TokenLosses(sequences, T, T - stride, losses.data()); });
    if (i > 0) times.push_back(seconds);
  }
  return {{"window_s", Median(times) / static_cast<double>(windows)}, {"products_s", WindowProductSeconds(settings)}, {"parts_s", Parts(profile, steps * windows)}};
}

int Main(int argc, char** argv) {
  int64_t steps = 5, warmup = 1;
  std::string what = "steps";
  Settings settings;
  CommandLine line("bench-step", "Times training steps, their products alone, or windows of evaluation.",
                   "bench-step --what steps --steps 5 --precision bfloat16");
  line.Option("--what", what, "steps, products or windows");
  line.Option("--steps", steps, 1, 1000, "repetitions to time");
  line.Option("--warmup", warmup, 0, 1000, "steps before those");
  line.Use(settings, scope::kModel | scope::kTrain | scope::kEvaluate);
  return RunTool(line, argc, argv, [&]() -> Json {
    settings.ema_enabled = settings.swa_enabled = false;  // PyTorch's side keeps none either
    settings.CheckTraining(1);
    UseThreads(settings);
    if (what == "steps") return Steps(settings, warmup, steps);
    if (what == "products") return {{"products_s", ProductSeconds(settings)}};
    if (what == "windows") return Windows(settings, steps);
    throw UsageError("--what: steps, products or windows");
  });
}

}  // namespace
}  // namespace fairway

int main(int argc, char** argv) { return fairway::Main(argc, argv); }
