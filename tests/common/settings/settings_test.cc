#include "common/settings/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Key;
using ::testing::Not;
using ::testing::Pair;

// The message of the error that `body` throws, behind its exit status.
template <typename Body>
std::string ErrorOf(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return std::to_string(static_cast<int>(error.status())) + " " + error.what();
  }
  return "nothing was thrown";
}

std::string SetError(std::string_view name, std::string_view text) {
  return ErrorOf([&] { Settings().Set(name, text, Origin::kCommandLine, "here"); });
}

class SettingsTest : public ::testing::Test {
 protected:
  SettingsTest() {
    std::string name = ::testing::TempDir() + "settings_test.XXXXXX";
    folder_ = mkdtemp(name.data());
    for (const SettingInfo& info : SettingTable()) unsetenv(info.Environment().c_str());
  }
  ~SettingsTest() override {
    for (const SettingInfo& info : SettingTable()) unsetenv(info.Environment().c_str());
    fs::remove_all(folder_);
  }

  std::string Profile(std::string_view text) const {
    const std::string path = folder_ + "/some.profile";
    WriteFile(path, text);
    return path;
  }
  std::string ProfileError(std::string_view text) const {
    const std::string path = Profile(text);
    std::string error = ErrorOf([&] { Settings().LoadProfile(path); });
    if (const size_t at = error.find(folder_); at != std::string::npos) error.erase(at, folder_.size() + 1);
    return error;
  }

  std::string folder_;
};

// --- the table

TEST(SettingTable, IsSane) {
  std::set<std::string_view> names;
  unsigned scopes = 0;
  const Settings defaults;
  for (const SettingInfo& info : SettingTable()) {
    EXPECT_TRUE(names.insert(info.name).second) << info.name << " is there twice";
    EXPECT_EQ(info.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_"), std::string_view::npos)
        << info.name;
    EXPECT_FALSE(info.help.empty()) << info.name;
    EXPECT_NE(info.scopes & scope::kAll & ~scope::kRun, 0u) << info.name << " is used by no stage";
    EXPECT_EQ(info.scopes & ((1u << scope::kSinceShift) - 1) & ~scope::kAll, 0u) << info.name;
    EXPECT_LE(info.low, info.high) << info.name;
    scopes |= info.scopes & scope::kAll;
    // A default is a value that may be given: within its range, one of its choices, and read back as it was.
    Settings given;
    const std::string value = defaults.Get(info.name);
    EXPECT_NO_THROW(given.Set(info.name, value, Origin::kCommandLine, "the default")) << info.name;
    EXPECT_EQ(given.Get(info.name), value) << info.name;
    EXPECT_EQ(defaults.origin(info.name), Origin::kDefault) << info.name;
  }
  EXPECT_EQ(scopes, scope::kAll) << "a scope without settings";
}

TEST(SettingTable, AScopeIsABitAndKAllIsAllOfThem) {
  const unsigned scopes[] = {scope::kModel,    scope::kTrain, scope::kFinalize, scope::kQuantise,
                             scope::kEvaluate, scope::kData,  scope::kRun, scope::kPack};
  unsigned all = 0;
  for (const unsigned one : scopes) {
    EXPECT_EQ(one & (one - 1), 0u);
    EXPECT_EQ(all & one, 0u);
    all |= one;
  }
  EXPECT_EQ(all, scope::kAll);
}

TEST(SettingTable, ANameHasThreeSpellings) {
  for (const SettingInfo& info : SettingTable()) {
    std::string flag = "--" + std::string(info.name), environment;
    std::replace(flag.begin(), flag.end(), '_', '-');
    for (const char c : info.name) environment += c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    EXPECT_EQ(info.Flag(), flag);
    EXPECT_EQ(info.Environment(), environment);
  }
  EXPECT_EQ(SettingTable()[1].name, "num_layers");
  EXPECT_EQ(SettingTable()[1].Flag(), "--num-layers");
  EXPECT_EQ(SettingTable()[1].Environment(), "NUM_LAYERS");
}

// Pull request 531. The file of the table must not be able to change them unseen.
TEST(SettingTable, DefaultsArePublished) {
  const Settings s;
  EXPECT_EQ(s.seed, 1337);
  EXPECT_EQ(s.vocab_size, 1024);
  EXPECT_EQ(s.num_layers, 11);
  EXPECT_EQ(s.model_dim, 512);
  EXPECT_EQ(s.num_heads, 8);
  EXPECT_EQ(s.num_kv_heads, 4);
  EXPECT_EQ(s.mlp_mult, 3.0);
  EXPECT_EQ(s.tie_embeddings, true);
  EXPECT_EQ(s.rope_base, 10000);
  EXPECT_EQ(s.rope_dims, 0);
  EXPECT_EQ(s.ln_scale, false);
  EXPECT_EQ(s.mlp_negative_slope, 0);
  EXPECT_EQ(s.logit_softcap, 30);
  EXPECT_EQ(s.qk_gain_init, 1.5);
  EXPECT_EQ(s.tied_embed_init_std, 0.005);
  EXPECT_EQ(s.bigram_vocab_size, 10240);
  EXPECT_EQ(s.bigram_dim, 128);
  EXPECT_EQ(s.xsa_last_n, 4);
  EXPECT_EQ(s.train_batch_tokens, 786432);
  EXPECT_EQ(s.train_seq_len, 2048);
  EXPECT_EQ(s.iterations, 20000);
  EXPECT_EQ(s.warmup_steps, 20);
  EXPECT_EQ(s.warmdown_iters, 3000);
  EXPECT_EQ(s.max_wallclock_seconds, 600);
  EXPECT_EQ(s.val_loss_every, 500);
  EXPECT_EQ(s.train_log_every, 100);
  EXPECT_EQ(s.val_batch_size, 524288);
  EXPECT_EQ(s.tied_embed_lr, 0.03);
  EXPECT_EQ(s.embed_lr, 0.6);
  EXPECT_EQ(s.head_lr, 0.008);
  EXPECT_EQ(s.matrix_lr, 0.02);
  EXPECT_EQ(s.scalar_lr, 0.02);
  EXPECT_EQ(s.muon_momentum, 0.99);
  EXPECT_EQ(s.muon_momentum_warmup_start, 0.92);
  EXPECT_EQ(s.muon_momentum_warmup_steps, 1500);
  EXPECT_EQ(s.muon_backend_steps, 5);
  EXPECT_EQ(s.muon_weight_decay, 0.04);
  EXPECT_EQ(s.beta1, 0.9);
  EXPECT_EQ(s.beta2, 0.95);
  EXPECT_EQ(s.adam_eps, 1e-8);
  EXPECT_EQ(s.weight_decay, 0.01);
  EXPECT_EQ(s.grad_clip_norm, 0.3);
  EXPECT_EQ(s.swa_enabled, true);
  EXPECT_EQ(s.swa_start_frac, 0.4);
  EXPECT_EQ(s.swa_every, 50);
  EXPECT_EQ(s.ema_decay, 0.997);
  EXPECT_EQ(s.late_qat_threshold, 0.15);
  EXPECT_EQ(s.eval_stride, 64);
  EXPECT_EQ(s.eval_batch_seqs, 32);
  EXPECT_EQ(s.run_id, "");
  EXPECT_EQ(s.data_path, "./data/datasets/fineweb10B_sp1024");
  EXPECT_EQ(s.tokenizer_path, "./data/tokenizers/fineweb_1024_bpe.model");
  EXPECT_EQ(s.control_tensor_name_patterns, "attn_scale,mlp_scale,resid_mix,q_gain,skip_weight,smear,bigram.scale");
  EXPECT_NO_THROW(s.CheckTraining(1));
  EXPECT_NO_THROW(s.CheckTraining(8));
}

// --- one value

TEST(Set, TakesEachTypeInItsCanonicalForm) {
  Settings s;
  const auto set = [&](std::string_view name, std::string_view text) {
    s.Set(name, text, Origin::kCommandLine, "here");
    return s.Get(name);
  };
  EXPECT_EQ(set("num_layers", "007"), "7");
  EXPECT_EQ(s.num_layers, 7);
  EXPECT_EQ(set("warmdown_iters", "-5"), "-5");
  EXPECT_EQ(set("seed", "9223372036854775807"), "9223372036854775807");
  EXPECT_EQ(set("mlp_mult", "2.50"), "2.5");
  EXPECT_EQ(set("adam_eps", "0.00000001"), "1e-08");
  EXPECT_EQ(set("rope_base", "1e4"), "10000");
  EXPECT_EQ(set("tie_embeddings", "0"), "0");
  EXPECT_FALSE(s.tie_embeddings);
  EXPECT_EQ(set("precision", "float32"), "float32");
  EXPECT_EQ(set("source", "ema:0.5,swa:0.5"), "ema:0.5,swa:0.5");
  EXPECT_EQ(set("fp16_keep_name_patterns", ""), "");
  EXPECT_EQ(s.origin("seed"), Origin::kCommandLine);
  EXPECT_EQ(s.origin("model_dim"), Origin::kDefault);
}

TEST(Set, SaysWhatIsWrongAndWhere) {
  EXPECT_EQ(SetError("num_layer", "3"), "2 here: unknown setting 'num_layer'");
  EXPECT_EQ(SetError("NUM_LAYERS", "3"), "2 here: unknown setting 'NUM_LAYERS'");
  EXPECT_EQ(SetError("", "3"), "2 here: unknown setting ''");
  EXPECT_EQ(SetError("seed", "abc"), "2 here: seed = 'abc' is not a whole number");
  EXPECT_EQ(SetError("seed", ""), "2 here: seed = '' is not a whole number");
  EXPECT_EQ(SetError("seed", "1.5"), "2 here: seed = '1.5' is not a whole number");
  EXPECT_EQ(SetError("seed", "9223372036854775808"), "2 here: seed = '9223372036854775808' is more than 9223372036854775807");
  EXPECT_EQ(SetError("seed", "-9223372036854775809"), "2 here: seed = '-9223372036854775809' is less than -9223372036854775808");
  EXPECT_EQ(SetError("seed", "-"), "2 here: seed = '-' is not a whole number");
  EXPECT_EQ(SetError("seed", "-1"), "2 here: seed = '-1' must be at least 0");
  EXPECT_EQ(SetError("num_layers", "0"), "2 here: num_layers = '0' must be between 1 and 256");
  EXPECT_EQ(SetError("num_layers", "257"), "2 here: num_layers = '257' must be between 1 and 256");
  EXPECT_EQ(SetError("train_batch_tokens", "1073741825"),
            "2 here: train_batch_tokens = '1073741825' must be between 1 and 1073741824");
  EXPECT_EQ(SetError("matrix_lr", "fast"), "2 here: matrix_lr = 'fast' is not a number");
  EXPECT_EQ(SetError("matrix_lr", ""), "2 here: matrix_lr = '' is not a number");
  for (const char* text : {"inf", "-inf", "nan", "1e999"})
    EXPECT_EQ(SetError("matrix_lr", text), "2 here: matrix_lr = '" + std::string(text) + "' is not a number");
  EXPECT_EQ(SetError("matrix_lr", "-0.1"), "2 here: matrix_lr = '-0.1' must be between 0 and 1000");
  EXPECT_EQ(SetError("beta1", "1.01"), "2 here: beta1 = '1.01' must be between 0 and 1");
  EXPECT_EQ(SetError("published_quirks", "yes"), "2 here: published_quirks = 'yes' must be 0 or 1");
  EXPECT_EQ(SetError("published_quirks", ""), "2 here: published_quirks = '' must be 0 or 1");
  EXPECT_EQ(SetError("precision", "float16"), "2 here: precision = 'float16' must be one of float32, bfloat16");
  EXPECT_EQ(SetError("precision", ""), "2 here: precision = '' must be one of float32, bfloat16");
}

TEST(Set, TheEndsOfARangeBelongToIt) {
  for (const SettingInfo& info : SettingTable()) {
    if (info.type != SettingType::kInteger && info.type != SettingType::kNumber) continue;
    for (const double end : {info.low, info.high}) {
      if (end >= 9.2e18) continue;  // as a double it is one more than int64 holds
      const std::string text = info.type == SettingType::kInteger ? StringPrintf("%.0f", end) : ShortestDouble(end);
      EXPECT_EQ(SetError(info.name, text), "nothing was thrown") << info.name << " = " << text;
    }
  }
}

TEST(Set, ARefusedValueChangesNothing) {
  Settings s;
  for (const auto& [name, text] :
       SettingValues{{"num_layers", "999"}, {"mlp_mult", "0"}, {"published_quirks", "2"}, {"precision", "x"}}) {
    EXPECT_THROW(s.Set(name, text, Origin::kCommandLine, "here"), UsageError);
    EXPECT_EQ(s.Get(name), Settings().Get(name));
    EXPECT_EQ(s.origin(name), Origin::kDefault);
  }
}

TEST(Set, ACommandLineIsUsageAndAFileIsInput) {
  const auto error = [](Origin origin) { return ErrorOf([&] { Settings().Set("seed", "x", origin, "here"); }); };
  EXPECT_EQ(error(Origin::kCommandLine)[0], '2');
  EXPECT_EQ(error(Origin::kEnvironment)[0], '2');
  EXPECT_EQ(error(Origin::kProfile)[0], '4');
  EXPECT_EQ(error(Origin::kCheckpoint)[0], '4');
}

// --- four places

TEST(OriginName, IsForPeople) {
  EXPECT_EQ(OriginName(Origin::kDefault), "default");
  EXPECT_EQ(OriginName(Origin::kCheckpoint), "checkpoint");
  EXPECT_EQ(OriginName(Origin::kProfile), "profile");
  EXPECT_EQ(OriginName(Origin::kEnvironment), "environment");
  EXPECT_EQ(OriginName(Origin::kCommandLine), "command line");
}

// One setting of each type, with a value for each place; whatever the order, the stronger place wins.
TEST_F(SettingsTest, TheStrongerPlaceWinsInWhateverOrder) {
  const struct {
    std::string name, checkpoint, profile, environment, command_line;
  } cases[] = {{"iterations", "1", "2", "3", "4"},
               {"matrix_lr", "0.1", "0.2", "0.3", "0.4"},
               {"ema_enabled", "0", "1", "0", "1"},
               {"precision", "float32", "bfloat16", "float32", "bfloat16"},
               {"source", "last", "ema", "swa", "ema:1"}};
  for (const auto& c : cases) {
    const std::string profile = Profile(c.name + " = " + c.profile + "\n");
    std::string variable;
    for (const SettingInfo& info : SettingTable())
      if (info.name == c.name) variable = info.Environment();
    setenv(variable.c_str(), c.environment.c_str(), 1);
    const std::string values[] = {Settings().Get(c.name), c.checkpoint, c.profile, c.environment, c.command_line};
    int order[] = {1, 2, 3, 4};
    do {
      Settings s;
      int strongest = 0;
      for (const int place : order) {
        if (place == 1) s.Adopt({{c.name, c.checkpoint}}, "x.ckpt");
        if (place == 2) s.LoadProfile(profile);
        if (place == 3) s.LoadEnvironment();
        if (place == 4) s.Set(c.name, c.command_line, Origin::kCommandLine, "--x");
        strongest = std::max(strongest, place);
        EXPECT_EQ(s.Get(c.name), values[strongest]) << c.name << " after place " << place;
        EXPECT_EQ(s.origin(c.name), static_cast<Origin>(strongest)) << c.name;
      }
    } while (std::next_permutation(std::begin(order), std::end(order)));
    unsetenv(variable.c_str());
  }
}

// What openai/parameter-golf pull request 1855 names otherwise in its environment, or has and we do not.
TEST_F(SettingsTest, OtherNamesInTheEnvironment) {
  setenv("MUON_WD", "0.095", 1);
  setenv("ROPE_YARN", "0", 1);
  Settings settings;
  settings.LoadEnvironment();
  EXPECT_EQ(settings.muon_weight_decay, 0.095);
  EXPECT_EQ(settings.origin("muon_weight_decay"), Origin::kEnvironment);
  setenv("MUON_WEIGHT_DECAY", "0.095", 1);
  EXPECT_NO_THROW(Settings().LoadEnvironment());
  setenv("MUON_WEIGHT_DECAY", "0.04", 1);
  EXPECT_THAT(ErrorOf([] { Settings().LoadEnvironment(); }), HasSubstr("MUON_WEIGHT_DECAY = '0.04' and MUON_WD = '0.095' are two values"));
  unsetenv("MUON_WEIGHT_DECAY");
  setenv("MUON_WD", "much", 1);
  EXPECT_THAT(ErrorOf([] { Settings().LoadEnvironment(); }), HasSubstr("environment MUON_WD: muon_weight_decay = 'much' is not a number"));
  unsetenv("MUON_WD");
  setenv("ROPE_YARN", "1", 1);
  EXPECT_THAT(ErrorOf([] { Settings().LoadEnvironment(); }), HasSubstr("ROPE_YARN = '1': this program does not have what it switches on"));
  unsetenv("ROPE_YARN");
}

TEST_F(SettingsTest, TheReserveLeavesTimeToTrain) {
  Settings settings;
  settings.max_wallclock_seconds = 4;
  settings.gptq_reserve_seconds = 4;
  EXPECT_THAT(ErrorOf([&] { settings.CheckTraining(1); }), HasSubstr("gptq_reserve_seconds = 4 leaves nothing of max_wallclock_seconds = 4"));
  settings.max_wallclock_seconds = 0;
  EXPECT_NO_THROW(settings.CheckTraining(1));
  settings.quantiser = "gptq_sdclip";
  EXPECT_THAT(ErrorOf([&] { settings.CheckTraining(1); }), HasSubstr("late_qat_threshold = 0.15"));
}

TEST_F(SettingsTest, EverySettingIsTakenFromTheEnvironment) {
  const Settings defaults;
  for (const SettingInfo& info : SettingTable()) setenv(info.Environment().c_str(), defaults.Get(info.name).c_str(), 1);
  Settings s;
  s.LoadEnvironment();
  for (const SettingInfo& info : SettingTable()) EXPECT_EQ(s.origin(info.name), Origin::kEnvironment) << info.name;
}

TEST_F(SettingsTest, AMistakeInTheEnvironmentNamesItsVariable) {
  setenv("NUM_LAYERS", "many", 1);
  EXPECT_EQ(ErrorOf([] { Settings().LoadEnvironment(); }),
            "2 environment NUM_LAYERS: num_layers = 'many' is not a whole number");
}

// --- profiles

TEST_F(SettingsTest, AProfileIsNamesValuesAndComments) {
  Settings s;
  s.LoadProfile(
      Profile("# first\n\n  seed = 5   # five\n\tnum_layers=3\r\n\r\nsource = ema:0.5, swa:0.5\n   # "
              "\nfp16_keep_name_patterns =\n"
              "tie_embeddings = 0"));
  EXPECT_EQ(s.seed, 5);
  EXPECT_EQ(s.num_layers, 3);
  EXPECT_EQ(s.source, "ema:0.5, swa:0.5");
  EXPECT_EQ(s.fp16_keep_name_patterns, "");
  EXPECT_FALSE(s.tie_embeddings);  // the last line needs no newline
  EXPECT_EQ(s.origin("seed"), Origin::kProfile);
}

TEST_F(SettingsTest, AnEmptyProfileSetsNothing) {
  Settings s;
  s.LoadProfile(Profile(""));
  s.LoadProfile(Profile("# nothing\n"));
  EXPECT_THAT(s.NonDefault(scope::kAll), IsEmpty());
}

TEST_F(SettingsTest, PassesOverTheByteOrderMarkOfAProfile) {
  Settings s;
  s.LoadProfile(Profile("\xEF\xBB\xBFseed = 7\n"));
  EXPECT_EQ(s.seed, 7);
  EXPECT_THAT(ProfileError("\n\xEF\xBB\xBFseed = 7\n"), testing::HasSubstr("unknown setting"));  // at the beginning alone
}

TEST_F(SettingsTest, AMistakeInAProfileNamesItsLine) {
  EXPECT_EQ(ProfileError("seed = 1\n\n# x\nnum_layer = 4\n"), "4 some.profile:4: unknown setting 'num_layer'");
  EXPECT_EQ(ProfileError("seed = 1\nnum_layers\n"), "4 some.profile:2: 'num_layers' is not of the form name = value");
  EXPECT_EQ(ProfileError("seed = 1 # x\r\nseed: 2\r\n"), "4 some.profile:2: 'seed: 2' is not of the form name = value");
  EXPECT_EQ(ProfileError("model_dim = -64"), "4 some.profile:1: model_dim = '-64' must be between 4 and 65536");
  EXPECT_EQ(ProfileError("model_dim = 64 = 2"), "4 some.profile:1: model_dim = '64 = 2' is not a whole number");
  EXPECT_EQ(ProfileError("matrix_lr = # none"), "4 some.profile:1: matrix_lr = '' is not a number");
  EXPECT_EQ(ProfileError("NUM_LAYERS = 4"), "4 some.profile:1: unknown setting 'NUM_LAYERS'");
  EXPECT_EQ(ProfileError("= 4"), "4 some.profile:1: unknown setting ''");
}

TEST_F(SettingsTest, AMistakeInAProfileCountsAlsoWhereItIsOverridden) {
  Settings s;
  s.Set("seed", "1", Origin::kCommandLine, "--seed");
  const std::string path = Profile("seed = x\n");
  EXPECT_EQ(ErrorOf([&] { s.LoadProfile(path); }), "4 " + path + ":1: seed = 'x' is not a whole number");
}

TEST_F(SettingsTest, PathsInAProfileStartAtItsFolder) {
  Settings s;
  s.LoadProfile(Profile("data_path = ../data/here\ntokenizer_path = /fixed/t.model\nbyte_table =\nrun_id = ../x\n"));
  EXPECT_EQ(s.data_path, fs::path(folder_).parent_path() / "data/here");
  EXPECT_EQ(s.tokenizer_path, "/fixed/t.model");
  EXPECT_EQ(s.byte_table, "");
  EXPECT_EQ(s.run_id, "../x");  // no path
  s.LoadProfile(Profile("data_path = here\nbyte_table = ./table.pb\n"));
  EXPECT_EQ(s.data_path, folder_ + "/here");
  EXPECT_EQ(s.byte_table, folder_ + "/table.pb");
}

TEST_F(SettingsTest, ProfilesThatAreNotThereAreNamed) {
  const std::string pipelines = fs::path(ProgramDirectory() + "/../../pipelines").lexically_normal();
  EXPECT_EQ(ErrorOf([] { Settings().LoadProfile("no-such"); }),
            "3 no-such: no such profile (neither a file nor " + pipelines + "/no-such.profile)");
  EXPECT_EQ(ErrorOf([&] { Settings().LoadProfile(folder_ + "/no"); }),
            "3 " + folder_ + "/no: No such file or directory");
  EXPECT_EQ(ErrorOf([&] { Settings().LoadProfile(folder_); }), "3 " + folder_ + ": Is a directory");
}

// runs/ holds a folder for each profile, by its name.
TEST_F(SettingsTest, AFolderOfAProfilesNameDoesNotHideTheProfile) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  fs::create_directory("tiny");
  const std::string error = ErrorOf([] { Settings().LoadProfile("tiny"); });
  WriteFile("cpu-demo", "seed = 77\n");  // a file does
  Settings s;
  s.LoadProfile("cpu-demo");
  fs::current_path(before);
  EXPECT_EQ(s.seed, 77);
  if (!fs::exists(ProgramDirectory() + "/../../pipelines")) GTEST_SKIP() << "skipped: not built beside the profiles";
  EXPECT_EQ(error, "nothing was thrown");
}

// --- checkpoints

TEST(Adopt, TakesWhatACheckpointSays) {
  Settings s;
  s.Adopt({{"num_layers", "3"}, {"source", "swa"}}, "x.ckpt");
  EXPECT_EQ(s.num_layers, 3);
  EXPECT_EQ(s.origin("num_layers"), Origin::kCheckpoint);
  EXPECT_EQ(s.source, "swa");
}

TEST(Adopt, RefusesAnotherModelByName) {
  Settings s;
  s.Set("num_layers", "4", Origin::kCommandLine, "--num-layers");
  EXPECT_EQ(ErrorOf([&] {
              s.Adopt({{"num_layers", "3"}}, "x.ckpt");
            }),
            "4 x.ckpt: is of another model: num_layers is 3 there and 4 by command line");
  Settings t;
  t.Set("mlp_mult", "2.5", Origin::kProfile, "p:1");
  EXPECT_EQ(ErrorOf([&] {
              t.Adopt({{"mlp_mult", "3"}}, "x.ckpt");
            }),
            "4 x.ckpt: is of another model: mlp_mult is 3 there and 2.5 by profile");
  EXPECT_EQ(s.num_layers, 4);
}

TEST(Adopt, KeepsAnExplicitModelThatIsTheSame) {
  Settings s;
  s.Set("num_layers", "3", Origin::kEnvironment, "NUM_LAYERS");
  s.Set("mlp_mult", "3", Origin::kCommandLine, "--mlp-mult");
  s.Adopt({{"num_layers", "3"}, {"mlp_mult", "3.0"}}, "weights.safetensors");  // as other programs spell it
  EXPECT_EQ(s.num_layers, 3);
  EXPECT_EQ(s.origin("num_layers"), Origin::kEnvironment);
}

// Checkpoints from before settings were renamed.
TEST(Adopt, ReadsFormerNames) {
  Settings s;
  s.Adopt({{"num_layers", "3"}, {"layer_scale", "1"}, {"compat", "1"}, {"quantiser", "hessian"}, {"hessian_damping", "0.5"},
           {"hessian_order", "descending"}, {"method", "adapt"}, {"adapt_lr", "0.5"}}, "old.ckpt");
  EXPECT_TRUE(s.ln_scale);
  EXPECT_TRUE(s.published_quirks);
  EXPECT_EQ(s.quantiser, "gptq");
  EXPECT_EQ(s.gptq_damping, 0.5);
  EXPECT_EQ(s.gptq_order, "descending");
  EXPECT_EQ(s.method, "ttt");
  EXPECT_EQ(s.ttt_lr, 0.5);
  for (const auto& [method, before] : SettingValues{{"sliding", "windows"}, {"kv_cache", "cached"}}) {
    Settings t;
    t.Adopt({{"method", before}}, "old.ckpt");
    EXPECT_EQ(t.method, method);
  }
}

TEST(Set, NamesWhatAFormerNameIsNow) {
  Settings s;
  EXPECT_EQ(ErrorOf([&] { s.Set("compat", "1", Origin::kProfile, "p:1"); }), "4 p:1: 'compat' is now named 'published_quirks'");
  EXPECT_EQ(ErrorOf([&] { s.Set("quantiser", "lite", Origin::kCommandLine, "--quantiser"); }),
            "2 --quantiser: quantiser = 'lite' is now named 'rtn'");
}

TEST(Adopt, RefusesAModelWhoseRotatedDimensionsWerePairedOtherwise) {
  Settings s;
  EXPECT_EQ(ErrorOf([&] { s.Adopt({{"num_layers", "3"}, {"rope_dims", "16"}}, "old.ckpt"); }),
            "4 old.ckpt: rope_dims = 16 means other dimensions since this file was written; train the model again");
  s.Adopt({{"num_layers", "3"}, {"rope_dims", "16"}, {"num_loops", "0"}}, "new.ckpt");
  EXPECT_EQ(s.rope_dims, 16);
}

TEST(Adopt, AModelWithoutLaterSettingsHasTheirDefaults) {
  Settings s;
  s.Adopt({{"num_layers", "3"}}, "old.ckpt");
  EXPECT_EQ(s.rope_dims, 0);
  EXPECT_EQ(s.origin("rope_dims"), Origin::kCheckpoint);
  for (const auto& [name, value] : SettingValues{{"rope_dims", "16"}, {"smear", "0"}, {"ln_scale", "1"}, {"mlp_negative_slope", "0.5"}, {"value_embed_every", "2"}}) {
    Settings t;
    t.Set(name, value, Origin::kProfile, "p:1");
    EXPECT_EQ(ErrorOf([&] {
                t.Adopt({{"num_layers", "3"}}, "old.ckpt");
              }),
              "4 old.ckpt: is of another model: " + name + " is " + Settings().Get(name) + " there and " + value + " by profile");
    Settings u;  // weights from elsewhere, which say nothing of their model
    u.Set(name, value, Origin::kProfile, "p:1");
    u.Adopt({{"source", "swa"}}, "foreign.safetensors");
    EXPECT_EQ(u.Get(name), value);
  }
}

TEST(Adopt, KeepsExplicitValuesOfOtherSettings) {
  Settings s;
  s.Set("eval_stride", "32", Origin::kProfile, "p:1");
  s.Adopt({{"eval_stride", "64"}, {"keep_max_numel", "256"}}, "x.ckpt");
  EXPECT_EQ(s.eval_stride, 32);
  EXPECT_EQ(s.keep_max_numel, 256);
}

TEST(Adopt, RefusesWhatItDoesNotKnowOrCannotBe) {
  Settings s;
  EXPECT_EQ(ErrorOf([&] { s.Adopt({{"num_experts", "8"}}, "x.ckpt"); }), "4 x.ckpt: unknown setting 'num_experts'");
  EXPECT_EQ(ErrorOf([&] {
              s.Adopt({{"num_layers", "0"}}, "x.ckpt");
            }),
            "4 x.ckpt: num_layers = '0' must be between 1 and 256");
}

// Where files lie and how many threads run is not for a file from elsewhere to say.
TEST(Adopt, RefusesHowARunIsCarriedOut) {
  for (const char* name : {"data_path", "tokenizer_path", "byte_table", "threads", "run_id", "memory_limit"}) {
    Settings s;
    EXPECT_EQ(ErrorOf([&] { s.Adopt({{name, "1"}}, "x.ckpt"); }),
              std::string("4 x.ckpt: sets ") + name + ", which says how a run is carried out and is no part of a checkpoint");
    EXPECT_EQ(s.Get(name), Settings().Get(name));
  }
}

// A checkpoint could not be read again that held such text; paths are the file system's matter.
TEST(Set, RefusesTextThatIsNotPrintable) {
  Settings s;
  for (const char* text : {"tok\n_emb", "tok\x1b[2J", "caf\xe9"}) {
    EXPECT_EQ(ErrorOf([&] { s.Set("fp16_keep_name_patterns", text, Origin::kCommandLine, "--fp16-keep-name-patterns"); }),
              "2 --fp16-keep-name-patterns: fp16_keep_name_patterns = '" + Printable(text) + "' holds what is not printable");
    s.Set("data_path", text, Origin::kCommandLine, "--data-path");
    EXPECT_EQ(s.data_path, text);
  }
}

TEST(Adopt, GivesBackWhatSelectTook) {
  Settings s;
  s.Set("num_layers", "3", Origin::kCommandLine, "x");
  s.Set("adam_eps", "1e-9", Origin::kCommandLine, "x");
  s.Set("tie_embeddings", "0", Origin::kCommandLine, "x");
  s.Set("source", "swa", Origin::kCommandLine, "x");
  Settings t;
  t.Adopt(s.Select(scope::kAll), "x.ckpt");
  EXPECT_EQ(t.Select(scope::kAll), s.Select(scope::kAll));
}

// --- what a stage takes along

TEST(Select, TakesTheStagesSettingsInTableOrder) {
  const Settings s;
  for (const unsigned stage :
       {scope::kModel, scope::kTrain, scope::kFinalize, scope::kQuantise, scope::kEvaluate, scope::kData}) {
    SettingValues expected, with_run;
    for (const SettingInfo& info : SettingTable()) {
      if (!(info.scopes & stage)) continue;
      with_run.emplace_back(info.name, s.Get(info.name));
      if (!(info.scopes & scope::kRun)) expected.emplace_back(info.name, s.Get(info.name));
    }
    EXPECT_EQ(s.Select(stage), expected);
    EXPECT_EQ(s.Select(stage, /*with_run=*/true), with_run);
  }
  EXPECT_THAT(s.Select(0), IsEmpty());
  EXPECT_THAT(s.Select(scope::kRun, true), IsEmpty());  // kRun is no stage
}

TEST(Select, LeavesOutHowARunIsCarriedOut) {
  const SettingValues identity = Settings().Select(scope::kAll);
  for (const char* name : {"threads", "data_path", "run_id", "checkpoint_every", "micro_batch_seqs", "val_loss_every"})
    EXPECT_THAT(identity, Not(Contains(Key(name)))) << name;
  for (const char* name : {"seed", "precision", "published_quirks", "train_seq_len", "eval_stride", "vocab_size"})
    EXPECT_THAT(identity, Contains(Key(name))) << name;
}

TEST(NonDefault, IsWhatDiffersFromTheDefaultWhoeverSetIt) {
  Settings s;
  s.Set("seed", "1337", Origin::kCommandLine, "x");  // given, and the same
  s.Set("num_layers", "3", Origin::kProfile, "x");
  s.Set("threads", "2", Origin::kCommandLine, "x");  // no part of an identity
  s.Set("source", "swa", Origin::kCommandLine, "x");
  EXPECT_THAT(s.NonDefault(scope::kModel | scope::kTrain), ElementsAre(Pair("num_layers", "3")));
  EXPECT_THAT(s.NonDefault(scope::kAll), ElementsAre(Pair("num_layers", "3"), Pair("source", "swa")));
}

// --- several at once

std::string ModelError(const SettingValues& values) {
  Settings s;
  for (const auto& [name, text] : values) s.Set(name, text, Origin::kCommandLine, name);
  return ErrorOf([&] { s.CheckModel(); });
}

TEST(CheckModel, NamesSettingsThatDoNotGoTogether) {
  EXPECT_EQ(ModelError({}), "nothing was thrown");
  EXPECT_EQ(ModelError({{"num_heads", "7"}}), "2 num_heads = 7 does not divide model_dim = 512");
  EXPECT_EQ(ModelError({{"num_kv_heads", "3"}}), "2 num_kv_heads = 3 does not divide num_heads = 8");
  EXPECT_EQ(ModelError({{"num_kv_heads", "16"}}), "2 num_kv_heads = 16 does not divide num_heads = 8");
  EXPECT_EQ(ModelError({{"model_dim", "24"}}),
            "2 the head size model_dim / num_heads = 3 is odd; rotary embedding needs pairs");
  EXPECT_EQ(ModelError({{"rope_dims", "3"}}), "2 rope_dims = 3 is odd; rotary embedding needs pairs");
  EXPECT_EQ(ModelError({{"rope_dims", "64"}}), "nothing was thrown");
  EXPECT_EQ(ModelError({{"rope_dims", "66"}}), "2 rope_dims = 66 is more than the head size model_dim / num_heads = 64");
  EXPECT_EQ(ModelError({{"model_dim", "16"}, {"mlp_mult", "0.05"}}), "2 mlp_mult = 0.05 leaves no hidden units");
  EXPECT_EQ(ModelError({{"bigram_vocab_size", "1"}}),
            "2 bigram_vocab_size = 1 leaves no row for a bigram: at least 2, or 0 for none");
  EXPECT_EQ(ModelError({{"bigram_vocab_size", "0"}}), "nothing was thrown");
  EXPECT_EQ(ModelError({{"num_loops", "1"}, {"loop_start", "5"}, {"loop_end", "10"}}), "nothing was thrown");
  EXPECT_EQ(ModelError({{"num_loops", "1"}, {"loop_start", "5"}, {"loop_end", "11"}}),
            "2 loop_start = 5 and loop_end = 11 are no segment of num_layers = 11 layers");
  EXPECT_EQ(ModelError({{"num_loops", "1"}, {"loop_start", "5"}, {"loop_end", "4"}}),
            "2 loop_start = 5 and loop_end = 4 are no segment of num_layers = 11 layers");
  EXPECT_EQ(ModelError({{"value_embed_every", "11"}}), "nothing was thrown");
  EXPECT_EQ(ModelError({{"value_embed_every", "12"}}), "2 value_embed_every = 12 is more than num_layers = 11: no layer would have one");
  EXPECT_EQ(ModelError({{"num_layers", "3"}}), "2 xsa_last_n = 4 is more than num_layers = 3");
  EXPECT_EQ(ModelError({{"num_layers", "4"}}), "nothing was thrown");
  EXPECT_EQ(ModelError({{"packed_documents", "1"}}),
            "2 packed_documents and smear do not go together: set smear = 0 (smear_gate_enabled sees documents)");
  EXPECT_EQ(ModelError({{"packed_documents", "1"}, {"smear", "0"}}),
            "2 packed_documents and the hashed bigram do not go together: set bigram_vocab_size = 0 or packed_documents = 0");
  EXPECT_EQ(ModelError({{"packed_documents", "1"}, {"smear", "0"}, {"bigram_vocab_size", "0"}}), "nothing was thrown");
}

TEST(CheckTraining, NamesABatchThatDoesNotDivide) {
  Settings s;
  EXPECT_EQ(ErrorOf([&] { s.CheckTraining(3); }), "2 WORLD_SIZE = 3 does not divide grad_micro_steps = 8");
  s.Set("train_batch_tokens", "16385", Origin::kCommandLine, "x");
  EXPECT_EQ(ErrorOf([&] { s.CheckTraining(1); }),
            "2 train_batch_tokens = 16385 is not a multiple of grad_micro_steps * train_seq_len = 8 * 2048");
  s.Set("train_batch_tokens", "16384", Origin::kCommandLine, "x");
  EXPECT_NO_THROW(s.CheckTraining(1));
  s.Set("num_heads", "7", Origin::kCommandLine, "x");  // the model is checked too
  EXPECT_EQ(ErrorOf([&] { s.CheckTraining(1); }), "2 num_heads = 7 does not divide model_dim = 512");
}

TEST(CheckTraining, NamesWhatWouldDivideByZeroOrNeverMove) {
  const auto error = [](const char* name, const char* value) {
    Settings s;
    s.Set(name, value, Origin::kCommandLine, "x");
    return ErrorOf([&] { s.CheckTraining(1); });
  };
  EXPECT_EQ(error("beta1", "1"), "2 beta1 = 1 divides by zero; it must be less than 1");
  EXPECT_EQ(error("beta2", "1.0"), "2 beta2 = 1 divides by zero; it must be less than 1");
  EXPECT_EQ(error("adam_eps", "0"), "2 adam_eps = 0 divides by zero where a weight has no gradient; it must be more than 0");
  EXPECT_EQ(error("ema_decay", "1"), "2 ema_decay = 1 keeps the weights of the first step: set it below 1, or ema_enabled = 0");
  Settings without;
  without.Set("ema_decay", "1", Origin::kCommandLine, "x");
  without.Set("ema_enabled", "0", Origin::kCommandLine, "x");
  EXPECT_NO_THROW(without.CheckTraining(1));
}

// A residual stream in bfloat16 is for a GPU, and for what is not compared number by number.
TEST(CheckTraining, RefusesAResidualStreamInBFloat16WhereItIsNotHeldSo) {
  Settings s;
  EXPECT_EQ(s.residual_precision, "float32");
  EXPECT_NO_THROW(s.CheckTrainingDevice(/*gpu=*/false));
  s.Set("residual_precision", "bfloat16", Origin::kCommandLine, "x");
  EXPECT_NO_THROW(s.CheckTraining(1));
  EXPECT_NO_THROW(s.CheckTrainingDevice(/*gpu=*/true));
  EXPECT_EQ(ErrorOf([&] { s.CheckTrainingDevice(/*gpu=*/false); }),
            "2 residual_precision = bfloat16 is for training on a GPU, and this is on the CPU: set residual_precision = float32");
  EXPECT_EQ(s.ForEvaluation().residual_precision, "float32") << "scores are of the stream that any machine has";
  Settings quirks = s, wide = s;
  quirks.Set("published_quirks", "1", Origin::kCommandLine, "x");
  EXPECT_EQ(ErrorOf([&] { quirks.CheckTraining(1); }),
            "2 residual_precision = bfloat16: what published_quirks = 1 is compared with, number by number, has a float32 stream; set it to float32");
  wide.Set("precision", "float32", Origin::kCommandLine, "x");
  EXPECT_EQ(ErrorOf([&] { wide.CheckTraining(1); }),
            "2 residual_precision = bfloat16 with precision = float32: the stream would be coarser than the products that it is made of; set it to float32");
}

TEST(CheckModel, NamesTheFileThatDescribesIt) {
  Settings s;
  s.Set("num_heads", "7", Origin::kCheckpoint, "x.ckpt");
  EXPECT_EQ(ErrorOf([&] { s.CheckModel("x.ckpt"); }), "4 x.ckpt: num_heads = 7 does not divide model_dim = 512");
}

TEST(CheckMemory, RefusesWhatWouldTakeMore) {
  Settings s;
  EXPECT_NO_THROW(s.CheckMemory(1e15));
  s.memory_limit = "4G";
  EXPECT_NO_THROW(s.CheckMemory(4e9));
  EXPECT_EQ(ErrorOf([&] { s.CheckMemory(4.01e9); }), "2 memory_limit = 4G: about 4.01 GB would be taken");
  s.memory_limit = "much";
  EXPECT_EQ(ErrorOf([&] { s.CheckMemory(1); }), "2 memory_limit = 'much' is no number of bytes such as 800M or 4G");
}

TEST(ThreadCount, IsWhatIsAskedForOrWhatTheProcessMayUse) {
  Settings s;
  s.threads = 3;
  EXPECT_EQ(s.ThreadCount(), 3);
  s.threads = 0;
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  EXPECT_EQ(s.ThreadCount(), CPU_COUNT(&before));
  CPU_ZERO(&one);
  for (int cpu = CPU_SETSIZE - 1; cpu >= 0; --cpu)
    if (CPU_ISSET(cpu, &before)) {
      CPU_SET(cpu, &one);
      break;
    }
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  const int count = s.ThreadCount();
  sched_setaffinity(0, sizeof before, &before);
  EXPECT_EQ(count, 1);
}

}  // namespace
}  // namespace fairway
