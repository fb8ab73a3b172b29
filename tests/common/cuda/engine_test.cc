// The device's engine with the CPU as its device (host_device.h): what is captured and replayed, when; losses and gradients as
// CpuEngine has them, chunks, changes of shape between training and scoring.
#include "common/cuda/engine.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/norm.h>
#include <gmock/gmock.h>

#include "common/model/cpu_engine.h"
#include "tests/common/cuda/host_device.h"
#include "tests/common/model/engines.h"

namespace fairway::cuda {
namespace {

TEST(DeviceEngine, DoesWhatTheCpuDoesThroughCaptureAndReplay) {
  at::set_num_threads(1);
  // Five sequences at once are computed as they are, captured, and replayed from then on. In chunks of 2, 2 and 1 the second one is
  // captured each time, and in those of 3 and 2 none comes twice.
  for (const auto& [at_a_time, captures] : {std::pair("0", 1), {"2", 9}, {"3", 0}}) {
    const Settings settings = Shape({{"micro_batch_seqs", at_a_time}});
    const NamedTensors parameters = RandomParameters(settings), gradients = ZerosLike(parameters), expected = ZerosLike(parameters);
    HostDevice device;
    const auto engine = MakeEngine(settings, parameters, gradients, device);
    CpuEngine fused(settings, parameters, expected);
    for (int step = 0; step < 3; ++step) {
      for (const NamedTensors* all : {&gradients, &expected})
        for (const auto& [name, tensor] : *all) tensor.zero_();
      EXPECT_EQ(engine->Prepare(step == 2), fused.Prepare(step == 2));
      for (int micro = 0; micro < 3; ++micro) {
        const Batch batch(settings, 5, 9, static_cast<uint64_t>(10 * step + micro));
        engine->AccumulateGradients(batch.sequences, 9, 1 / 3.0);
        fused.AccumulateGradients(batch.sequences, 9, 1 / 3.0);
      }
      engine->FinishGradients();
      fused.FinishGradients();
      EXPECT_THAT(engine->Losses(), testing::Pointwise(testing::FloatNear(1e-5), fused.Losses()));
      EXPECT_EQ(fused.Losses().size(), 3);
      ExpectGradients(gradients, expected, 1e-4);
      // Scoring between steps leaves the graph and its memory alone, and scores what the weights have become.
      const Batch batch(settings, 4, 12);
      std::vector<float> ours(4 * 9), theirs(4 * 9);
      engine->TokenLosses(batch.sequences, 12, 3, ours.data());
      fused.TokenLosses(batch.sequences, 12, 3, theirs.data());
      for (size_t i = 0; i < ours.size(); ++i) EXPECT_NEAR(ours[i], theirs[i], 5e-5);
    }
    EXPECT_EQ(device.captures(), captures);
  }
}

TEST(DeviceEngine, CapturesAgainForAnotherShare) {
  const Settings settings = Shape({});
  const NamedTensors parameters = RandomParameters(settings), gradients = ZerosLike(parameters);
  const Batch batch(settings, 2, 9);
  HostDevice device;
  const auto engine = MakeEngine(settings, parameters, gradients, device);
  engine->Prepare(false);
  for (double share : {1.0, 1.0, 1.0, 0.5, 0.5, 1.0}) engine->AccumulateGradients(batch.sequences, 9, share);
  EXPECT_THAT(engine->Losses(), testing::SizeIs(6));
  EXPECT_THAT(engine->Losses(), testing::Each(testing::FloatNear(engine->Losses()[0], 1e-6)));
  engine->Prepare(false);
  EXPECT_THAT(engine->Losses(), testing::IsEmpty());
  EXPECT_EQ(device.captures(), 3);
}

// The techniques of pull request 1855 that change what a row sees, with a packed row's segments.
std::vector<Options> PackedOptions() {
  const Options packed{{"packed_documents", "1"}, {"smear", "0"}, {"bigram_vocab_size", "0"}, {"train_seq_len", "8"}};
  std::vector<Options> all{packed, packed, packed};
  all[1].insert({{"smear_gate_enabled", "1"}, {"gate_window", "5"}, {"xsa_last_n", "2"}});
  all[2].insert({{"smear_gate_enabled", "1"}, {"sparse_attn_gate_enabled", "1"}, {"skip_gates_enabled", "1"}, {"num_layers", "4"},
                 {"parallel_start_layer", "2"}, {"num_loops", "1"}, {"loop_start", "1"}, {"loop_end", "2"}, {"rope_dims", "2"},
                 {"ln_scale", "1"}, {"mlp_negative_slope", "0.5"}});
  return all;
}

// A row of documents as the CPU's engine computes it: at once, and in parts, of which some begin inside a document.
TEST(DeviceEngine, ComputesPackedDocumentsAsTheCpuDoes) {
  at::set_num_threads(1);
  for (const Options& options : PackedOptions()) {
    for (const char* at_a_time : {"0", "2"}) {
      Options all = options;
      all["micro_batch_seqs"] = at_a_time;
      const Settings settings = Shape(all);
      SCOPED_TRACE(NameOf(all));
      const NamedTensors parameters = RandomParameters(settings), gradients = ZerosLike(parameters), expected = ZerosLike(parameters);
      HostDevice device;
      const auto engine = MakeEngine(settings, parameters, gradients, device);
      CpuEngine reference(settings, parameters, expected);
      constexpr int64_t kCount = 37;
      for (uint64_t micro = 0; micro < 3; ++micro) {
        std::vector<uint16_t> tokens = Batch(settings, 1, kCount, micro).tokens;
        for (const size_t start : {5 + micro, 9 + micro, 30 + micro}) tokens[start] = 1;
        const std::vector<Segment> segments = PackedSegments(tokens.data(), kCount, settings.train_seq_len);
        engine->AccumulateGradients(segments, 1 / 3.0);
        reference.AccumulateGradients(segments, 1 / 3.0);
        for (const int64_t first : {0, 1}) {
          const int64_t scored = kCount - first * static_cast<int64_t>(segments.size());
          std::vector<float> ours(scored), theirs(scored);
          engine->TokenLosses(segments, first, ours.data());
          reference.TokenLosses(segments, first, theirs.data());
          EXPECT_THAT(ours, testing::Pointwise(testing::FloatNear(5e-5), theirs));
        }
      }
      engine->FinishGradients();
      reference.FinishGradients();
      EXPECT_THAT(engine->Losses(), testing::Pointwise(testing::FloatNear(1e-5), reference.Losses()));
      ExpectGradients(gradients, expected, 1e-4);
    }
  }
}

// Far apart only where a term is missing: bfloat16 rounds products, and the residual stream where it is held so, on the way through
// some twenty operations.
void ExpectNearInNorm(const NamedTensors& ours, const NamedTensors& theirs) {
  constexpr double kBFloat16 = 0.15;
  for (size_t i = 0; i < ours.size(); ++i) {
    const at::Tensor expected = theirs[i].second;
    if (expected.numel() < 16) continue;
    EXPECT_LE((ours[i].second - expected).norm().item<double>(), kBFloat16 * expected.norm().item<double>()) << ours[i].first;
  }
}

// The same with the residual stream in bfloat16, which no CPU's engine has: near the one in float32, and the same bits from engine
// to engine, replayed or not, and with other documents before.
TEST(DeviceEngine, KeepsAResidualStreamInBFloat16) {
  at::set_num_threads(1);
  for (Options options : PackedOptions()) {
    options["precision"] = "bfloat16";
    const Settings reference_settings = Shape(options);
    options["residual_precision"] = "bfloat16";
    const Settings settings = Shape(options);
    SCOPED_TRACE(NameOf(options));
    const NamedTensors parameters = RandomParameters(settings), gradients = ZerosLike(parameters), again = ZerosLike(parameters),
                       expected = ZerosLike(parameters);
    HostDevice device;
    const auto engine = MakeEngine(settings, parameters, gradients, device), other = MakeEngine(settings, parameters, again, device);
    CpuEngine reference(reference_settings, parameters, expected);
    constexpr int64_t kCount = 37;
    for (const uint64_t documents : {1, 2, 0}) {
      for (const NamedTensors* all : {&gradients, &again, &expected})
        for (const auto& [name, tensor] : *all) tensor.zero_();
      std::vector<uint16_t> tokens = Batch(settings, 1, kCount, documents).tokens;
      for (uint64_t i = 0; i < documents; ++i) tokens[6 * i + 5] = 1;
      const std::vector<Segment> segments = PackedSegments(tokens.data(), kCount, settings.train_seq_len);
      engine->AccumulateGradients(segments, 1);
      if (documents == 0) other->AccumulateGradients(segments, 1);  // its first: not captured
      reference.AccumulateGradients(segments, 1);
      for (Engine* each : std::initializer_list<Engine*>{engine.get(), other.get(), &reference}) each->FinishGradients();
      ExpectNearInNorm(gradients, expected);
      EXPECT_NEAR(engine->Losses().back(), reference.Losses().back(), 0.05);
    }
    EXPECT_EQ(device.captures(), 1);
    for (size_t i = 0; i < gradients.size(); ++i) EXPECT_TRUE(gradients[i].second.equal(again[i].second)) << gradients[i].first;
  }
}

// Rows of one length are one shape, whatever documents are in them: captured once.
TEST(DeviceEngine, ReplaysRowsOfOtherDocuments) {
  const Settings settings = Shape(PackedOptions()[1]);
  const NamedTensors parameters = RandomParameters(settings), gradients = ZerosLike(parameters), expected = ZerosLike(parameters);
  HostDevice device;
  const auto engine = MakeEngine(settings, parameters, gradients, device);
  CpuEngine reference(settings, parameters, expected);
  for (uint64_t micro = 0; micro < 4; ++micro) {
    // 80 documents and few, in turn: memory for many serves few.
    std::vector<uint16_t> tokens = Batch(settings, 1, 400, micro).tokens;
    for (uint64_t i = 0; i < (micro % 2 == 0 ? 80 : micro); ++i) tokens[5 * i + 3] = 1;
    const std::vector<Segment> segments = PackedSegments(tokens.data(), 400, settings.train_seq_len);
    engine->AccumulateGradients(segments, 1);
    reference.AccumulateGradients(segments, 1);
  }
  engine->FinishGradients();
  reference.FinishGradients();
  EXPECT_EQ(device.captures(), 1);
  ExpectGradients(gradients, expected, 1e-4);
}

// One model with loops on and off, as a run that begins without them has it.
TEST(DeviceEngine, TurnsLoopsOn) {
  const Settings settings = Shape({{"num_loops", "2"}, {"loop_start", "1"}, {"loop_end", "1"}, {"skip_gates_enabled", "1"}});
  const NamedTensors parameters = RandomParameters(settings), gradients = ZerosLike(parameters), expected = ZerosLike(parameters);
  const Batch batch(settings, 2, 9);
  HostDevice device;
  const auto engine = MakeEngine(settings, parameters, gradients, device);
  CpuEngine reference(settings, parameters, expected);
  for (const bool looped : {false, true, false}) {
    engine->SetLooped(looped);
    reference.SetLooped(looped);
    for (int micro = 0; micro < 3; ++micro) {
      engine->AccumulateGradients(batch.sequences, 9, 1);
      reference.AccumulateGradients(batch.sequences, 9, 1);
    }
  }
  engine->FinishGradients();
  reference.FinishGradients();
  EXPECT_THAT(engine->Losses(), testing::Pointwise(testing::FloatNear(1e-5), reference.Losses()));
  ExpectGradients(gradients, expected, 1e-4);
}

}  // namespace
}  // namespace fairway::cuda
