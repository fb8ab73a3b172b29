#include "common/train/late_qat.h"

#include "common/calibrate/calibrate.h"
#include "common/model/tensors.h"
#include "common/quantise/export.h"
#include "common/quantise/grid.h"
#include "common/quantise/search.h"

namespace fairway {

StepsToTrainOn FindStepsToTrainOn(const NamedTensors& weights, const Settings& settings, const ShardSet& train,
                                  Communicator& communicator, const std::function<void()>& between) {
  int64_t parameters = 0;
  for (const auto& [name, weight] : weights) parameters += weight.numel();
  const int64_t budget = TargetBytes(settings, parameters);
  Calibration calibration;
  if (settings.calibration_windows > 0)
    calibration = Calibrate(weights, settings, train, [&](int64_t, int64_t) { between(); }, communicator);

  StepsToTrainOn found;
  communicator.OnRankZero([&] {
    std::string content;
    CheckpointWriter writer(&content, Kind::kWeights, {});
    for (const auto& [name, weight] : weights) AddTensor(writer, name, weight);
    writer.Finish({}, {});
    const CheckpointReader checkpoint(std::move(content), "weights in training");
    found.step = SearchStep(checkpoint, settings, calibration, static_cast<uint64_t>(budget),
                            GuessStep(checkpoint, settings, calibration, static_cast<uint64_t>(budget)), Sizes::kRough,
                            [&](const TriedSize&) { between(); }).step;
  });
  found.step = communicator.Gather(std::vector<double>{found.step})[0];

  for (const auto& [name, weight] : weights) {
    if (weight.dim() != 2 || !ExportGrid(name, weight.size(0), weight.size(1), settings)) continue;
    const at::Tensor values = weight.to(at::kFloat).contiguous();
    found.matrices[name] = ChooseSteps({values.const_data_ptr<float>(), static_cast<size_t>(values.numel())}, values.size(0),
                                       calibration.CostOf(name), calibration.FeedbackOf(name), found.step);
  }
  return found;
}

}  // namespace fairway
