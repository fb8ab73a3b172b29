#include "common/train/estimate.h"

#include <gtest/gtest.h>

#include "common/cuda/memory.h"

namespace fairway {
namespace {

TEST(EstimateTraining, CountsTheProductsOfAStep) {
  Settings settings;
  for (const auto& [name, value] : std::vector<std::pair<const char*, const char*>>{
           {"vocab_size", "32"}, {"num_layers", "3"}, {"xsa_last_n", "0"}, {"model_dim", "16"}, {"num_heads", "4"}, {"num_kv_heads", "2"},
           {"mlp_mult", "2"}, {"bigram_vocab_size", "0"}, {"num_loops", "2"}, {"loop_start", "1"}, {"loop_end", "1"},
           {"train_seq_len", "8"}, {"train_batch_tokens", "64"}, {"grad_micro_steps", "1"}, {"muon_backend_steps", "5"}, {"threads", "1"}})
    settings.Set(name, value, Origin::kCommandLine, "test");
  settings.CheckTraining(/*world_size=*/1);
  // Five visits of queries, keys, values, output and both layers of the MLP, and the output layer; half of 8 positions.
  const double layer = 16 * 16 + 2 * 8 * 16 + 16 * 16 + 2 * 32 * 16, products = 5 * layer + 32 * 16, attention = 5 * 2 * 16 * 4;
  // Newton-Schulz of [16, 16] twice, [8, 16] twice and [32, 16] twice per layer: 2 m m n + m m m.
  const auto newton_schulz = [](double m, double n) { return 2 * m * m * n + m * m * m; };
  const double muon = 3 * 2 * (newton_schulz(16, 16) + newton_schulz(8, 16) + newton_schulz(16, 32));
  EXPECT_EQ(EstimateTraining(settings).flops_per_step, 64 * 6 * (products + attention) + 5 * 2 * muon);
}

// Validation has windows of its own length, and a micro-batch of packed documents may be shorter than a sequence.
TEST(EstimateTraining, HoldsTheLongestWindows) {
  const auto memory = [](const SettingValues& given) {
    Settings settings;
    for (const auto& [name, value] : given) settings.Set(name, value, Origin::kCommandLine, "test");
    return EstimateTraining(settings).memory_bytes;
  };
  EXPECT_GT(memory({{"train_seq_len", "64"}, {"train_batch_tokens", "64"}, {"grad_micro_steps", "1"}, {"val_batch_size", "131072"}, {"eval_seq_len", "16384"}}),
            memory({{"train_seq_len", "64"}, {"train_batch_tokens", "64"}, {"grad_micro_steps", "1"}, {"val_batch_size", "131072"}}) + 1e6);
  EXPECT_EQ(memory({{"packed_documents", "1"}, {"train_seq_len", "2048"}, {"train_batch_tokens", "1000"}, {"grad_micro_steps", "1"}, {"val_batch_size", "8"}}),
            memory({{"packed_documents", "1"}, {"train_seq_len", "2048"}, {"train_batch_tokens", "2048"}, {"grad_micro_steps", "1"}, {"val_batch_size", "8"}}));
}

// On a GPU it is the GPU's memory: the passes' of its engine, both ways, beside parameters, moments and what CUDA takes.
TEST(EstimateTraining, IsOfTheGpuWhereOneComputes) {
  Settings settings;
  settings.LoadProfile("published-531");
  const auto of = [](const Settings& s) { return EstimateTraining(s, 8, at::kCUDA).memory_bytes; };
  const double whole = of(settings), passes = DeviceEngineBytes(settings, 48, 2048, /*training=*/true, at::kCUDA);
  EXPECT_GT(whole, passes + DeviceEngineBytes(settings, 32, 2048, /*training=*/false, at::kCUDA) + kDeviceLibraryBytes);
  EXPECT_LT(whole, 80e9);  // it was published from GPUs of 80 GB
  settings.micro_batch_seqs = 12;
  EXPECT_LT(of(settings), whole - passes / 2);
}

}  // namespace
}  // namespace fairway
