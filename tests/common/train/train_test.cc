// The run around the step: the clock, checkpoints kept, resuming and refusing to, divergence.
#include "common/train/train.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "common/average/source.h"
#include "common/base/error.h"
#include "common/evaluate/evaluate.h"
#include "common/model/cpu_engine.h"
#include "common/settings/schedule.h"
#include "tests/common/train/corpus.h"

namespace fairway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class TrainTest : public CorpusTest {
 protected:
  const std::string out = folder / "train.ckpt";

  // Runs, and keeps what was logged.
  TrainResult Run(const Settings& settings, const std::string& resume = "") {
    testing::internal::CaptureStderr();
    try {
      const TrainResult result = Train(settings, out, resume, {.tool = "train"});
      log = testing::internal::GetCapturedStderr();
      return result;
    } catch (...) {
      log = testing::internal::GetCapturedStderr();
      throw;
    }
  }

  std::string Partial(int64_t step) const { return folder / "train.partial-00000" + std::to_string(step) + ".ckpt"; }

  // What a run that ended after `steps` steps has left.
  void LeavePartial(const Settings& settings, int64_t steps) const {
    Trainer trainer = MakeTrainer(settings);
    TakeSteps(trainer, settings, steps);
    Save(trainer, settings, Partial(steps));
  }

  // After one step, weights so large that no loss comes of them, and yet numbers.
  void LeaveHugeWeights(const Settings& settings) const {
    Trainer trainer = MakeTrainer(settings);
    TakeSteps(trainer, settings, 1);
    for (const auto& [name, tensor] : trainer.parameters())
      if (name == "blocks.0.mlp.fc.weight") tensor.fill_(3e38f);
    Save(trainer, settings, Partial(1));
  }

  std::vector<std::string> Partials() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
      if (const std::string name = entry.path().filename(); name.find(".partial-") != std::string::npos)
        names.push_back(name);
    std::sort(names.begin(), names.end());
    return names;
  }

  // Of each step, the training time up to its end, as logged.
  std::vector<double> StepTimes() const {
    std::vector<double> times;
    for (const std::string& line : Split(log, '\n')) {
      const size_t at = line.find(" train_time:");
      if (line.find(" train_loss:") != std::string::npos && at != std::string::npos) times.push_back(std::stod(line.substr(at + 12)) / 1e3);
    }
    return times;
  }

  std::string log;
};

// Known from settings and data alone, and so before the first step.
TEST_F(TrainTest, RefusesFirstWhatWouldFailAtTheEnd) {
  const Options kRtn = {{"quantiser", "rtn"}, {"bits_per_weight", "4"}, {"calibration_windows", "2"}};
  const auto with = [](Options options, Options more) {
    options.merge(more);
    return options;
  };
  const std::vector<std::pair<Options, std::string>> cases = {
      {with(kRtn, {{"calibration_tokens", "400"}, {"late_qat_threshold", "0"}}), "the training split holds 400 tokens where a calibration window needs 401"},
      {with(kRtn, {{"calibration_tokens", "400"}, {"calibration", "self"}}), "a calibration window needs 401"},  // late QAT's own
      {with(kRtn, {{"calibration_tokens", "380"}, {"select_tokens", "40"}}), "the training split holds 360 tokens where a calibration window needs 381"},
      // Which weights training calibrates.
      {with(kRtn, {{"source", "mean"}}), "source: \"mean\" is none of last, ema, swa"},
      {with(kRtn, {{"source", "select"}}), "SOURCE = select needs SELECT_TOKENS"},
      {with(kRtn, {{"source", "ema:0.5,swa:0.5"}, {"ema_enabled", "0"}}), "SOURCE = ema:0.5,swa:0.5 needs the EMA, and EMA_ENABLED = 0"},
      {with(kRtn, {{"source", "swa"}, {"swa_every", "100"}}), "there will be none: SWA_EVERY = 100 is more than ITERATIONS"},
      {{{"eval_seq_len", "100"}}, "the validation split holds 50 tokens where at least 101 are needed"},
      {{{"select_tokens", "40"}, {"eval_seq_len", "48"}}, "the training split holds 40 tokens where at least 49 are needed"},
      {{{"val_batch_size", "100"}}, "VAL_BATCH_SIZE=100 is less than 8 sequences"},
  };
  for (const auto& [options, cause] : cases) {
    try {
      Run(Make(options));
      ADD_FAILURE() << "not refused: " << cause;
    } catch (const std::exception& error) {
      EXPECT_THAT(error.what(), HasSubstr(cause));
    }
    EXPECT_EQ(log.find("step"), std::string::npos) << log;
    EXPECT_TRUE(Partials().empty());
  }
}

TEST_F(TrainTest, TakesTheTrainersSteps) {
  const Settings settings =
      Make({{"train_log_every", "1"}, {"val_loss_every", "4"}, {"warmup_steps", "2"}, {"checkpoint_every", "3"}});
  const TrainResult result = Run(settings);
  EXPECT_TRUE(result.finished);
  EXPECT_EQ(result.path, out);
  EXPECT_EQ(result.steps, 8);
  Trainer trainer = MakeTrainer(settings);
  TakeSteps(trainer, settings, 8);
  EXPECT_EQ(result.identity, Save(trainer, settings, folder / "by_hand.ckpt"));
  const CheckpointReader checkpoint(out);
  EXPECT_EQ(checkpoint.identity(), result.identity);
  EXPECT_EQ(checkpoint.counters().Get(counter::kWarmupSteps), 2);
  EXPECT_EQ(checkpoint.counters().Get(counter::kStoppedByClock), 0);
  EXPECT_EQ(checkpoint.counters().Get(counter::kResumes), 0);
  EXPECT_EQ(checkpoint.counters().Get(counter::kLastLoss), result.loss);
  EXPECT_THAT(Partials(), ElementsAre());  // gone with the run
  for (const char* line :
       {"step:0/8 val_loss:", "step:4/8 val_loss:", "step:8/8 val_loss:", "step:1/8 train_loss:", "warmup_step:2/2",
        "late_qat: enabled at step 5 (scale=0.375000) matrices:19", "swa:start step:6"})
    EXPECT_THAT(log, HasSubstr(line));
}

// The end of the split is not trained on, and scored in the end: what other tokens there say changes the scores alone.
TEST_F(TrainTest, KeepsTokensOutToSelectBy) {
  const Settings settings = Make({{"select_tokens", "50"}});
  const std::vector<uint16_t> tokens = RandomTokens(400, kVocab);
  const auto losses_of = [&](const CheckpointReader& checkpoint) {
    std::map<std::string, double> losses;
    for (const auto& [name, value] : checkpoint.counters().all())
      if (name.starts_with(counter::kSelectPrefix)) losses[name] = value;
    return losses;
  };
  const auto weights_of = [&](const CheckpointReader& checkpoint) { return checkpoint.Floats("blocks.0.mlp.fc.weight"); };
  Run(settings);
  const CheckpointReader first(out);
  const auto losses = losses_of(first);
  EXPECT_EQ(losses.size(), 6u);
  EXPECT_THAT(log, HasSubstr("select:ema:0.5,swa:0.5 loss:"));

  // The score of the averages is that of the weights that ema-finalize makes of them, on these tokens.
  const ShardSet all(settings.data_path, "train", kVocab);
  for (const std::string& source : SelectableSources(true, true)) {
    CheckpointWriter writer(folder / "weights.ckpt", Kind::kWeights, settings.Select(scope::kModel));
    WriteWeights(first, ParseSource(source), /*published_quirks=*/false, writer);
    writer.Finish({}, {});
    CpuEngine model(settings, LoadParameters(CheckpointReader(folder / "weights.ckpt"), settings));
    const Score score = EvaluatePlain(model, all.Part(350, 50), TinyTable(kVocab), settings);
    EXPECT_NEAR(losses.at(counter::kSelectPrefix + source), score.val_loss, 1e-6) << source;
  }

  std::vector<uint16_t> other = tokens;
  for (size_t i = 350; i < other.size(); ++i) other[i] = static_cast<uint16_t>((other[i] + 1) % kVocab);
  WriteTrain(folder.path(), other);
  Run(settings);
  EXPECT_EQ(weights_of(CheckpointReader(out)), weights_of(first));
  EXPECT_NE(losses_of(CheckpointReader(out)).at("select.last"), losses.at("select.last"));
  other[349] = static_cast<uint16_t>((other[349] + 1) % kVocab);
  WriteTrain(folder.path(), other);
  Run(settings);
  EXPECT_NE(weights_of(CheckpointReader(out)), weights_of(first));

  Run(Make());
  EXPECT_TRUE(losses_of(CheckpointReader(out)).empty());
  EXPECT_THAT(MessageOf<InputError>([&] { Run(Make({{"select_tokens", "384"}})); }),
              HasSubstr("the training split holds 400 tokens; select_tokens = 384 leaves too few of them"));
  EXPECT_THAT(MessageOf<UsageError>([&] { Run(Make({{"select_tokens", "16"}})); }),
              HasSubstr("select_tokens = 16 holds no sequence of train_seq_len = 16"));
}

// A checkpoint from before a setting continues with it off, and with nothing else.
TEST_F(TrainTest, GoesOnWithACheckpointThatKnowsFewerSettings) {
  const Settings settings = Make();
  {
    Trainer trainer = MakeTrainer(settings);
    TakeSteps(trainer, settings, 1);
    SettingValues values = settings.Select(scope::kModel | scope::kTrain);
    std::erase_if(values, [](const auto& value) { return value.first == "rope_dims" || value.first == "select_tokens"; });
    CheckpointWriter writer(Partial(1), Kind::kTraining, values);
    Counters counters;
    trainer.Save(writer, counters);
    Lineage lineage{.tool = "train"};
    lineage.inputs.push_back({"train shards", trainer.shards().Identity(), {}});
    writer.Finish(counters, lineage);
  }
  EXPECT_THAT(MessageOf<InputError>([&] { Run(Make({{"rope_dims", "2"}}), "newest"); }),
              HasSubstr("was begun with other settings: rope_dims was 0 and is 2 now"));
  EXPECT_TRUE(Run(settings, "newest").finished);
}

TEST_F(TrainTest, TheClockEndsIt) {
  const double cap = 0.3;
  for (const bool published_quirks : {false, true}) {
    const Settings settings = Make({{"iterations", "1000000"},
                                    {"max_wallclock_seconds", "0.3"},
                                    {"train_log_every", "1"},
                                    {"warmdown_iters", "1000"},
                                    {"published_quirks", std::to_string(published_quirks)}});
    // However slow a busy machine makes single steps. Where the first one takes all of the time, there is nothing to see.
    TrainResult result = Run(settings);
    while (result.steps < 3) result = Run(settings);
    EXPECT_TRUE(result.finished);
    EXPECT_LT(result.steps, 1000000);
    // Ours ends where the next step would end past the cap if it took as long as this one; as published, with the first step past
    // the cap.
    const std::vector<double> times = StepTimes();
    ASSERT_EQ(static_cast<int64_t>(times.size()), result.steps);
    constexpr double kLogged = 0.0005;  // times are logged as whole milliseconds
    for (size_t i = 1; i < times.size(); ++i) {
      const double next = published_quirks ? times[i] : times[i] + (times[i] - times[i - 1]);
      if (i + 1 < times.size()) EXPECT_LE(next, cap + 3 * kLogged) << "after step " << i + 1;
      else EXPECT_GE(next, cap - 3 * kLogged) << "after the last step";
    }
    EXPECT_EQ(CheckpointReader(out).counters().Get(counter::kStoppedByClock), 1);
    EXPECT_THAT(log, HasSubstr("stopping_early: wallclock_cap train_time:"));
    EXPECT_THAT(log, HasSubstr("late_qat: enabled at step "));
  }
}

// A step longer than the whole cap is the only one.
TEST_F(TrainTest, ACapShorterThanAStep) {
  const TrainResult result = Run(Make({{"max_wallclock_seconds", "0.0001"}}));
  EXPECT_EQ(result.steps, 1);
  EXPECT_TRUE(result.finished);
}

TEST_F(TrainTest, NoStepsAtAll) {
  const Settings settings = Make({{"iterations", "0"}});
  const TrainResult result = Run(settings);
  EXPECT_EQ(result.steps, 0);
  EXPECT_EQ(result.identity, Save(MakeTrainer(settings), settings, folder / "initial.ckpt"));
}

// Matrices that grow a millionfold a step: in a few steps there is no number left to train, and a loss is the first to show it.
Options Diverging() {
  return {{"matrix_lr", "1000"}, {"muon_weight_decay", "1000"}, {"iterations", "50"}, {"warmdown_iters", "0"}, {"bigram_vocab_size", "0"}};
}

TEST_F(TrainTest, DivergenceNamesTheStepTheTensorAndTheLastCheckpoint) {
  const std::string message = MessageOf<GateError>([&] { Run(Make(Diverging())); });
  EXPECT_THAT(message, testing::MatchesRegex("training diverged: the loss of step [0-9]+ is -?nan, .* is not finite; "
                                             "the last checkpoint before it: none"));
  EXPECT_FALSE(std::filesystem::exists(out));
}

// The step whose update leaves weights that are no numbers, or no loss at all.
int StepOf(const std::string& message) {
  for (const char* format : {"training diverged: the loss of step %d", "training diverged: the validation loss after step %d",
                             "training diverged: after step %d"}) {
    if (int step = 0; std::sscanf(message.c_str(), format, &step) == 1) return step;
  }
  ADD_FAILURE() << message;
  return 0;
}

// Where the very last update breaks the weights, no loss of a step shows it.
TEST_F(TrainTest, AnEndThatDivergedIsNoResult) {
  const int step = StepOf(MessageOf<GateError>([&] { Run(Make(Diverging())); }));
  Options options = Diverging();
  options["iterations"] = std::to_string(step - 1);
  EXPECT_THAT(MessageOf<GateError>([&] { Run(Make(options)); }),
              HasSubstr("training diverged: the validation loss after step " + std::to_string(step - 1)));
  EXPECT_FALSE(std::filesystem::exists(out));
}

// A checkpoint of what is no number has no name to go by: the ones before it stay.
TEST_F(TrainTest, NoCheckpointHoldsWhatIsNoNumber) {
  Options options = Diverging();
  options.insert({{"checkpoint_every", "1"}, {"keep_checkpoints", "100"}});
  const std::string message = MessageOf<GateError>([&] { Run(Make(options)); });
  ASSERT_FALSE(Partials().empty());
  EXPECT_THAT(message, HasSubstr("; the last checkpoint before it: " + (folder / Partials().back())));
  for (const std::string& name : Partials()) {
    const CheckpointReader checkpoint(folder / name);
    for (const TensorInfo& info : checkpoint.tensors())
      for (const float value : checkpoint.Floats(info.name)) ASSERT_TRUE(std::isfinite(value)) << name << " " << info.name;
  }
}

TEST_F(TrainTest, LeavesOutUpdatesWhereToldTo) {
  const Settings settings = Make();
  LeaveHugeWeights(settings);
  EXPECT_THAT(MessageOf<GateError>([&] { Run(settings, "newest"); }),
              testing::MatchesRegex("training diverged: the loss of step 2 is -?nan, gradient of [a-z_0-9./]+ is not finite; .*"));
  EXPECT_THAT(log, Not(HasSubstr("left out")));
  // How a run is carried out, so that it can go on in the other way.
  // Seven steps are left; nothing is validated before the last of them.
  EXPECT_THAT(MessageOf<GateError>([&] { Run(Make({{"on_nonfinite", "skip"}}), "newest"); }),
              HasSubstr("training diverged: the validation loss after step 8 is "));
  EXPECT_THAT(log, HasSubstr("nonfinite: the loss of step 2 is "));
  EXPECT_THAT(log, HasSubstr(" is not finite; update left out, 1 so far\n"));
  EXPECT_THAT(log, HasSubstr("update left out, 7 so far\n"));
}

TEST_F(TrainTest, ManyUpdatesLeftOutInARowAreTheEnd) {
  const Settings settings = Make({{"iterations", "50"}, {"on_nonfinite", "skip"}});
  LeaveHugeWeights(settings);
  EXPECT_THAT(MessageOf<GateError>([&] { Run(settings, "newest"); }),
              HasSubstr("training diverged: 10 updates in a row were left out, the loss of step 12 is "));
}

TEST_F(TrainTest, KeepsTheNewestCheckpoints) {
  for (const int keep : {1, 3}) {
    Options options = Diverging();
    options.insert({{"checkpoint_every", "1"}, {"keep_checkpoints", std::to_string(keep)}});
    const std::string message = MessageOf<GateError>([&] { Run(Make(options)); });
    const int step = StepOf(message);
    ASSERT_GT(step, 3);
    ASSERT_LT(step, 10);
    std::vector<std::string> expected;
    for (int kept = step - keep; kept < step; ++kept)
      expected.push_back("train.partial-00000" + std::to_string(kept) + ".ckpt");
    EXPECT_EQ(Partials(), expected);
    EXPECT_THAT(message, HasSubstr("; the last checkpoint before it: " + Partial(step - 1)));
    for (const std::string& name : expected) std::filesystem::remove(folder / name);
  }
}

TEST_F(TrainTest, GoesOnFromTheNewestOrFromAFile) {
  const Settings settings = Make();
  const std::string identity = Run(settings).identity;
  LeavePartial(settings, 2);
  LeavePartial(settings, 6);
  EXPECT_EQ(Run(settings, "newest").identity, identity);
  EXPECT_THAT(log, HasSubstr("resume: from step 6 of " + Partial(6)));
  EXPECT_EQ(CheckpointReader(out).counters().Get(counter::kResumes), 1);
  EXPECT_THAT(Partials(), ElementsAre());

  LeavePartial(settings, 2);
  EXPECT_EQ(Run(settings, Partial(2)).identity, identity);
  EXPECT_THAT(log, HasSubstr("resume: from step 2 of "));

  EXPECT_EQ(Run(settings, "newest").identity, identity);  // there is none
  EXPECT_THAT(log, testing::Not(HasSubstr("resume:")));
  EXPECT_EQ(CheckpointReader(out).counters().Get(counter::kResumes), 0);
}

// Else the later one would be taken for the newest of the run that goes on.
TEST_F(TrainTest, DoesNotContinueFromAnEarlierStepBesideALaterOne) {
  const Settings settings = Make();
  LeavePartial(settings, 2);
  LeavePartial(settings, 6);
  EXPECT_EQ(MessageOf<UsageError>([&] { Run(settings, Partial(2)); }),
            Partial(6) + ": is of a later step than " + Partial(2) + "; remove or rename it, or choose another --out, to continue from there");
  EXPECT_THAT(Partials(), ElementsAre("train.partial-000002.ckpt", "train.partial-000006.ckpt"));
  EXPECT_NO_THROW(Run(settings, Partial(6)));
}

// A finished run has nothing to continue with; what it says is the same.
TEST_F(TrainTest, GoesOnFromTheEnd) {
  const Settings settings = Make();
  const TrainResult first = Run(settings), second = Run(settings, out);
  EXPECT_EQ(second.identity, first.identity);
  EXPECT_EQ(second.val_loss, first.val_loss);
  EXPECT_EQ(second.loss, first.loss);
}

TEST_F(TrainTest, AnUnfinishedRunIsNotOverwritten) {
  LeavePartial(Make(), 2);
  EXPECT_EQ(MessageOf<UsageError>([&] { Run(Make()); }),
            Partial(2) + ": an unfinished run; continue with --resume newest, or remove it to start afresh");
}

TEST_F(TrainTest, RefusesOtherSettingsByName) {
  LeavePartial(Make(), 2);
  EXPECT_EQ(MessageOf<InputError>([&] {
              Run(Make({{"matrix_lr", "0.5"}, {"seed", "6"}}), "newest");
            }),
            Partial(2) + ": was begun with other settings: seed was 5 and is 6 now; matrix_lr was 0.02 and is 0.5 now (give those of then to continue; "
                         "remove the checkpoint, or choose another --out, to start afresh)");
  // How a run is carried out may change.
  EXPECT_TRUE(
      Run(Make({{"checkpoint_every", "5"}, {"micro_batch_seqs", "1"}, {"train_log_every", "1"}}), "newest").finished);
}

TEST_F(TrainTest, RefusesOtherShards) {
  LeavePartial(Make(), 2);
  std::vector<uint16_t> tokens = RandomTokens(400, kVocab);
  ++tokens[399];
  WriteTrain(folder.path(), tokens);
  EXPECT_EQ(MessageOf<InputError>([&] { Run(Make(), "newest"); }),
            Partial(2) + ": was begun on other training shards than those in " + folder.path() + " (give those of then to continue; remove the checkpoint, or choose another --out, to start afresh)");
}

TEST_F(TrainTest, RefusesWhatIsNoTrainingCheckpoint) {
  EXPECT_THAT(MessageOf<IoError>([&] { Run(Make(), folder / "nothing.ckpt"); }), HasSubstr(folder / "nothing.ckpt"));
  const Settings settings = Make();
  for (const Kind kind : {Kind::kWeights, Kind::kTraining}) {
    // A training checkpoint that does not say on what it was trained is refused, too.
    CheckpointWriter(folder / "other.ckpt", kind, settings.Select(scope::kModel | scope::kTrain)).Finish({}, {});
    EXPECT_THAT(MessageOf<InputError>([&] { Run(settings, folder / "other.ckpt"); }),
                HasSubstr(folder / "other.ckpt: "));
  }
}

TEST_F(TrainTest, RemovesWhatAKilledRunWasWriting) {
  // Whether a step gets a checkpoint by the clock again is not known.
  WriteBytes(folder / ".train.partial-000007.ckpt.tmp", "half a checkpoint");
  WriteBytes(folder / ".train.ckpt.tmp", "");
  WriteBytes(folder / ".other.partial-000007.ckpt.tmp", "somebody else's");
  Run(Make(), "newest");
  EXPECT_THAT(Partials(), ElementsAre(".other.partial-000007.ckpt.tmp"));
  EXPECT_FALSE(std::filesystem::exists(folder / ".train.ckpt.tmp"));
}

TEST_F(TrainTest, FinishesWhatWasKilledBetweenItsLastTwoSteps) {
  const Settings settings = Make();
  const std::string identity = Run(settings).identity;
  // The finished checkpoint had not got its name yet.
  std::filesystem::rename(out, Partial(8));
  EXPECT_EQ(Run(settings, "newest").identity, identity);
  EXPECT_THAT(Partials(), ElementsAre());
  EXPECT_EQ(CheckpointReader(out).identity(), identity);
}

TEST_F(TrainTest, ASecondRunOfOneNameIsRefused) {
  const OutputFile first(out);
  EXPECT_EQ(MessageOf<IoError>([&] { Run(Make()); }), out + ": another process is writing it");
}

TEST_F(TrainTest, AFolderThatCannotBeReadIsNotTakenForOneWithoutCheckpoints) {
  std::filesystem::create_directory(folder / "blind");
  std::filesystem::permissions(folder / "blind", std::filesystem::perms(0300));
  // Permissions do not bind root: the test becomes another user for a moment.
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0755));
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    if (entry.is_regular_file()) std::filesystem::permissions(entry.path(), std::filesystem::perms(0644));
  const bool root = geteuid() == 0;
  if (root && (chown((folder / "blind").c_str(), 65534, 65534) != 0 || seteuid(65534) != 0))
    GTEST_SKIP() << "skipped: root reads everything, and may not become another user here";
  const std::string message = MessageOf<IoError>([&] { Train(Make(), folder / "blind/train.ckpt", "newest", {}); });
  ASSERT_TRUE(!root || seteuid(0) == 0);
  std::filesystem::permissions(folder / "blind", std::filesystem::perms(0700));
  EXPECT_EQ(message, folder / "blind: Permission denied");
}

TEST_F(TrainTest, ThroughALinkTheFileIsReplacedAndTheLinkStays) {
  std::filesystem::create_directory(folder / "elsewhere");
  WriteBytes(folder / "elsewhere/file.ckpt", "old");
  std::filesystem::create_symlink("elsewhere/file.ckpt", out);
  const std::string identity = Run(Make({{"checkpoint_every", "3"}})).identity;
  EXPECT_TRUE(std::filesystem::is_symlink(out));
  EXPECT_EQ(CheckpointReader(folder / "elsewhere/file.ckpt").identity(), identity);
}

TEST_F(TrainTest, HearsOfAWrongFolderAtOnce) {
  EXPECT_EQ(MessageOf<UsageError>([&] { Train(Make(), "/dev/null", "", {}); }),
            "/dev/null: a file is needed; a run keeps checkpoints beside it");
  EXPECT_EQ(MessageOf<IoError>([&] { Train(Make(), folder / "none/train.ckpt", "", {}); }),
            folder / "none/train.ckpt" + ": its folder does not exist");
}

}  // namespace
}  // namespace fairway
