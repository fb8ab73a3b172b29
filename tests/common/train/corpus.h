// A corpus of random tokens, and settings that train a model on it within milliseconds.
#pragma once

#include <ATen/Parallel.h>

#include <string>
#include <vector>

#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/counter_names.h"
#include "common/settings/schedule.h"
#include "common/train/trainer.h"
#include "tests/common/evaluate/tiny_model.h"
#include "tests/common/model/shapes.h"

namespace fairway {

inline constexpr int64_t kVocab = 40;

inline void WriteTrain(const std::string& folder, const std::vector<uint16_t>& tokens) {
  WriteBytes(folder + "/fineweb_train_000000.bin", ShardBytes(tokens));
}

// Eight steps of two micro-batches of two sequences; snapshots from the learning rate scale 0.6 down, late QAT from
// 0.4, EMA.
class CorpusTest : public testing::Test {
 protected:
  CorpusTest() {
    at::set_num_threads(1);
    WriteTrain(folder.path(), RandomTokens(400, kVocab));  // the stream begins again after some six steps
    WriteVal(folder, RandomTokens(50, kVocab), kVocab);
    TinyTable(kVocab).Write(folder / "byte_table.pb");
  }

  Options Names(const Options& more = {}) const {
    Options all = {{"data_path", folder.path()},
                   {"vocab_size", "40"},
                   {"train_seq_len", "16"},
                   {"train_batch_tokens", "64"},
                   {"grad_micro_steps", "2"},
                   {"iterations", "8"},
                   {"warmup_steps", "0"},
                   {"warmdown_iters", "8"},
                   {"max_wallclock_seconds", "0"},
                   {"swa_start_frac", "0.6"},
                   {"swa_every", "2"},
                   {"late_qat_threshold", "0.4"},
                   {"ema_decay", "0.7"},
                   {"val_loss_every", "0"},
                   {"train_log_every", "0"},
                   {"val_batch_size", "1024"},
                   {"threads", "1"},
                   {"checkpoint_every_seconds", "0"},
                   {"muon_momentum_warmup_steps", "5"}};
    for (const auto& [name, value] : more) all[name] = value;
    return all;
  }
  Settings Make(const Options& more = {}) const { return Shape(Names(more)); }

  static Trainer MakeTrainer(const Settings& settings, cuda::Device* device = nullptr) {
    return Trainer(settings, ShardSet(settings.data_path, "train", settings.vocab_size), device);
  }

  // Steps as Train takes them, bounded by iterations.
  static void TakeSteps(Trainer& trainer, const Settings& settings, int64_t until) {
    while (trainer.step() < until) {
      const double scale = LearningRateScale(settings, trainer.step(), 0);
      if (scale < settings.late_qat_threshold && !trainer.fake_quantises()) trainer.StartFakeQuantisation();
      trainer.AccumulateGradients();
      trainer.Update(scale);
    }
  }

  // Writes what Train would leave after the steps taken so far; returns the identity.
  static std::string Save(const Trainer& trainer, const Settings& settings, const std::string& path) {
    CheckpointWriter writer(path, Kind::kTraining, settings.Select(scope::kModel | scope::kTrain));
    Counters counters;
    trainer.Save(writer, counters);
    Lineage lineage{.tool = "train"};
    lineage.inputs.push_back({"train shards", trainer.shards().Identity(), {}});
    return writer.Finish(counters, lineage);
  }

  const ScratchFolder folder;
};

}  // namespace fairway
