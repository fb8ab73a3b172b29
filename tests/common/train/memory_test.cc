// The program train keeps to the memory that it said.
#include <gmock/gmock.h>

#include <cstdio>
#include <filesystem>

#include "tests/common/train/corpus.h"
#include "tests/peak_memory.h"

namespace fairway {
namespace {

using testing::HasSubstr;

class MemoryTest : public CorpusTest {
 protected:
  // A model of some size; the settings of `more` besides.
  Measured Train(const std::string& more = "") {
    std::string profile;
    const Options options = Names({{"model_dim", "256"},
                                   {"num_heads", "4"},
                                   {"num_kv_heads", "2"},
                                   {"num_layers", "4"},
                                   {"xsa_last_n", "2"},
                                   {"mlp_mult", "3"},
                                   {"bigram_vocab_size", "4096"},
                                   {"bigram_dim", "128"},
                                   {"train_seq_len", "128"},
                                   {"train_batch_tokens", "4096"},
                                   {"iterations", "3"},
                                   {"val_batch_size", "1024"},
                                   {"checkpoint_every", "1"}});
    for (const auto& [name, value] : options) profile += name + " = " + value + "\n";
    WriteBytes(folder / "a.profile", profile);
    return RunMeasured(folder.path(), BINARY_DIR,
                       "train --profile ./a.profile --out train.ckpt " + more + " > out 2> log");
  }
};

TEST_F(MemoryTest, TrainingKeepsToWhatItSaid) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "skipped: a sanitizer takes memory of its own";
#endif
  WriteTrain(folder.path(), RandomTokens(20000, kVocab));
  WriteVal(folder, RandomTokens(1000, kVocab), kVocab);
  const Measured ran = Train();
  const std::string log = ReadBytes(folder / "log");
  ASSERT_EQ(ran.status, 0) << log;
  const int64_t estimate = EstimateOf(log);
  std::printf("summary: train: estimated %jd MB, held %jd MB at most\n", estimate / 1000000, ran.peak_bytes / 1000000);
  EXPECT_LE(ran.peak_bytes, estimate);
}

TEST_F(MemoryTest, ARunThatWouldTakeMoreDoesNotBegin) {
  const Measured ran = Train("--memory-limit 100M");
  EXPECT_EQ(ran.status, 2);
  EXPECT_THAT(ReadBytes(folder / "log"), HasSubstr("train: memory_limit = 100M: about 0."));
  EXPECT_FALSE(std::filesystem::exists(folder / "train.ckpt"));
}

}  // namespace
}  // namespace fairway
