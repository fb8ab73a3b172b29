// The profiles that come with the sources.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "common/settings/settings.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;
using ::testing::UnorderedElementsAre;

std::string ProfilePath(const std::string& name) {
  return SOURCE_DIR "/pipelines/" + name + ".profile";
}

Settings Load(const std::string& name) {
  Settings settings;
  settings.LoadProfile(ProfilePath(name));
  return settings;
}

// Data that changed its folder along with the profile's.
std::vector<std::string> Differences(const Settings& a, const Settings& b) {
  std::vector<std::string> names;
  for (const SettingInfo& info : SettingTable()) {
    const bool place = info.name == "data_path" || info.name == "tokenizer_path";
    if (!place && a.Get(info.name) != b.Get(info.name))
      names.push_back(std::string(info.name) + " = " + a.Get(info.name));
  }
  return names;
}

TEST(Profiles, EachLoadsAndCanBeTrained) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(SOURCE_DIR "/pipelines")) {
    if (entry.path().extension() != ".profile") continue;
    names.push_back(entry.path().stem());
    EXPECT_NO_THROW(Load(names.back()).CheckTraining(1)) << names.back();
  }
  EXPECT_THAT(names, UnorderedElementsAre("beyond", "beyond-10min", "cpu-demo", "field-1855", "published-531", "record-h100x8", "tiny"));
}

TEST(Profiles, ThoseForEightCardsShareOutTheirMicroSteps) {
  for (const char* name : {"field-1855", "published-531", "record-h100x8"}) EXPECT_NO_THROW(Load(name).CheckTraining(8)) << name;
}

TEST(Profiles, TheirDataAreFoundFromThemselves) {
  EXPECT_EQ(Load("cpu-demo").data_path, SOURCE_DIR "/data/bible-kjv");
  EXPECT_EQ(Load("tiny").tokenizer_path, SOURCE_DIR "/data/bible-kjv/tokenizer.model");
  EXPECT_EQ(Load("published-531").data_path, SOURCE_DIR "/data/datasets/fineweb10B_sp1024");
  EXPECT_EQ(Load("published-531").tokenizer_path, SOURCE_DIR "/data/tokenizers/fineweb_1024_bpe.model");
}

// The defaults are pull request 531 (settings_test.cc); the published run has its quirks besides.
TEST(Profiles, ThePublishedOneIsThePublishedSettings) {
  EXPECT_THAT(
      Differences(Load("published-531"), Settings()),
      UnorderedElementsAre("published_quirks = 1", "source = swa", "fp16_keep_name_patterns = tok_emb,blocks.8.attn.c_k"));
}

// Pull request 1855 without what its own logs refute, and with a quantiser that fills the size that a record may have.
TEST(Profiles, TheRecordDiffersFromTheFieldsBestInWhatItsCommentsSay) {
  const Settings record = Load("record-h100x8");
  EXPECT_THAT(Differences(record, Load("field-1855")),
              UnorderedElementsAre("published_quirks = 0", "gptq_reserve_seconds = 0", "quantiser = gptq", "target_bytes = 16000000",
                                   "eval_stride = 64", "method = sliding", "residual_precision = bfloat16",
                                   // What only the other quantiser and the other method read.
                                   "embed_bits = 8", "mlp_clip_sigmas = 10", "embed_clip_sigmas = 20", "gated_attn_quant_gate = 0",
                                   "ttt_lora_rank = 0", "ttt_beta2 = 0.999", "ttt_weight_decay = 1", "ttt_warm_start_a = 0",
                                   "phased_ttt_num_phases = 1", "phased_ttt_prefix_docs = 0"));
  EXPECT_EQ(record.calibration, "train") << "training data would be read after the clock has run out";
  EXPECT_GT(record.calibration_windows, 0);
  EXPECT_EQ(record.coder, "arithmetic");
  EXPECT_EQ(record.max_wallclock_seconds, 600);
  EXPECT_NE(record.data_path, Load("field-1855").data_path) << "the published tokenizer has seen the validation documents";
}

// The record's command and the script's defaults, by their names in its environment.
TEST(Profiles, Field1855IsTheRecordsCommand) {
  const Settings field = Load("field-1855");
  for (const auto& [name, value] : std::vector<std::pair<const char*, const char*>>{
           {"adam_eps", "1e-08"},       {"adam_wd", "0.02"},          {"attn_clip_sigmas", "13"},  {"beta1", "0.9"},
           {"beta2", "0.99"},           {"ema_decay", "0.9965"},      {"embed_bits", "7"},         {"embed_clip_sigmas", "14"},
           {"embed_wd", "0.085"},       {"enable_looping_at", "0.35"}, {"eval_seq_len", "2048"},    {"gate_window", "12"},
           {"gated_attn_quant_gate", "1"}, {"gptq_calibration_batches", "16"}, {"gptq_reserve_seconds", "0.5"}, {"grad_clip_norm", "0.3"},
           {"iterations", "20000"},     {"ln_scale", "1"},            {"logit_softcap", "30"},     {"loop_end", "5"},
           {"loop_start", "3"},         {"lqer_asym_enabled", "1"},   {"lqer_asym_group", "64"},   {"lqer_enabled", "1"},
           {"lqer_factor_bits", "4"},   {"lqer_rank", "4"},           {"lqer_top_k", "3"},         {"matrix_bits", "6"},
           {"matrix_clip_sigmas", "12.85"}, {"matrix_lr", "0.026"},   {"max_wallclock_seconds", "600"}, {"min_lr", "0.1"},
           {"mlp_clip_sigmas", "11.5"}, {"mlp_mult", "4"},            {"model_dim", "512"},        {"muon_backend_steps", "5"},
           {"muon_momentum", "0.97"},   {"muon_momentum_warmup_start", "0.92"}, {"muon_momentum_warmup_steps", "1500"}, {"muon_row_normalize", "1"},
           {"muon_weight_decay", "0.095"}, {"num_heads", "8"},        {"num_kv_heads", "4"},       {"num_layers", "11"},
           {"num_loops", "2"},          {"parallel_final_lane", "mean"}, {"parallel_start_layer", "8"}, {"qk_gain_init", "5"},
           {"rope_base", "10000"},      {"rope_dims", "16"},          {"scalar_lr", "0.02"},       {"seed", "42"},
           {"skip_gates_enabled", "1"}, {"smear_gate_enabled", "1"},  {"sparse_attn_gate_enabled", "1"}, {"sparse_attn_gate_scale", "0.5"},
           {"tied_embed_init_std", "0.005"}, {"tied_embed_lr", "0.03"}, {"tie_embeddings", "1"},   {"train_batch_tokens", "786432"},
           {"train_log_every", "500"},  {"train_seq_len", "2048"},    {"val_batch_size", "524288"}, {"val_loss_every", "0"},
           {"method", "ttt"},           {"ttt_lora_rank", "80"},      {"ttt_lora_alpha", "144"},  {"ttt_lora_lr", "1e-04"},
           {"ttt_beta1", "0"},          {"ttt_beta2", "0.99"},        {"ttt_weight_decay", "0.5"}, {"ttt_warm_start_a", "1"},
           {"ttt_batch_size", "64"},    {"ttt_chunk_size", "48"},     {"ttt_eval_seq_len", "2048"}, {"phased_ttt_num_phases", "3"},
           {"phased_ttt_prefix_docs", "2500"}, {"global_ttt_chunk_tokens", "32768"}, {"global_ttt_batch_seqs", "32"},
           {"global_ttt_lr", "0.001"},  {"global_ttt_momentum", "0.9"}, {"global_ttt_grad_clip", "1"},
           {"vocab_size", "8192"},      {"warmdown_frac", "0.85"},    {"warmup_steps", "20"},      {"xsa_last_n", "11"}})
    EXPECT_EQ(field.Get(name), value) << name;
}

// The published recipe's later options are off in it, whatever becomes of their defaults.
TEST(Profiles, ThePublishedOneHasNoLaterOption) {
  const Settings published = Load("published-531");
  EXPECT_EQ(published.rope_dims, 0);
  EXPECT_FALSE(published.ln_scale);
  EXPECT_EQ(published.mlp_negative_slope, 0);
  EXPECT_EQ(published.select_tokens, 0);
  EXPECT_EQ(published.method, "sliding");
}

// The same model on the same text: what it gains, it gains by its vocabulary and by how it is trained, rounded and scored.
TEST(Profiles, BeyondDiffersFromTheDemoInItsRecipeAlone) {
  EXPECT_THAT(Differences(Load("beyond"), Load("cpu-demo")),
              UnorderedElementsAre("vocab_size = 4096", "num_layers = 6", "value_embed_every = 2", "train_batch_tokens = 2048",
                                   "data_order = shuffled", "grad_micro_steps = 1", "iterations = 650", "warmdown_iters = 3000",
                                   "warmdown_frac = 0.5", "min_lr = 0.1", "muon_momentum_warmup_steps = 100", "swa_every = 5", "late_qat_threshold = 0", "method = ttt",
                                   "ttt_lora_rank = 8", "ttt_lora_lr = 0.004", "ttt_chunk_size = 24", "ttt_eval_seq_len = 256", "val_loss_every = 50", "fp16_keep_name_patterns = ",
                                   "quantiser = gptq", "target_bytes = 1060000"));
}

TEST(Profiles, TenMinutesDifferInWidthLengthAndWhatSuitsMorePasses) {
  EXPECT_THAT(Differences(Load("beyond-10min"), Load("beyond")),
              UnorderedElementsAre("model_dim = 128", "num_heads = 8", "num_kv_heads = 4", "value_embed_every = 0", "iterations = 6000",
                                   "warmdown_iters = 3600", "warmdown_frac = 0", "min_lr = 0",
                                   "muon_momentum_warmup_steps = 1500", "muon_weight_decay = 0.5", "embed_wd = 0.1", "ema_decay = 0.98", "swa_enabled = 0", "swa_every = 50",
                                   "ttt_lora_lr = 5e-04", "val_loss_every = 500", "train_log_every = 50"));
}

// What the demo must show (its profile's own words): all of the architecture, and every late technique acts.
TEST(Profiles, TheDemoHasEveryPartOfTheModel) {
  const Settings demo = Load("cpu-demo");
  EXPECT_EQ(demo.num_layers, 11);
  EXPECT_EQ(demo.xsa_last_n, 4);
  EXPECT_LT(demo.num_kv_heads, demo.num_heads);
  EXPECT_GT(demo.bigram_vocab_size, 0);
  EXPECT_NE(demo.bigram_dim, demo.model_dim);
  EXPECT_TRUE(demo.tie_embeddings);
  for (const char* name : {"cpu-demo", "tiny"}) {
    const Settings settings = Load(name);
    EXPECT_TRUE(settings.ema_enabled && settings.swa_enabled) << name;
    EXPECT_GT(settings.late_qat_threshold, 0) << name;
    EXPECT_LE(settings.max_wallclock_seconds, 0) << name << ": a clock would decide how many steps there are";
    EXPECT_LT(settings.keep_max_numel, settings.model_dim * settings.model_dim) << name << ": nothing to quantise";
  }
}

}  // namespace
}  // namespace fairway
