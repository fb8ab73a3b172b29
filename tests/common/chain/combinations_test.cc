#include "common/chain/combinations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/error.h"

namespace fairway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Given = std::vector<std::pair<const char*, const char*>>;

// A chain of a hundred steps, all of whose stages have these settings. `given` are given by hand.
Settings With(const Given& given) {
  Settings s;
  for (const auto& [name, value] : Given{{"iterations", "100"}, {"warmdown_iters", "50"}, {"swa_every", "5"}, {"max_wallclock_seconds", "0"}, {"train_seq_len", "256"},
                                         {"train_batch_tokens", "8192"}})
    s.Set(name, value, Origin::kProfile, "test");
  for (const auto& [name, value] : given) s.Set(name, value, Origin::kEnvironment, "test");
  return s;
}

std::string Refusal(const Given& given, LastStage last = LastStage::kEval) {
  const Settings s = With(given);
  try {
    CheckCombinations({s, s, s, s}, last, /*budget=*/16000000);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(CheckCombinations, TakesWhatAProfileHas) {
  EXPECT_EQ(Refusal({}), "");
  for (const char* source : {"last", "ema", "swa", "ema:0.5,swa:0.5"}) EXPECT_EQ(Refusal({{"source", source}}), "") << source;
  EXPECT_EQ(Refusal({{"source", "select"}, {"select_tokens", "4096"}}), "");
  EXPECT_EQ(Refusal({{"quantiser", "gptq"}, {"target_bytes", "500000"}, {"code_bytes", "200000"}}), "");
  EXPECT_EQ(Refusal({{"quantiser", "gptq"}, {"target_bytes", "16000000"}}), "");
  EXPECT_EQ(Refusal({{"quantiser", "gptq_sdclip"}, {"late_qat_threshold", "0"}}), "");
  for (const char* calibration : {"self", "shards"}) EXPECT_EQ(Refusal({{"quantiser", "rtn"}, {"bits_per_weight", "3"}, {"calibration", calibration}}), "");
  // The schedule of pull request 1855.
  EXPECT_EQ(Refusal({{"source", "swa"}, {"warmdown_iters", "0"}, {"warmdown_frac", "0.85"}, {"min_lr", "0.1"}}), "");
  EXPECT_EQ(Refusal({{"method", "ttt"}, {"ttt_lora_rank", "8"}, {"published_quirks", "1"}, {"device", "cpu"}}), "");
  EXPECT_EQ(Refusal({{"method", "kv_cache"}, {"eval_stride", "300"}, {"eval_seq_len", "512"}, {"device", "cpu"}}), "");
  EXPECT_EQ(Refusal({{"quantiser", "rtn"}, {"bits_per_weight", "3"}, {"calibration_windows", "0"}}), "");
  for (const char* method : {"sliding", "kv_cache", "ttt"}) EXPECT_EQ(Refusal({{"method", method}, {"device", "cpu"}}), "") << method;
  EXPECT_EQ(Refusal({{"method", "sliding"}, {"eval_stride", "0"}}), "");
  // Adapters take documents, not windows, and have a published order too.
  for (const char* quirks : {"0", "1"})
    EXPECT_EQ(Refusal({{"method", "ttt"}, {"ttt_lora_rank", "4"}, {"eval_stride", "0"}, {"published_quirks", quirks}, {"device", "cpu"}}), "");
  EXPECT_EQ(Refusal({{"published_quirks", "1"}, {"source", "swa"}, {"swa_enabled", "0"}}), "");  // takes the EMA then
  // A profile may name a size for the other quantisers.
  Settings s = With({});
  s.Set("target_bytes", "16000000", Origin::kProfile, "test");
  EXPECT_NO_THROW(CheckCombinations({s, s, s, s}, LastStage::kEval));
}

// Every pair, or more, of settings that cannot end in a record: each alone is fine, and a stage would refuse them only after training.
TEST(CheckCombinations, RefusesWhatCannotEndInARecord) {
  struct Case {
    Given given;
    const char* cause;
    LastStage first;  // that refuses
  };
  const Case cases[] = {
      {{{"iterations", "0"}}, "ITERATIONS = 0 trains nothing", LastStage::kTrain},
      {{{"model_dim", "100"}, {"num_heads", "8"}}, "num_heads = 8 does not divide model_dim = 100", LastStage::kTrain},
      {{{"source", "emaa"}}, "\"emaa\" is none of last, ema, swa", LastStage::kFinalize},
      {{{"source", "ema:0.5"}}, "the shares of a blend sum to 0.5", LastStage::kFinalize},
      {{{"source", "select"}, {"select_tokens", "0"}}, "SOURCE = select needs SELECT_TOKENS", LastStage::kFinalize},
      {{{"source", "ema"}, {"ema_enabled", "0"}}, "SOURCE = ema needs the EMA, and EMA_ENABLED = 0", LastStage::kFinalize},
      {{{"source", "last:0.5,ema:0.5"}, {"ema_enabled", "0"}}, "needs the EMA", LastStage::kFinalize},
      {{{"source", "swa"}, {"swa_enabled", "0"}}, "SOURCE = swa needs the SWA, and SWA_ENABLED = 0", LastStage::kFinalize},
      {{{"source", "ema:0.5,swa:0.5"}, {"swa_enabled", "0"}}, "needs the SWA", LastStage::kFinalize},
      {{{"source", "swa"}, {"swa_every", "101"}}, "SWA_EVERY = 101 is more than ITERATIONS = 100", LastStage::kFinalize},
      {{{"source", "swa"}, {"warmdown_iters", "0"}}, "WARMDOWN_ITERS = 0 keeps the learning rate", LastStage::kFinalize},
      {{{"source", "swa"}, {"swa_every", "60"}}, "leaves no step below SWA_START_FRAC = 0.4 at which a snapshot is due (SWA_EVERY = 60)", LastStage::kFinalize},
      {{{"source", "swa"}, {"iterations", "1"}}, "SWA_EVERY = 5 is more than ITERATIONS = 1", LastStage::kFinalize},
      {{{"source", "swa"}, {"swa_start_frac", "0"}}, "leaves no step below SWA_START_FRAC = 0", LastStage::kFinalize},
      {{{"source", "swa"}, {"warmdown_frac", "0.5"}, {"min_lr", "0.4"}}, "MIN_LR = 0.4 keeps the learning rate above SWA_START_FRAC", LastStage::kFinalize},
      {{{"source", "swa"}, {"warmdown_frac", "0.5"}, {"swa_every", "60"}}, "WARMDOWN_FRAC = 0.5 leaves no step below SWA_START_FRAC", LastStage::kFinalize},
      {{{"select_tokens", "300"}, {"eval_seq_len", "512"}}, "SELECT_TOKENS = 300 holds no sequence of EVAL_SEQ_LEN = 512", LastStage::kTrain},
      {{{"quantiser", "gptq_sdclip"}}, "late_qat_threshold = 0.15: there is no late QAT on the grid of quantiser = gptq_sdclip", LastStage::kTrain},
      {{{"quantiser", "gptq_sdclip"}, {"late_qat_threshold", "0"}, {"packed_documents", "1"}, {"grad_micro_steps", "4096"}, {"smear", "0"}, {"bigram_vocab_size", "0"}},
       "a micro-batch of TRAIN_BATCH_TOKENS / GRAD_MICRO_STEPS = 2 tokens holds no window of TRAIN_SEQ_LEN = 256", LastStage::kTrain},
      {{{"data_order", "shuffled"}, {"packed_documents", "1"}, {"smear", "0"}, {"bigram_vocab_size", "0"}}, "data_order = shuffled has no meaning", LastStage::kTrain},
      {{{"val_batch_size", "2000"}}, "VAL_BATCH_SIZE = 2000 is less than 8 sequences of TRAIN_SEQ_LEN = 256", LastStage::kTrain},
      {{{"eval_seq_len", "512"}, {"val_batch_size", "2100"}}, "VAL_BATCH_SIZE = 2100 is less than 8 sequences of EVAL_SEQ_LEN = 512", LastStage::kTrain},
      {{{"target_bytes", "500000"}}, "QUANTISER=published has no size to choose: target_bytes", LastStage::kTrain},
      {{{"target_ratio", "0.1"}}, "QUANTISER=published has no size to choose: target_ratio", LastStage::kTrain},
      {{{"bits_per_weight", "3"}}, "QUANTISER=published has no size to choose: bits_per_weight", LastStage::kTrain},
      {{{"quantiser", "rtn"}}, "QUANTISER=rtn needs TARGET_BYTES", LastStage::kTrain},
      {{{"quantiser", "gptq"}, {"late_qat_threshold", "0"}}, "QUANTISER=gptq needs TARGET_BYTES", LastStage::kQuantise},
      {{{"quantiser", "gptq"}, {"target_ratio", "0.1"}, {"bits_per_weight", "3"}}, "are both given", LastStage::kTrain},
      {{{"quantiser", "gptq"}, {"target_bytes", "5"}, {"code_bytes", "200000"}}, "leaves no byte for the weights", LastStage::kTrain},
      {{{"quantiser", "gptq"}, {"bits_per_weight", "3"}, {"calibration_windows", "0"}}, "needs CALIBRATION_WINDOWS", LastStage::kTrain},
      {{{"quantiser", "gptq"}, {"target_bytes", "1000000"}, {"fp16_keep_name_patterns", "tok_emb"}}, "tok_emb.weight alone 1,048,576", LastStage::kTrain},
      {{{"quantiser", "gptq"}, {"target_bytes", "16000001"}}, "TARGET_BYTES = 16000001 asks for 16,000,001 bytes of artifact and code; a record has 16,000,000",
       LastStage::kTrain},
      {{{"quantiser", "gptq"}, {"target_bytes", "16100000"}, {"code_bytes", "200000"}}, "TARGET_BYTES = 16100000 asks for 16,100,000 bytes", LastStage::kTrain},
      {{{"quantiser", "rtn"}, {"bits_per_weight", "32"}, {"model_dim", "512"}}, "BITS_PER_WEIGHT = 32 asks for", LastStage::kTrain},
      {{{"quantiser", "rtn"}, {"target_ratio", "1"}, {"late_qat_threshold", "0"}}, "TARGET_RATIO = 1 asks for", LastStage::kQuantise},
      {{{"quantiser", "rtn"}, {"target_ratio", "1e-12"}}, "target_ratio leaves no byte for the weights", LastStage::kTrain},
      {{{"method", "ttt"}, {"ttt_lora_rank", "8"}, {"device", "cuda"}}, "ttt_lora_rank above 0 is for a CPU", LastStage::kEval},
      {{{"method", "kv_cache"}, {"eval_seq_len", "64"}, {"device", "cpu"}}, "eval_stride = 64 is not between 1 and eval_seq_len - 1 = 63", LastStage::kEval},
      {{{"method", "ttt"}, {"eval_stride", "0"}}, "method = ttt needs windows that overlap", LastStage::kEval},
      {{{"method", "kv_cache"}, {"eval_stride", "2048"}}, "method = kv_cache needs windows that overlap", LastStage::kEval},
      {{{"method", "ttt"}, {"published_quirks", "1"}}, "method = ttt: the published sum", LastStage::kEval},
      {{{"method", "ttt"}, {"ttt_lora_rank", "8"}, {"ttt_beta2", "1"}, {"device", "cpu"}}, "ttt_beta2 = 1 divides by zero", LastStage::kEval},
      {{{"method", "ttt"}, {"ttt_lora_rank", "8"}, {"ttt_eval_seq_len", "32"}, {"device", "cpu"}},
       "ttt_chunk_size = 48 targets do not fit into windows of ttt_eval_seq_len = 32", LastStage::kEval},
      {{{"method", "ttt"}, {"ttt_lora_rank", "8"}, {"phased_ttt_prefix_docs", "9"}, {"global_ttt_chunk_tokens", "1000"}, {"device", "cpu"}},
       "global_ttt_chunk_tokens = 1000 is no multiple of the ", LastStage::kEval},
      {{{"method", "kv_cache"}, {"packed_documents", "1"}, {"smear", "0"}, {"bigram_vocab_size", "0"}, {"device", "cpu"}}, "method = kv_cache does not keep to one document", LastStage::kEval},
      {{{"method", "ttt"}, {"packed_documents", "1"}, {"smear", "0"}, {"bigram_vocab_size", "0"}}, "method = ttt does not keep to one document", LastStage::kEval},
      {{{"method", "kv_cache"}, {"device", "cuda"}}, "method = kv_cache is for a CPU", LastStage::kEval},
      {{{"ngram_order", "3"}, {"eval_stride", "0"}}, "ngram_order = 3 mixes into windows that overlap", LastStage::kEval},
      {{{"ngram_order", "3"}, {"published_quirks", "1"}}, "ngram_order: the published sum", LastStage::kEval},
  };
  for (const Case& c : cases) {
    const std::string name = std::string(c.given[0].first) + " " + c.given[0].second + ", " + c.cause;
    for (const LastStage last : {LastStage::kTrain, LastStage::kFinalize, LastStage::kQuantise, LastStage::kEval}) {
      if (last < c.first)
        EXPECT_EQ(Refusal(c.given, last), "") << name;
      else
        EXPECT_THAT(Refusal(c.given, last), HasSubstr(c.cause)) << name;
    }
  }
}

// A stage that is finished has its own settings, whatever is given now.
TEST(CheckCombinations, LooksAtTheStageThatHasTheSetting) {
  const Settings with = With({{"source", "swa"}}), without = With({{"source", "swa"}, {"swa_enabled", "0"}});
  EXPECT_NO_THROW(CheckCombinations({with, without, with, with}, LastStage::kEval));
  EXPECT_THROW(CheckCombinations({without, with, with, with}, LastStage::kEval), UsageError);
}

// What gptq-lite reads of training must have been measured in it, with the same settings.
TEST(CheckCombinations, TakesTheCalibrationOfTrainingOnlyWhereItIs) {
  const auto refusal = [](const Given& of_training, const Given& of_quantiser) -> std::string {
    const Settings train = With(of_training), quantise = With(of_quantiser);
    try {
      CheckCombinations({train, train, quantise, quantise}, LastStage::kEval);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  };
  const auto with = [](Given given, std::pair<const char*, const char*> more) {
    given.push_back(more);
    return given;
  };
  const Given rtn = {{"quantiser", "rtn"}, {"bits_per_weight", "3"}}, gptq = {{"quantiser", "gptq"}, {"bits_per_weight", "4"}};
  EXPECT_EQ(refusal(rtn, rtn), "");
  EXPECT_EQ(refusal(gptq, rtn), "");
  EXPECT_EQ(refusal({}, with(rtn, {"calibration", "self"})), "");
  EXPECT_EQ(refusal({}, with(rtn, {"calibration_windows", "0"})), "");
  EXPECT_EQ(refusal(with(rtn, {"calibration", "self"}), with(rtn, {"calibration", "self"})), "");
  EXPECT_THAT(refusal({}, rtn), HasSubstr("CALIBRATION = train for QUANTISER = rtn needs training with it, and training has QUANTISER = published; CALIBRATION=self"));
  EXPECT_THAT(refusal(rtn, gptq), HasSubstr("training has QUANTISER = rtn"));
  EXPECT_THAT(refusal(with(rtn, {"calibration", "self"}), rtn), HasSubstr("training has CALIBRATION = self"));
  EXPECT_THAT(refusal(with(rtn, {"calibration_windows", "0"}), rtn), HasSubstr("training has CALIBRATION_WINDOWS = 0"));
  for (const char* name : {"calibration_windows", "calibration_tokens", "calibration_seed", "gptq_damping", "keep_max_numel"})
    EXPECT_THAT(refusal(rtn, with(rtn, {name, "7"})), HasSubstr("= 7 needs training with it")) << name;
}

TEST(CheckDataSizes, RefusesWhatTheDataDoNotHold) {
  const auto refusal = [](const Given& given, DataSizes sizes, LastStage first, LastStage last) -> std::string {
    const Settings s = With(given);
    try {
      CheckDataSizes({s, s, s, s}, first, last, sizes);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  };
  struct Case {
    Given given;
    DataSizes enough, too_few;
    LastStage first, last;  // stages of which one refuses
    const char* cause;
  };
  const Given rtn = {{"quantiser", "rtn"}, {"bits_per_weight", "3"}, {"calibration_tokens", "300"}, {"late_qat_threshold", "0"}};
  const auto with = [](Given given, std::pair<const char*, const char*> more) {
    given.push_back(more);
    return given;
  };
  const auto kTrain = LastStage::kTrain, kFinalize = LastStage::kFinalize, kQuantise = LastStage::kQuantise, kEval = LastStage::kEval,
             kSubmission = LastStage::kSubmission;
  const Case cases[] = {
      {rtn, {301, 301, 1000}, {300, 300, 1000}, kTrain, kTrain, "CALIBRATION_TOKENS = 300: the training split has 300 tokens to train on"},
      {with(rtn, {"select_tokens", "500"}), {801, 801, 1000}, {800, 800, 1000}, kTrain, kTrain, "300 tokens to train on"},
      {with(with(rtn, {"calibration", "self"}), {"late_qat_threshold", "0.1"}), {301, 301, 1000}, {300, 300, 1000}, kTrain, kTrain, "300 tokens to train on"},
      {with(rtn, {"calibration", "shards"}), {301, 301, 1000}, {300, 300, 1000}, kTrain, kQuantise, "CALIBRATION_TOKENS = 300: the training split has 300"},
      {with(rtn, {"calibration", "shards"}), {301, 301, 1000}, {300, 300, 1000}, kFinalize, kQuantise, "CALIBRATION_TOKENS = 300"},
      {{{"quantiser", "gptq_sdclip"}}, {600, 257, 1000}, {600, 256, 1000}, kQuantise, kQuantise, "windows of TRAIN_SEQ_LEN = 256 tokens, and the largest training shard has 256"},
      {{}, {900, 900, 257}, {900, 900, 256}, kTrain, kTrain, "TRAIN_SEQ_LEN = 256: the validation split has 256 tokens"},
      {{{"eval_seq_len", "512"}}, {900, 900, 513}, {900, 900, 512}, kTrain, kTrain, "EVAL_SEQ_LEN = 512: the validation split has 512 tokens"},
      {{{"eval_stride", "0"}}, {900, 900, 257}, {900, 900, 256}, kEval, kEval, "TRAIN_SEQ_LEN = 256: the validation split"},
      {{{"published_quirks", "1"}}, {900, 900, 257}, {900, 900, 256}, kEval, kEval, "TRAIN_SEQ_LEN = 256: the validation split"},
      {{}, {900, 900, 257}, {900, 900, 256}, kEval, kSubmission, "TRAIN_SEQ_LEN = 256: the validation split"},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(refusal(c.given, c.enough, c.first, c.last), "") << c.cause;
    EXPECT_THAT(refusal(c.given, c.too_few, c.first, c.last), HasSubstr(c.cause));
  }
  // Sliding windows score a split of any length; self and finished stages read nothing.
  EXPECT_EQ(refusal({}, {2, 2, 2}, kEval, kEval), "");
  EXPECT_EQ(refusal(with(rtn, {"calibration", "self"}), {2, 2, 1000}, kTrain, kQuantise), "");
  EXPECT_EQ(refusal(with(rtn, {"calibration", "shards"}), {2, 2, 1000}, kEval, kEval), "");
  EXPECT_EQ(refusal(rtn, {2, 2, 1000}, kFinalize, kQuantise), "");
}

TEST(IdleTechniques, NamesWhatWillNotAct) {
  EXPECT_THAT(IdleTechniques(With({})), IsEmpty());
  EXPECT_THAT(IdleTechniques(With({{"swa_enabled", "0"}, {"late_qat_threshold", "0"}, {"warmdown_iters", "0"}})), IsEmpty());
  EXPECT_THAT(IdleTechniques(With({{"warmdown_iters", "0"}})),
              ElementsAre("SWA will not act: WARMDOWN_ITERS = 0 keeps the learning rate above SWA_START_FRAC; the record goes without it",
                          "late QAT will not act: WARMDOWN_ITERS = 0 keeps the learning rate above LATE_QAT_THRESHOLD; the record goes without it"));
  EXPECT_THAT(IdleTechniques(With({{"iterations", "1"}, {"warmdown_iters", "1"}})),
              ElementsAre(HasSubstr("SWA_EVERY = 5 is more than ITERATIONS = 1"), HasSubstr("leaves no step below LATE_QAT_THRESHOLD = 0.15")));
  // A clock decides as it goes.
  EXPECT_THAT(IdleTechniques(With({{"max_wallclock_seconds", "10"}, {"swa_every", "60"}})), IsEmpty());
  // Thresholds above 1 act from the first step on.
  EXPECT_THAT(IdleTechniques(With({{"warmdown_iters", "0"}, {"swa_start_frac", "1.0001"}, {"late_qat_threshold", "1.0001"}})), IsEmpty());
}

}  // namespace
}  // namespace fairway
