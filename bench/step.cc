// bench-step: the time of whole training steps, of the matrix products in them alone, and of sliding evaluation, on random
// tokens. bench/race.py runs it beside PyTorch.
#include <ATen/Parallel.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "common/tool/tool.h"
#include "common/train/trainer.h"

namespace fairway {
namespace {

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int Main(int argc, char** argv) {
  int64_t steps = 5, warmup = 2;
  Settings settings;
  CommandLine line("bench-step", "Times training steps on random tokens.", "bench-step --steps 5 --precision bfloat16");
  line.Option("--steps", steps, 1, 1000, "steps to time");
  line.Option("--warmup", warmup, 0, 1000, "steps before that");
  line.Use(settings, scope::kModel | scope::kTrain);
  return RunTool(line, argc, argv, [&]() -> Json {
    settings.ema_enabled = settings.swa_enabled = false;
    settings.CheckTraining(1);
    at::set_num_threads(settings.ThreadCount());
    Trainer trainer(settings, ShardSet(settings.data_path, "train", settings.vocab_size));
    StepProfile profile;
    std::vector<double> times;
    for (int64_t i = 0; i < warmup + steps; ++i) {
      if (i == warmup) trainer.SetProfile(&profile);
      const double begin = Seconds();
      trainer.AccumulateGradients();
      trainer.Update(1);
      if (i >= warmup) times.push_back(Seconds() - begin);
    }
    Json parts;
    for (int i = 0; i < StepProfile::kOperations; ++i)
      parts[StepProfile::kNames[i]] = profile.seconds[i] / static_cast<double>(steps);
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const double median = Median(times);
    return {{"tokens", settings.train_batch_tokens}, {"step_s", median}, {"tokens_per_s", settings.train_batch_tokens / median},
            {"parts_s", parts}, {"peak_bytes", usage.ru_maxrss * 1024}};
  });
}

}  // namespace
}  // namespace fairway

int main(int argc, char** argv) { return fairway::Main(argc, argv); }
