#include "common/train/late_qat.h"

#include "common/base/clock.h"
#include "common/calibrate/calibrate.h"
#include "common/model/tensors.h"
#include "common/quantise/artifact.h"
#include "common/quantise/budget.h"
#include "common/quantise/export.h"
#include "common/quantise/grid.h"
#include "common/quantise/search.h"

namespace fairway {

namespace {

// REQUIRES: `weights` outlive it.
TensorsInMemory View(const NamedTensors& weights) {
  TensorsInMemory view("weights in training");
  for (const auto& [name, weight] : weights) AddView(view, name, weight);
  return view;
}

int64_t Budget(const NamedTensors& weights, const Settings& settings) {
  int64_t parameters = 0;
  for (const auto& [name, weight] : weights) parameters += weight.numel();
  return TargetBytes(settings, parameters);
}

}  // namespace

bool FindsSteps(const Settings& settings) {
  if (!TrainsOnBudgetSteps(settings)) return false;
  if (settings.warmdown_frac > 0) return settings.late_qat_threshold > settings.min_lr;
  return settings.late_qat_threshold > (settings.warmdown_iters > 0 ? 0 : 1);
}

StepsToTrainOn FindStepsToTrainOn(const NamedTensors& weights, const Settings& settings, const ShardSet& train,
                                  Communicator& communicator, const std::function<void()>& between) {
  const auto budget = static_cast<uint64_t>(Budget(weights, settings));
  Calibration calibration;
  if (settings.calibration_windows > 0)
    calibration = Calibrate(weights, settings, train, [&](int64_t, int64_t) { between(); }, communicator);

  StepsToTrainOn found;
  communicator.OnRankZero([&] {
    const TensorsInMemory view = View(weights);
    found.step = SearchStep(view, settings, calibration, budget, GuessStep(view, settings, calibration, budget), Sizes::kRough,
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

double MeasureSearch(const NamedTensors& weights, const Settings& settings, const Calibration& calibration, Communicator& communicator) {
  constexpr double kMostSizes = 12;  // that a rough search looks at; most look at seven to ten
  double seconds = 0;
  communicator.OnRankZero([&] {
    const TensorsInMemory view = View(weights);
    const auto start = Clock::now();
    SizeAt(GuessStep(view, settings, calibration, static_cast<uint64_t>(Budget(weights, settings))), view, settings, calibration, kShippedLevels);
    seconds = kMostSizes * SecondsSince(start);
  });
  return communicator.Gather(std::vector<double>{seconds})[0];
}

}  // namespace fairway
