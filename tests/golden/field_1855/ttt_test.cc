// Per-document adaptation against the published script's own numbers: the loss of every chunk, the phases and the score, from its
// decoded weights and with its first values of the adapters.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include "common/evaluate/document_ttt.h"
#include "tests/golden/field_1855/golden_1855.h"

namespace fairway {
namespace {

TEST(Golden1855Ttt, EveryChunkEveryPhaseAndTheScore) {
  SKIP_WITHOUT_GOLDEN_1855();
  at::set_num_threads(2);
  const nlohmann::json result = golden_1855::Json("tiny/result.json");
  Settings settings = golden_1855::CaseSettings(result, "float32");
  const NamedTensors parameters = golden_1855::Parameters("tiny/roundtrip", settings);
  int64_t sets = 0, chunks = 0, phases = 0;
  double apart = 0;
  DocumentTtt ttt;
  ttt.first_values = [&](int64_t documents) {
    const SafetensorsReader file = golden_1855::File("tiny/lora" + std::to_string(++sets));
    NamedTensors first;
    for (const TensorInfo& info : file.tensors())
      if (info.name.ends_with(".A")) first.emplace_back(info.name, golden::TensorOf(file, info.name));
    EXPECT_EQ(first.front().second.size(0), documents);
    return first;
  };
  ttt.on_chunk = [&](const DocumentTtt::Chunk& chunk) {
    ASSERT_LT(chunks, static_cast<int64_t>(result["ttt"].size()));
    const nlohmann::json& golden = result["ttt"][chunks++];
    EXPECT_EQ(chunk.width, golden["width"].get<int64_t>());
    EXPECT_EQ(chunk.bytes, golden["bytes"].get<double>());
    EXPECT_EQ(phases, golden["sgd_phases"].get<int64_t>());
    for (size_t b = 0; b < chunk.nats.size(); ++b) {
      EXPECT_EQ(chunk.length[b], golden["len"][b].get<int64_t>()) << "chunk " << chunks << " document " << b;
      if (chunk.length[b] == 0) continue;
      EXPECT_EQ(chunk.offset[b], golden["offset"][b].get<int64_t>());
      const double mean = chunk.nats[b] / static_cast<double>(chunk.length[b]), expected = golden["loss"][b].get<double>() / static_cast<double>(chunk.length[b]);
      EXPECT_NEAR(mean, expected, 4e-6) << "chunk " << chunks << " document " << b;
      apart = std::max(apart, std::abs(mean - expected));
    }
  };
  ttt.on_phase = [&](const std::vector<double>& losses) {
    const nlohmann::json& golden = result["sgd"][phases++];
    ASSERT_EQ(losses.size(), golden["losses"].size());
    for (size_t i = 0; i < losses.size(); ++i) EXPECT_NEAR(losses[i], golden["losses"][i].get<double>(), 2e-6) << i;
    if (phases > 1) return;
    const NamedTensors after = golden_1855::Parameters("tiny/ttt_base_after_phase1", settings);
    double largest = 0;
    for (size_t i = 0; i < after.size(); ++i)
      largest = std::max<double>(largest, (parameters[i].second - after[i].second).abs().max().item<float>());
    printf("weights after the first phase: largest difference %.3g\n", largest);
    EXPECT_LE(largest, 1e-7);
  };
  const ShardSet val(settings.data_path, "val", settings.vocab_size);
  const Score score = EvaluateDocuments(parameters, val, ByteTable::Load(settings), settings, ttt);
  EXPECT_EQ(chunks, static_cast<int64_t>(result["ttt"].size()));
  EXPECT_EQ(phases, static_cast<int64_t>(result["sgd"].size()));
  const nlohmann::json& golden = result["evals"][3];
  printf("chunks: largest difference of a mean loss %.3g; score: %.3g nats per token, %.3g bits per byte\n", apart,
         std::abs(score.val_loss - golden[1].get<double>()), std::abs(score.val_bpb - golden[2].get<double>()));
  EXPECT_NEAR(score.val_loss, golden[1].get<double>(), 1e-7);
  EXPECT_NEAR(score.val_bpb, golden[2].get<double>(), 1e-7);
}

}  // namespace
}  // namespace fairway
