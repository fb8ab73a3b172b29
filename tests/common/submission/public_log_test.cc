#include "common/submission/public_log.h"

#include <gtest/gtest.h>

namespace fairway {
namespace {

TEST(PublicLog, ReadsThePublishedLayout) {
  const PublicLog log = ParsePublicLog(
      "import torch\ndef main(): pass\nseed:7\n" + std::string(100, '=') +
      "\nRunning PyTorch 2.9.1+cu128\n"
      "train_loader:dataset:fineweb10B_sp1024 train_shards:70\nval_loader:shards pattern=*.bin tokens:62021632\n"
      "model_params:27878489\nworld_size:8 grad_accum_steps:1\nseed:42\nwarmup_step:1/20\n"
      "step:0/20000 val_loss:6.9285 val_bpb:4.1034 train_time:0ms step_avg:0.03ms\n"
      "step:1/20000 train_loss:6.9310 train_time:129ms step_avg:128.52ms\n"
      "swa:start step:5900\nstopping_early: wallclock_cap train_time:599997ms step:6824/20000\n"
      "Code size: 56639 bytes\nTotal submission size: 107943166 bytes\nSerialized model int6+zstd: 16924417 bytes\n"
      "Total submission size int8+zlib: 16981056 bytes\n  sliding_eval [  0.0%] 32/121136 windows "
      "running_bpb=1.204187\n"
      "final_int8_zlib_roundtrip val_loss:1.9076 val_bpb:1.1298 eval_time:186103ms\n");
  EXPECT_NE(log.source.find("def main"), std::string::npos);
  EXPECT_EQ(log.seed->value, 42);
  EXPECT_EQ(log.seed->line, 10);
  EXPECT_EQ(log.train_shards->value, 70);
  EXPECT_EQ(log.validation_tokens->value, 62'021'632);
  EXPECT_EQ(log.world_size->value, 8);
  EXPECT_EQ(log.stop_ms->value, 599'997);
  EXPECT_EQ(log.stop_step->value, 6824);
  EXPECT_EQ(log.code_bytes->value, 56'639);
  EXPECT_EQ(log.model_bytes->value, 16'924'417);
  EXPECT_EQ(log.total_bytes->value, 16'981'056);
  EXPECT_EQ(log.torch->text, "2.9.1+cu128");
  ASSERT_EQ(log.scores.size(), 2u);
  EXPECT_EQ(log.scores[0].stage, LoggedScore::Stage::kTraining);
  EXPECT_EQ(log.scores[1].label, "final_int8_zlib_roundtrip");
  EXPECT_EQ(log.scores[1].bpb.decimals, 4);
  EXPECT_EQ(log.scores[1].seconds, 186.103);
  ASSERT_NE(log.Note({"swa:start"}), nullptr);
  EXPECT_EQ(log.Note({"swa:start"})->line, 14);
}

TEST(PublicLog, ReadsTheLayoutSinceApril) {
  const PublicLog log = ParsePublicLog(
      "Hyperparameters:\n  ema_decay: 0.997\n  seed: 314\ntrain_shards: 80\nval_tokens: 40540160\n0/20000 val_loss: "
      "9.0090 val_bpb: 3.4877\n"
      "500/20000 train_loss: 3.3342 train_time: 0.8m tok/s: 8242436\n1000/20000 train_loss: 3.2 train_time: 1.6m "
      "tok/s: 8242436\n"
      "stopping_early: wallclock_cap train_time: 588023ms step: 5069/20000\nGPTQ:collected 67 Hessians in 11.4s\n"
      "Code size (uncompressed): 121884 bytes\nCode size (compressed): 27310 bytes\n"
      "diagnostic pre-quantization post-ema val_loss:2.76877360 val_bpb:1.07184400 eval_time:5993ms\n"
      "diagnostic quantized val_loss:2.79823422 val_bpb:1.08324876 eval_time:45933ms\nttt_sliding:done "
      "val_loss=2.797884 val_bpb=1.083148 elapsed=289.8s\n"
      "total_eval_time:338.2s\n");
  EXPECT_EQ(log.Setting({"ema_decay"})->text, "0.997");
  EXPECT_EQ(log.seed->value, 314);
  ASSERT_EQ(log.curve.train.size(), 2u);
  EXPECT_EQ(log.curve.train[0].step, 500);
  EXPECT_EQ(log.curve.train[0].train_ms, 48'000);
  EXPECT_EQ(log.curve.train[0].step_ms, 96);
  EXPECT_EQ(log.calibration_seconds->value, 11.4);
  EXPECT_EQ(log.raw_code_bytes->value, 121'884);
  EXPECT_EQ(log.code_bytes->value, 27'310);
  EXPECT_EQ(log.evaluation_seconds->value, 338.2);
  ASSERT_EQ(log.scores.size(), 4u);
  EXPECT_EQ(log.scores[1].stage, LoggedScore::Stage::kBefore);
  EXPECT_EQ(log.scores[2].stage, LoggedScore::Stage::kFinal);
  EXPECT_EQ(log.scores[3].seconds, 289.8);
}

TEST(PublicLog, ReadsOtherLayouts) {
  const PublicLog log = ParsePublicLog(
      "step:1/50000 [JEPA] train_loss:1.0612 train_time:868ms step_avg:867.64ms\nstep:30000/60000 val_loss:2.0349 "
      "val_bpb:1.2215 train_time:47870254ms\n"
      "INT7+zlib model: 15370972 bytes | Total submission: 15441941 bytes\nfinal_exact sliding val_loss:2.02095340 "
      "sliding val_bpb:1.19692464\n"
      "  \"post_ttt_val_bpb\": 1.06400238,\nval_bpb:          1.12278022\n");
  EXPECT_EQ(log.curve.train.size(), 1u);
  EXPECT_EQ(log.curve.validation.size(), 1u);
  EXPECT_EQ(log.model_bytes->value, 15'370'972);
  EXPECT_EQ(log.total_bytes->value, 15'441'941);
  ASSERT_EQ(log.scores.size(), 4u);
  EXPECT_EQ(log.scores[1].label, "final_exact sliding");
  EXPECT_EQ(log.scores[1].loss->value, 2.0209534);
  EXPECT_EQ(log.scores[2].label, "post_ttt_");
  EXPECT_EQ(log.scores[3].label, "val_bpb");
}

TEST(PublicLog, ReadsWindowsText) {
  const std::string plain = "seed:42\r\nstep:1/2 train_loss:6.9 train_time:310ms step_avg:310.20ms\r\n";
  std::string wide = "\xff\xfe";
  for (const char c : plain) wide += {c, '\0'};
  EXPECT_EQ(ParsePublicLog(wide).curve.train.size(), 1u);
  EXPECT_EQ(ParsePublicLog(wide).seed->value, 42);
}

TEST(PublicLog, KeepsItsSize) {
  std::string text;
  for (int i = 0; i < 20'000; ++i)
    text += "line of kind " + std::string(1, static_cast<char>('a' + i % 26)) + std::to_string(i) + "\n";
  EXPECT_LE(ParsePublicLog(text).notes.size(), 100u);
}

TEST(ReadFigure, CountsDecimals) {
  Figure figure;
  size_t length;
  ASSERT_TRUE(ReadFigure("1.13507850 x", &figure, &length));
  EXPECT_EQ(figure.decimals, 8);
  EXPECT_EQ(length, 10u);
  ASSERT_TRUE(ReadFigure("7.6e-05", &figure));
  EXPECT_EQ(figure.decimals, 6);
  ASSERT_TRUE(ReadFigure("17498720", &figure));
  EXPECT_EQ(figure.decimals, 0);
  EXPECT_FALSE(ReadFigure("x1", &figure));
  EXPECT_FALSE(ReadFigure("", &figure));
}

}  // namespace
}  // namespace fairway
