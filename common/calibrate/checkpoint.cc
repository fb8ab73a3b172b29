#include "common/calibrate/checkpoint.h"

#include <optional>

#include "common/base/error.h"
#include "common/base/launch.h"
#include "common/base/log.h"
#include "common/calibrate/calibrate.h"
#include "common/calibrate/measured.h"
#include "common/calibrate/sdclip.h"
#include "common/runtime/runtime.h"

namespace fairway {
namespace {

constexpr double kLoadedLibTorchBytes = 90e6;  // before anything is computed

}  // namespace

Calibration CalibrateCheckpoint(const CheckpointReader& weights, const std::string& training, const Settings& settings, Lineage& lineage,
                                const std::function<void(int64_t, int64_t)>& progress) {
  if (settings.calibration_windows == 0) {
    if (settings.quantiser == "gptq") throw UsageError("QUANTISER=gptq needs CALIBRATION_WINDOWS");
    return {};
  }
  if (settings.calibration == "train") return ReadMeasured(weights, training, settings, lineage);
  settings.CheckModel(weights.path());
  Settings on_cpu = settings;
  on_cpu.device = "cpu";
  if (ReadLaunch().world_size == 1) on_cpu.backend = "auto";  // a single process needs no backend, whatever training used
  const Runtime runtime(on_cpu);
  Communicator& communicator = *runtime.communicator;
  std::optional<ShardSet> train;
  if (settings.calibration == "shards") {
    train.emplace(settings.data_path, "train", settings.vocab_size);
    lineage.inputs.push_back({"train shards", train->Identity(), {}});
  }
  if (communicator.world_size() > 1) {
    Log("world_size:%jd backend:%s", communicator.world_size(), communicator.name().c_str());
    std::vector<RankInvariant> invariants = ProgramInvariants(lineage.version, lineage.source_digest, settings, scope::kQuantise);
    invariants.push_back({"the weights", weights.identity()});
    if (train) invariants.push_back({"the training split", train->Identity()});
    RequireAgreement(communicator, invariants);
  }
  const NamedTensors parameters = LoadParameters(weights, settings);
  const CalibrationWindows windows =
      train ? DrawWindows(settings, *train) : GenerateWindows(parameters, settings, communicator, [](int64_t, int64_t) {});
  return Calibrate(parameters, settings, windows, progress, communicator);
}

CodedMatrices CodeCheckpoint(const CheckpointReader& weights, const Settings& settings, Lineage& lineage,
                             const std::function<void(int64_t, int64_t)>& progress) {
  settings.CheckModel(weights.path());
  Settings on_cpu = settings;
  on_cpu.device = "cpu";
  on_cpu.backend = "auto";
  const Runtime runtime(on_cpu);
  const ShardSet train(settings.data_path, "train", settings.vocab_size);
  lineage.inputs.push_back({"train shards", train.Identity(), {}});
  const NamedTensors parameters = LoadParameters(weights, settings);
  return QuantiseSdClip(parameters, MeasureHessians(parameters, settings, train, progress), settings);
}

double EstimateCheckpointCalibration(const Settings& settings) {
  if (settings.quantiser == "gptq_sdclip") return kLoadedLibTorchBytes + EstimateSdClip(settings);
  const bool calibrates = HasSize(settings) && settings.calibration_windows > 0 && settings.calibration != "train";
  return kLoadedLibTorchBytes + (calibrates ? EstimateCalibration(settings) : 0);
}

}  // namespace fairway
