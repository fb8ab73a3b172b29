// The log of a training run, as make-submission reads its curve.
#include "common/submission/train_log.h"
#include "tests/fuzz/fuzz.h"

using namespace fairway;

FUZZ(input) {
  fuzz::Takes([&] {
    const TrainLog log = ParseTrainLog(input, "train.log");
    const auto ascend = [](const auto& points) {
      for (size_t i = 1; i < points.size(); ++i)
        fuzz::Require(points[i - 1].step < points[i].step, "steps that do not ascend");
    };
    ascend(log.train);
    ascend(log.validation);
    fuzz::Require(log.LastStep() >= 0, "a step before the first");
  });
}
