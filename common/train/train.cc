#include "common/train/train.h"

#include <torch/headeronly/version.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <map>

#include "common/average/source.h"
#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/interrupt.h"
#include "common/base/live_line.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/calibrate/calibrate.h"
#include "common/checkpoint/counter_names.h"
#include "common/evaluate/evaluate.h"
#include "common/quantise/budget.h"
#include "common/quantise/calibration.h"
#include "common/quantise/grid.h"
#include "common/runtime/runtime.h"
#include "common/settings/schedule.h"
#include "common/tokens/byte_table.h"
#include "common/tokens/split_text.h"
#include "common/train/clock_budget.h"
#include "common/train/estimate.h"
#include "common/train/inputs.h"
#include "common/train/live_text.h"
#include "common/train/partials.h"
#include "common/train/report.h"
#include "common/train/stopwatch.h"
#include "common/train/trainer.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;

// The run's state around the Trainer, and what is done with it between steps.
class Run {
 public:
  Run(Settings settings, const std::string& out, const std::string& resume, Lineage lineage, const Runtime& runtime,
      bool profile_steps)
      : settings_(std::move(settings)),
        out_(out),
        partials_(out),
        runtime_(runtime),
        communicator_(*runtime.communicator),
        train_(settings_.data_path, "train", settings_.vocab_size),
        trainer_(settings_, train_.Part(0, TokensToTrainOn(train_, settings_)), runtime.device, communicator_),
        val_(settings_.data_path, "val", settings_.vocab_size),
        table_(ByteTable::Load(settings_)),
        lineage_(std::move(lineage)),
        profile_steps_(profile_steps) {
    lineage_.settings.emplace_back("torch.version", TORCH_VERSION);
    lineage_.settings.emplace_back("hardware", runtime_.hardware());
    lineage_.inputs = {LineageOf(trainer_.shards(), settings_)};
    (void)CheckText(val_, table_);  // shards that are not those of their manifest are refused here, not after training
    // What late QAT, or the end of training, would refuse.
    CheckPlain(val_, settings_.ForEvaluation());
    if (settings_.select_tokens > 0) CheckPlain(SelectSlice(), settings_.ForEvaluation());
    const bool sized_qat = HasSize(settings_) && settings_.late_qat_threshold > 0 && settings_.calibration_windows > 0;
    if (TrainingCalibrates(settings_) || sized_qat) CheckWindows(settings_, trainer_.shards());
    if (communicator_.world_size() > 1) RequireAgreement(communicator_, InvariantsOf(settings_, lineage_, val_, table_));
    if (Writes()) {
      reservation_.emplace(out);
      partials_.RemoveUnfinished();
    }
    Resume(resume);
    trainer_.SetStop([this] { return StopAsked(); });
  }

  TrainResult Execute() {
    const Estimate estimate = EstimateTraining(settings_, communicator_.world_size(), TorchDevice(runtime_.device));
    LogHeader(settings_, estimate, communicator_);
    LogEstimate(settings_, estimate, runtime_);
    LogCrowdedBudget(settings_, estimate.parameters);
    if (resumes_ == 0) WarmUp();
    checkpointed_seconds_ = elapsed_ = clock_.seconds();
    if (interrupted_by_ != 0) return Interrupted();
    try {
      budget_.Reserve([this] { return WeightsOnCpu(); }, trainer_.fake_quantises(), trainer_.shards(), communicator_, [this] { StopIfAsked(); });
    } catch (const Trainer::Cancelled&) {
      return Interrupted();
    }
    clock_.Start();
    while (true) {
      const bool last = trainer_.step() >= settings_.iterations || stopped_by_clock_;
      const bool periodic = settings_.val_loss_every > 0 && trainer_.step() % settings_.val_loss_every == 0;
      try {
        if (last || periodic) Validate();
        if (last) return Finish();
        Step();
      } catch (const Trainer::Cancelled&) {
        Agree();
        return Interrupted();
      }
      const bool more = trainer_.step() < settings_.iterations && !stopped_by_clock_;
      if (more && checkpoint_asked_) {
        WritePartial();
        Log("checkpoint: %s is written, as signal %d asks; training continues", partials_.Path(trainer_.step()).c_str(), SIGUSR1);
      } else if (more && ShouldCheckpoint()) {
        WritePartial();
      }
      if (interrupted_by_ != 0) return Interrupted();
    }
  }

 private:
  bool Writes() const { return communicator_.rank() == 0; }

  void Resume(const std::string& resume) {
    const auto partials = partials_.List();
    if (resume.empty() && !partials.empty())
      throw UsageError(partials.rbegin()->second + ": an unfinished run; continue with --resume newest, or remove it to start afresh");
    const bool fresh = resume.empty() || (resume == "newest" && partials.empty());
    const std::string path = fresh ? "" : resume == "newest" ? partials.rbegin()->second : resume;
    // Ranks on other hosts continue from the same file.
    if (communicator_.world_size() > 1)
      RequireAgreement(communicator_, {{"the checkpoint to continue from", fresh ? "none" : CheckpointReader(path).identity()}});
    if (fresh) return;
    const CheckpointReader checkpoint(path);
    CheckResumable(checkpoint, settings_, lineage_);
    // Of two ways on from one step, the newest checkpoint would be that of the other.
    if (!partials.empty() && static_cast<double>(partials.rbegin()->first) > checkpoint.counters().Get(counter::kSteps))
      throw UsageError(StringPrintf("%s: is of a later step than %s; remove or rename it, or choose another --out, to continue from there",
                                    partials.rbegin()->second.c_str(), path.c_str()));
    trainer_.Restore(checkpoint);
    const Counters& counters = checkpoint.counters();
    clock_ = Stopwatch(counters.Get(counter::kTrainSeconds));
    warmup_steps_ = counters.Get(counter::kWarmupSteps);
    warmup_seconds_ = counters.Get(counter::kWarmupSeconds);
    loss_ = counters.Get(counter::kLastLoss);
    stopped_by_clock_ = counters.Get(counter::kStoppedByClock) != 0;
    budget_.RestoreSearch(counters.Get(counter::kQatSeconds));
    resumes_ = counters.Get(counter::kResumes) + 1;
    Log("resume: from step %jd of %s", trainer_.step(), checkpoint.path().c_str());
  }

  void WarmUp() {
    const auto start = Clock::now();
    trainer_.WarmUp([&](int64_t step) {
      const int64_t all = trainer_.WarmUpSteps();
      if (all <= 20 || step % 10 == 0 || step == all) Log("warmup_step:%jd/%jd", step, all);
      SetLiveLine(StringPrintf("warm-up step %jd/%jd", step, all));
      warmup_steps_ = static_cast<double>(step);
    });
    warmup_seconds_ = SecondsSince(start);
  }

  NamedTensors WeightsOnCpu() const {
    NamedTensors weights;
    for (const auto& [name, weight] : trainer_.parameters()) weights.emplace_back(name, weight.cpu());
    return weights;
  }

  double SecondsOfSteps() const { return budget_.SecondsOfSteps(elapsed_); }

  void ReportProfile() const {
    if (profile_steps_ && profiled_steps_ > 0) LogProfile(profile_, profiled_steps_, profiled_seconds_);
  }

  void PrepareLateQat(double scale) {
    SetLiveLine(StringPrintf("step %jd/%jd  preparing late QAT", trainer_.step(), settings_.iterations));
    const int64_t matrices = trainer_.StartFakeQuantisation();
    std::string grid;
    if (trainer_.qat_step()) {
      const double before = elapsed_;
      Agree();
      budget_.SearchTook(elapsed_ - before);
      grid = StringPrintf(" quantise_step:%.6g", *trainer_.qat_step());
    }
    Log("late_qat: enabled at step %jd (scale=%.6f) matrices:%jd%s", trainer_.step(), scale, matrices, grid.c_str());
  }

  // What gptq-lite needs to know of the weights that ema-finalize will take, on the clock.
  void CalibrateForQuantiser() {
    if (!TrainingCalibrates(settings_)) return;
    std::string source = settings_.source;
    if (source == "select") source = std::ranges::min_element(select_losses_, {}, &std::pair<const std::string, double>::second)->first;
    for (const SourcePart& part : ParseSource(source))
      if ((part.set == "ema" && trainer_.ema_updates() == 0) || (part.set == "swa" && trainer_.swa_snapshots() == 0)) {
        Log("calibration: none, for SOURCE = %s needs the %s, and training ended before it began", source.c_str(), part.set == "ema" ? "EMA" : "SWA");
        return;
      }
    const double begun = clock_.seconds();
    clock_.Start();
    const auto progress = [this](int64_t done, int64_t of) {
      StopIfAsked();
      SetLiveLine(StringPrintf("calibration %jd%%", 100 * done / of));
    };
    trainer_.WithWeights(ParseSource(source), [&](Engine&) {
      calibration_ = Calibrate(WeightsOnCpu(), settings_, trainer_.shards(), progress, communicator_);
    });
    clock_.Stop();
    Agree();
    calibrated_source_ = source;
    calibration_seconds_ = clock_.seconds() - begun;
    Log("calibration: %jd windows of %jd tokens, of the weights of %s, in %.1f s", settings_.calibration_windows, settings_.calibration_tokens,
        source.c_str(), calibration_seconds_);
  }

  void Step() {
    const double scale = LearningRateScale(budget_.scheduled(), trainer_.step(), SecondsOfSteps());
    if (scale < settings_.late_qat_threshold && !trainer_.fake_quantises()) PrepareLateQat(scale);
    const double fraction = TrainingFraction(budget_.scheduled(), trainer_.step(), SecondsOfSteps());
    if (trainer_.LoopFrom(fraction)) Log("layer_loop:enabled step:%jd frac:%.3f", trainer_.step(), fraction);
    const double begun = elapsed_;
    if (profile_steps_) trainer_.SetProfile(&profile_);
    const std::vector<float> losses = trainer_.AccumulateGradients();
    if (losses.empty()) throw Trainer::Cancelled();
    double loss = 0;
    for (float of_micro : losses) loss += of_micro / static_cast<double>(losses.size());
    const int64_t snapshots = trainer_.swa_snapshots();
    const bool updated = std::isfinite(loss) && std::isfinite(trainer_.Update(scale));
    if (updated) {
      loss_ = loss;
      skipped_in_a_row_ = 0;
    } else {
      LeaveOut(loss);
    }
    trainer_.SetProfile(nullptr);  // validation is no part of a step
    profiled_seconds_ += clock_.seconds() - begun;
    ++profiled_steps_;
    const int64_t step = trainer_.step();
    if (snapshots == 0 && trainer_.swa_snapshots() == 1) Log("swa:start step:%jd", step);

    Agree();
    step_seconds_ = elapsed_ - begun;
    const double cap = TrainingSeconds(budget_.scheduled());
    // published_quirks stops after the cap; we stop where the next step, if it is as long as this one, would end behind it
    // (a quirk of pull request 531).
    stopped_by_clock_ = cap > 0 && (settings_.published_quirks ? SecondsOfSteps() >= cap : SecondsOfSteps() + step_seconds_ > cap);
    const int64_t every = settings_.train_log_every;
    ShowState(elapsed_ - begun);
    if (updated && every > 0 && (step <= 10 || step % every == 0 || stopped_by_clock_))
      LogProgress("step:%jd/%jd train_loss:%.4f %s data_wait:%.0fms tokens/s:%.0f", step, settings_.iterations, loss_, Timing().c_str(),
          1e3 * trainer_.data_wait_seconds(), static_cast<double>(step * settings_.train_batch_tokens) / elapsed_);
  }

  // On the live line, ten times a second at most.
  void ShowState(double seconds) {
    seconds_per_step_ = seconds_per_step_ == 0 ? seconds : 0.9 * seconds_per_step_ + 0.1 * seconds;
    const bool more = trainer_.step() < settings_.iterations && !stopped_by_clock_;
    if (more && SecondsSince(shown_) < 0.1) return;
    shown_ = Clock::now();
    SetLiveLine(LiveText(budget_.scheduled(), {.step = trainer_.step(),
                                     .elapsed = SecondsOfSteps(),
                                     .seconds_per_step = seconds_per_step_,
                                     .validation_seconds = validation_seconds_,
                                     .loss = loss_,
                                     .val_bpb = validated_ ? std::optional(score_.val_bpb) : std::nullopt,
                                     .averages_snapshots = trainer_.swa_snapshots() > 0,
                                     .fake_quantises = trainer_.fake_quantises()}));
  }

  // What all ranks go by until they do so again: the time of the one that has taken the longest, a signal that one of them has had,
  // and whether one was asked for a checkpoint since the last one. Once per step, and where one of them has done something that the
  // others have not.
  void Agree() {
    const double mine[] = {clock_.seconds(), static_cast<double>(InterruptSignal()),
                           static_cast<double>(CheckpointRequests() - requests_answered_)};
    const std::vector<double> all = communicator_.Gather(mine);
    elapsed_ = 0;
    checkpoint_asked_ = false;
    for (size_t i = 0; i < all.size(); i += 3) {
      elapsed_ = std::max(elapsed_, all[i]);
      if (all[i + 1] != 0) interrupted_by_ = static_cast<int>(all[i + 1]);
      checkpoint_asked_ |= all[i + 2] > 0;
    }
  }

  // Whether to abandon what is being computed. Ranks agree on it, which costs as much as a short step.
  bool StopAsked() {
    if (communicator_.world_size() == 1) interrupted_by_ = InterruptSignal();
    else if (step_seconds_ > 1) Agree();
    return interrupted_by_ != 0;
  }

  void StopIfAsked() {
    if (StopAsked()) throw Trainer::Cancelled();
  }

  // A step whose loss or gradient is no finite number: the end, or a step without an update. Where the weights themselves have
  // gone astray, or every step does, there is nothing to be had from going on.
  void LeaveOut(double loss) {
    const int64_t step = trainer_.step() + 1;
    const std::string tensor = trainer_.FindNonFinite();
    std::string what = StringPrintf("the loss of step %jd is %f", step, loss);
    if (!tensor.empty()) what += ", " + tensor + " is not finite";
    if (settings_.on_nonfinite == "stop" || (!tensor.empty() && !tensor.starts_with("gradient"))) throw Diverged(what);
    if (++skipped_in_a_row_ > kMostSkippedInARow)
      throw Diverged(StringPrintf("%jd updates in a row were left out, ", kMostSkippedInARow) + what);
    trainer_.SkipUpdate();
    Log("nonfinite: %s; update left out, %jd so far", what.c_str(), trainer_.skipped_updates());
  }

  void Validate() {
    clock_.Stop();
    const auto begun = Clock::now();
    const auto on_batch = [&](const BatchDone& done) {
      if (done.batch % communicator_.world_size() == 0) StopIfAsked();
      if (SecondsSince(begun) < 1 || SecondsSince(shown_) < 0.1) return;
      shown_ = Clock::now();
      SetLiveLine(StringPrintf("step %jd/%jd  validation %jd%%", trainer_.step(), settings_.iterations, 100 * done.windows_done / done.windows));
    };
    score_ = EvaluatePlain(trainer_.ModelForScoring(), val_, table_, settings_.ForEvaluation(), on_batch, communicator_);
    validation_seconds_ = SecondsSince(begun);
    validated_ = true;
    // The last update of all shows here alone.
    if (!std::isfinite(score_.val_loss))
      throw Diverged(StringPrintf("the validation loss after step %jd is %f", trainer_.step(), score_.val_loss));
    Log("step:%jd/%jd val_loss:%.4f val_bpb:%.4f %s", trainer_.step(), settings_.iterations, score_.val_loss, score_.val_bpb,
        Timing().c_str());
    clock_.Start();
  }

  ShardSet SelectSlice() const { return train_.Part(train_.tokens() - settings_.select_tokens, settings_.select_tokens); }

  // Scores what ema-finalize may select from, on the end of the training split, which was kept out of training.
  void ScoreSources() {
    if (settings_.select_tokens == 0) return;
    const ShardSet slice = SelectSlice();
    for (const std::string& source : SelectableSources(trainer_.ema_updates() > 0, trainer_.swa_snapshots() > 0)) {
      trainer_.WithWeights(ParseSource(source), [&](Engine& model) {
        select_losses_[source] = EvaluatePlain(model, slice, table_, settings_.ForEvaluation(), {}, communicator_).val_loss;
      });
      Log("select:%s loss:%.8f", source.c_str(), select_losses_[source]);
    }
  }

  std::string Timing() const {
    const double ms = 1e3 * elapsed_;
    return StringPrintf("train_time:%.0fms step_avg:%.2fms", ms, ms / static_cast<double>(std::max<int64_t>(trainer_.step(), 1)));
  }

  bool ShouldCheckpoint() const {
    const int64_t every = settings_.checkpoint_every;
    const double seconds = settings_.checkpoint_every_seconds;
    return (every > 0 && trainer_.step() % every == 0) || (seconds > 0 && elapsed_ - checkpointed_seconds_ >= seconds);
  }

  // Time spent writing counts as training time: a cap on the clock is a promise about the clock on the wall. Rank 0 writes; the
  // others return an empty identity.
  std::string Write(const std::string& path) {
    trainer_.ShareState();
    const int64_t requests = CheckpointRequests();
    std::string identity;
    communicator_.OnRankZero([&] { identity = WriteAlone(path); });
    requests_answered_ = requests;
    return identity;
  }

  std::string WriteAlone(const std::string& path) {
    if (const std::string tensor = trainer_.FindNonFinite(); !tensor.empty())
      throw Diverged(StringPrintf("after step %jd %s is not finite", trainer_.step(), tensor.c_str()));
    CheckpointWriter writer(path, Kind::kTraining, settings_.Select(kTrainingStages));
    Counters counters;
    trainer_.Save(writer, counters);
    counters.Set(counter::kTrainSeconds, clock_.seconds());
    counters.Set(counter::kWarmupSteps, warmup_steps_);
    counters.Set(counter::kWarmupSeconds, warmup_seconds_);
    counters.Set(counter::kLastLoss, loss_);
    counters.Set(counter::kStoppedByClock, stopped_by_clock_);
    counters.Set(counter::kResumes, resumes_);
    if (budget_.search_seconds() > 0) counters.Set(counter::kQatSeconds, budget_.search_seconds());
    for (const auto& [source, loss] : select_losses_) counters.Set(counter::kSelectPrefix + source, loss);
    if (calibration_) {
      AddCalibration(*calibration_, writer);
      counters.Set(counter::kCalibrationOfPrefix + calibrated_source_, static_cast<double>(settings_.calibration_windows * settings_.calibration_tokens));
      counters.Set(counter::kCalibrationSeconds, calibration_seconds_);
    }
    return writer.Finish(counters, lineage_);
  }

  std::string WritePartial() {
    const std::string identity = Write(partials_.Path(trainer_.step()));
    if (Writes()) partials_.KeepNewest(settings_.keep_checkpoints);
    Agree();
    checkpointed_seconds_ = elapsed_;
    return identity;
  }

  GateError Diverged(const std::string& what) const {
    const auto partials = partials_.List();
    return GateError(StringPrintf("training diverged: %s; the last checkpoint before it: %s", what.c_str(),
                                  partials.empty() ? "none" : partials.rbegin()->second.c_str()));
  }

  TrainResult Result(const std::string& path, const std::string& identity, bool finished) const {
    return {.path = path, .identity = identity, .steps = trainer_.step(), .seconds = elapsed_, .loss = loss_,
            .val_loss = score_.val_loss, .val_bpb = score_.val_bpb, .finished = finished};
  }

  TrainResult Finish() {
    clock_.Stop();
    train_.CheckUnchanged();
    val_.CheckUnchanged();
    ReportProfile();
    Agree();
    if (stopped_by_clock_ && trainer_.step() < settings_.iterations)
      Log("stopping_early: wallclock_cap train_time:%.0fms step:%jd/%jd", 1e3 * elapsed_, trainer_.step(),
          settings_.iterations);
    ScoreSources();
    CalibrateForQuantiser();
    // Written as a checkpoint to continue from and then given its name: killed at any point between, the next run finds either that
    // one or a finished run without checkpoints.
    const std::string newest = partials_.Path(trainer_.step()), identity = Write(newest);
    if (Writes()) {
      partials_.KeepNewest(1);
      reservation_.reset();
      RenameFile(newest, out_);
    }
    Agree();  // no rank ends before the file is there
    return Result(out_, identity, /*finished=*/true);
  }

  TrainResult Interrupted() {
    clock_.Stop();
    ReportProfile();
    NoteInterrupt(interrupted_by_);
    const std::string path = partials_.Path(trainer_.step()), identity = WritePartial();
    Log("interrupted by signal %d after step %jd: %s is written; continue with the same command and --resume newest",
        interrupted_by_, trainer_.step(), path.c_str());
    return Result(path, identity, /*finished=*/false);
  }

  const Settings settings_;
  ClockBudget budget_{settings_};
  std::optional<Calibration> calibration_;
  std::string calibrated_source_;
  double calibration_seconds_ = 0;
  const std::string out_;
  std::optional<OutputFile> reservation_;  // keeps other processes from writing `out_` and its checkpoints meanwhile
  const Partials partials_;
  const Runtime& runtime_;
  Communicator& communicator_;
  const ShardSet train_;
  Trainer trainer_;
  const ShardSet val_;
  const ByteTable table_;
  Lineage lineage_;
  const bool profile_steps_;
  StepProfile profile_;
  double profiled_seconds_ = 0;
  int64_t profiled_steps_ = 0;
  Stopwatch clock_{0};
  double elapsed_ = 0;  // training time that all ranks go by
  double step_seconds_ = INFINITY;  // of the last step; the first one may take any time
  int interrupted_by_ = 0;
  bool checkpoint_asked_ = false;
  int64_t requests_answered_ = 0;  // of CheckpointRequests
  double checkpointed_seconds_ = 0;
  static constexpr int64_t kMostSkippedInARow = 10;
  int64_t skipped_in_a_row_ = 0;
  double warmup_steps_ = 0, warmup_seconds_ = 0, resumes_ = 0, loss_ = 0;  // loss_: of the last step that was updated by
  bool stopped_by_clock_ = false;
  Score score_;
  bool validated_ = false;
  double seconds_per_step_ = 0, validation_seconds_ = 0;  // for the live line
  Clock::time_point shown_;
  std::map<std::string, double> select_losses_;  // of each source, nats per target
};

}  // namespace

TrainResult Train(Settings settings, const std::string& out, const std::string& resume, Lineage lineage, bool profile_steps) {
  settings.CheckTraining(ReadLaunch().world_size);
  CheckSize(settings);
  if (TrainingCalibrates(settings)) CheckSource(settings, settings, WhyNoSnapshot(settings));
  const Runtime runtime(settings);
  settings.CheckTrainingDevice(runtime.device != nullptr);
  if (profile_steps && runtime.device != nullptr)
    throw UsageError("--profile-step: operations are timed on the CPU alone; use --device cpu");
  if (settings.run_id.empty()) settings.run_id = StringPrintf("%08jx-%d", std::chrono::system_clock::now().time_since_epoch().count() / 1000000000, getpid());
  // Written at the very end: a wrong path is reported now.
  std::error_code ignored;  // reported by the writer
  if (!fs::is_directory(DirectoryOf(out), ignored)) throw IoError(out, "its folder does not exist");
  if (fs::is_other(out, ignored)) throw UsageError(out + ": a file is needed; a run keeps checkpoints beside it");
  runtime.CheckMemory(settings, EstimateTraining(settings, runtime.communicator->world_size(), TorchDevice(runtime.device)).memory_bytes);
  CatchInterrupts();
  // Through a link the checkpoints lie where the file does: they take its name in the end.
  const std::string file = fs::is_symlink(out, ignored) ? fs::weakly_canonical(out, ignored).string() : out;
  return Run(std::move(settings), file, resume, std::move(lineage), runtime, profile_steps).Execute();
}

}  // namespace fairway
