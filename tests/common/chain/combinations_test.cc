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
  for (const auto& [name, value] : Given{{"iterations", "100"}, {"warmdown_iters", "50"}, {"swa_every", "5"}, {"max_wallclock_seconds", "0"}})
    s.Set(name, value, Origin::kProfile, "test");
  for (const auto& [name, value] : given) s.Set(name, value, Origin::kEnvironment, "test");
  return s;
}

std::string Refusal(const Given& given, LastStage last = LastStage::kEval) {
  const Settings s = With(given);
  try {
    CheckCombinations({s, s, s, s}, last);
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
      {{{"source", "swa"}, {"swa_every", "60"}}, "leave no step for one", LastStage::kFinalize},
      {{{"source", "swa"}, {"iterations", "1"}}, "SWA_EVERY = 5 is more than ITERATIONS = 1", LastStage::kFinalize},
      {{{"source", "swa"}, {"swa_start_frac", "0"}}, "leave no step for one", LastStage::kFinalize},
      {{{"target_bytes", "500000"}}, "QUANTISER=published has no size to choose: target_bytes", LastStage::kTrain},
      {{{"target_ratio", "0.1"}}, "QUANTISER=published has no size to choose: target_ratio", LastStage::kTrain},
      {{{"bits_per_weight", "3"}}, "QUANTISER=published has no size to choose: bits_per_weight", LastStage::kTrain},
      {{{"quantiser", "rtn"}}, "QUANTISER=rtn needs TARGET_BYTES", LastStage::kTrain},
      {{{"quantiser", "gptq"}, {"late_qat_threshold", "0"}}, "QUANTISER=gptq needs TARGET_BYTES", LastStage::kQuantise},
      {{{"quantiser", "gptq"}, {"target_ratio", "0.1"}, {"bits_per_weight", "3"}}, "are both given", LastStage::kTrain},
      {{{"quantiser", "gptq"}, {"target_bytes", "5"}, {"code_bytes", "200000"}}, "leaves no byte for the weights", LastStage::kTrain},
      {{{"quantiser", "gptq"}, {"bits_per_weight", "3"}, {"calibration_windows", "0"}}, "needs CALIBRATION_WINDOWS", LastStage::kTrain},
      {{{"quantiser", "gptq"}, {"target_bytes", "1000000"}, {"fp16_keep_name_patterns", "tok_emb"}}, "tok_emb.weight alone 1,048,576", LastStage::kTrain},
      {{{"method", "ttt"}, {"eval_stride", "0"}}, "METHOD = ttt needs windows that overlap", LastStage::kEval},
      {{{"method", "kv_cache"}, {"eval_stride", "2048"}}, "METHOD = kv_cache needs windows that overlap", LastStage::kEval},
      {{{"method", "ttt"}, {"published_quirks", "1"}}, "METHOD = ttt does not go with PUBLISHED_QUIRKS = 1", LastStage::kEval},
      {{{"method", "kv_cache"}, {"device", "cuda"}}, "METHOD = kv_cache is for a CPU", LastStage::kEval},
      {{{"method", "ttt"}, {"ttt_lora_rank", "4"}, {"device", "cuda"}}, "adapters do not learn on a GPU", LastStage::kEval},
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
