// The device's engine with the CPU as its device (host_device.h): what is captured and replayed, when; losses and gradients as CpuEngine
// has them, chunks, changes of shape between training and scoring.
#include "common/cuda/engine.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <gmock/gmock.h>

#include "common/model/cpu_engine.h"
#include "tests/common/cuda/host_device.h"
#include "tests/common/model/engines.h"

namespace fairway::cuda {
namespace {

TEST(DeviceEngine, DoesWhatTheCpuDoesThroughCaptureAndReplay) {
  at::set_num_threads(1);
  // Five sequences at once are computed as they are, captured, replayed, three times. In chunks of 2, 2 and 1 the second one is
  // captured each time, and in those of 3 and 2 none comes twice.
  for (const auto& [at_a_time, captures] : {std::pair("0", 3), {"2", 9}, {"3", 0}}) {
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
      // Scoring between steps takes the memory, and so the graph.
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

}  // namespace
}  // namespace fairway::cuda
