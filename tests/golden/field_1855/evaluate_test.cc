// The plain score of the published script's weights over the byte sidecar: rows of packed documents, whole batches only.
#include <gtest/gtest.h>

#include "common/evaluate/evaluate.h"
#include "common/runtime/runtime.h"
#include "tests/golden/field_1855/golden_1855.h"

namespace fairway {
namespace {

TEST(Golden1855Evaluate, PlainScores) {
  SKIP_WITHOUT_GOLDEN_1855();
  const nlohmann::json result = golden_1855::Json("tiny/result.json");
  const Settings settings = golden_1855::CaseSettings(result, "float32").ForEvaluation();
  const ShardSet val(settings.data_path, "val", settings.vocab_size);
  const ByteTable table = ByteTable::Load(settings);
  const char* kSets[] = {"last", "ema", "roundtrip"};
  for (int i = 0; i < 3; ++i) {
    NamedTensors parameters = golden_1855::Parameters(std::string("tiny/") + kSets[i], settings);
    const std::unique_ptr<Engine> engine = MakeEngine(settings, parameters, {}, nullptr);
    engine->Prepare(/*fake_quantise=*/false);
    const Score score = EvaluatePlain(*engine, val, table, settings);
    const double loss = result["evals"][i][1], bits = result["evals"][i][2];
    printf("%-9s loss %.8f (%.8f), bits per byte %.8f (%.8f)\n", kSets[i], score.val_loss, loss, score.val_bpb, bits);
    EXPECT_EQ(score.targets, 3584);
    EXPECT_NEAR(score.val_loss, loss, 1e-6);
    EXPECT_NEAR(score.val_bpb, bits, 1e-6);
  }
}

}  // namespace
}  // namespace fairway
