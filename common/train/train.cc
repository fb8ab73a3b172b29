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
#include "common/optim/schedule.h"
#include "common/quantise/budget.h"
#include "common/quantise/calibration.h"
#include "common/runtime/runtime.h"
#include "common/tokens/byte_table.h"
#include "common/tokens/manifest.h"
#include "common/tokens/split_text.h"
#include "common/train/estimate.h"
#include "common/train/late_qat.h"
#include "common/train/live_text.h"
#include "common/train/trainer.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kStages = scope::kModel | scope::kTrain;

// Counts seconds while it runs.
class Stopwatch {
 public:
  explicit Stopwatch(double seconds) : before_(seconds) {}
  static Stopwatch Started() {
    Stopwatch watch(0);
    watch.Start();
    return watch;
  }
  void Start() { begin_ = Clock::now(); }
  void Stop() {
    before_ = seconds();
    begin_.reset();
  }
  double seconds() const {
    return before_ + (begin_ ? SecondsSince(*begin_) : 0.0);
  }

 private:
  double before_;
  std::optional<Clock::time_point> begin_;
};

// The periodic checkpoints of `out`, by step.
class Partials {
 public:
  explicit Partials(const std::string& out)
      : prefix_((out.ends_with(".ckpt") ? out.substr(0, out.size() - 5) : out) + ".partial-") {}

  std::string Path(int64_t step) const { return prefix_ + StringPrintf("%06ld.ckpt", step); }

  std::map<int64_t, std::string> List() const {
    std::map<int64_t, std::string> found;
    std::error_code error;
    for (fs::directory_iterator entry(DirectoryOf(prefix_), error), end; !error && entry != end; entry.increment(error)) {
      const std::string name = entry->path().filename(), begin = BaseName(prefix_);
      int64_t step;
      if (!name.starts_with(begin) || !name.ends_with(".ckpt")) continue;
      if (!ParseInt(std::string_view(name).substr(begin.size(), name.size() - begin.size() - 5), &step)) continue;
      if (BaseName(Path(step)) == name) found[step] = Path(step);
    }
    // A folder that cannot be read must not pass for one without a checkpoint.
    if (error) throw IoError(DirectoryOf(prefix_), error.message());
    return found;
  }

  void KeepNewest(size_t count) const {
    const auto found = List();
    auto oldest = found.begin();
    for (size_t left = found.size(); left > count; --left) RemoveFile((oldest++)->second);
  }

  void RemoveUnfinished() const { RemoveLeftOvers(prefix_); }

 private:
  std::string prefix_;
};

Lineage::Input LineageOf(const ShardSet& shards, const Settings& settings) {
  Lineage::Input input{.role = "train shards", .identity = shards.Identity(), .lineage = {}};
  const Manifest manifest = Manifest::Read(settings.data_path);
  // What the manifest says of the text is said of exactly the shards that it lists.
  if (const auto split = manifest.splits.find("train");
      split != manifest.splits.end() && split->second.Identity() == input.identity) {
    const auto add = [&](const char* role, const std::string& identity) {
      if (!identity.empty()) input.lineage.inputs.push_back({role, identity, {}});
    };
    input.lineage.tool = "tokenize-shard";
    add("text", split->second.corpus_sha256);
    add("tokenizer", split->second.tokenizer_sha256);
  }
  return input;
}

// Of the training split, all but the end that select_tokens keeps out of training.
int64_t TokensToTrainOn(const ShardSet& train, const Settings& settings) {
  const int64_t left = train.tokens() - settings.select_tokens;
  if (settings.select_tokens > 0 && left <= settings.train_seq_len)
    throw InputError(train.files().front(), StringPrintf("the training split holds %ld tokens; select_tokens = %ld leaves too few of them",
                                                         train.tokens(), settings.select_tokens));
  return left;
}

constexpr char kHowToContinue[] = " (give those of then to continue; remove the checkpoint, or choose another --out, to start afresh)";

// Settings that decide what is computed must be those that the run was begun with; so must the data.
void CheckResumable(const CheckpointReader& checkpoint, const Settings& settings, const Lineage& lineage) {
  checkpoint.Expect({Kind::kTraining});
  std::vector<std::string> differences;
  const SettingValues now = settings.Select(kStages);
  const SettingValues begun_with = CurrentSpelling(checkpoint.settings());
  std::map<std::string, std::string> then(begun_with.begin(), begun_with.end());
  const Settings defaults;  // of settings that came after the checkpoint's version
  for (const auto& [name, value] : now)
    if (then.try_emplace(name, defaults.Get(name)).first->second != value)
      differences.push_back(StringPrintf("%s was %s and is %s now", name.c_str(), then[name].c_str(), value.c_str()));
  if (!differences.empty())
    throw InputError(checkpoint.path(), "was begun with other settings: " + Join(differences, "; ") + kHowToContinue);
  const std::vector<Lineage::Input>& inputs = checkpoint.lineage().inputs;
  if (inputs.empty() || inputs.front().identity != lineage.inputs.front().identity)
    throw InputError(checkpoint.path(), "was begun on other training shards than those in " + settings.data_path + kHowToContinue);
}

void LogHeader(const Settings& s, const Estimate& estimate, const Communicator& communicator) {
  const int64_t xsa_first = s.num_layers - s.xsa_last_n;
  std::vector<std::string> xsa;
  for (int64_t i = xsa_first; i < s.num_layers; ++i) xsa.push_back(std::to_string(i));
  Log("run_id:%s", s.run_id.c_str());
  Log("model_params:%ld", estimate.parameters);
  Log("world_size:%ld grad_accum_steps:%ld backend:%s", communicator.world_size(), s.grad_micro_steps / communicator.world_size(),
      communicator.name().c_str());
  Log("attention_mode:gqa num_heads:%ld num_kv_heads:%ld", s.num_heads, s.num_kv_heads);
  Log("tie_embeddings:%s embed_lr:%s matrix_lr:%s scalar_lr:%s", s.tie_embeddings ? "True" : "False",
      ShortestDouble(s.tie_embeddings ? s.tied_embed_lr : s.embed_lr).c_str(), ShortestDouble(s.matrix_lr).c_str(),
      ShortestDouble(s.scalar_lr).c_str());
  Log("train_batch_tokens:%ld train_seq_len:%ld iterations:%ld warmup_steps:%ld max_wallclock_seconds:%.3f",
      s.train_batch_tokens, s.train_seq_len, s.iterations, s.warmup_steps, s.max_wallclock_seconds);
  Log("seed:%ld", s.seed);
  Log("xsa_active_layers:[%s] use_xsa_count:%ld", Join(xsa, ", ").c_str(), s.xsa_last_n);
}

// What ranks of one run have in common: what they compute, on what, and what decides when they do what.
std::vector<RankInvariant> InvariantsOf(const Settings& settings, const Lineage& lineage, const ShardSet& val, const ByteTable& table) {
  std::vector<RankInvariant> invariants = ProgramInvariants(lineage.version, lineage.source_digest, settings, kStages);
  invariants.push_back({"LibTorch", TORCH_VERSION});
  invariants.push_back({"the training split", lineage.inputs.front().identity});
  invariants.push_back({"the validation split", val.Identity() + " " + val.BytesIdentity()});
  invariants.push_back({"the byte table", table.digest});
  return invariants;
}

// A duration in two significant digits, and in whole seconds from ten on; never with an exponent.
std::string Seconds(double seconds) {
  const double digits = seconds > 0 ? 1 - std::floor(std::log10(seconds)) : 0;
  return StringPrintf("%.*f s", static_cast<int>(std::clamp(digits, 0.0, 9.0)), seconds);
}

void LogEstimate(const Settings& s, const Estimate& estimate, const Runtime& runtime) {
  const double rate = MeasureProducts(s, TorchDevice(runtime.device)) * static_cast<double>(runtime.communicator->world_size());
  const double step = estimate.flops_per_step / rate, calibration = estimate.flops_of_calibration / rate, cap = s.max_wallclock_seconds;
  // One step is taken whatever the clock says.
  const double seconds = cap > 0 ? std::max(cap, s.iterations > 0 ? step : 0) : step * static_cast<double>(s.iterations) + calibration;
  const std::string calibrates = calibration > 0 ? "calibration " + Seconds(calibration) + ", " : "";
  Log("estimate: memory %.2f GB; time at %s %s, %sa step %s (%.1f GFLOP of products, %.0f GFLOP/s on %s); artifact %.2f MB",
      std::ceil(estimate.memory_bytes / 1e7) / 100, cap > 0 && step <= cap ? "most" : "least", Seconds(seconds).c_str(), calibrates.c_str(), Seconds(step).c_str(),
      estimate.flops_per_step / 1e9, rate / 1e9, runtime.units().c_str(), estimate.artifact_bytes / 1e6);
  if (cap > 0 && s.iterations > 0 && step > cap)
    Log("estimate: one step takes about %s here, longer than MAX_WALLCLOCK_SECONDS = %s: training would end after the first of %ld",
        Seconds(step).c_str(), ShortestDouble(cap).c_str(), s.iterations);
  if (s.warmup_steps > 0 && step * static_cast<double>(s.warmup_steps) > 60)
    Log("estimate: %ld warm-up steps before the clock starts take about %s", s.warmup_steps,
        Seconds(step * static_cast<double>(s.warmup_steps)).c_str());
}

// What is kept in floating point is known before training, and so is what it takes of the artifact.
void LogCrowdedBudget(const Settings& s, int64_t parameters) {
  if (!HasSize(s) || (s.target_bytes <= 0 && s.target_ratio <= 0 && s.bits_per_weight <= 0)) return;
  if (const std::string crowded = CrowdedBudget(KeptOf(s), TargetBytes(s, parameters)); !crowded.empty()) Log("%s", crowded.c_str());
}

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
    const Estimate estimate = EstimateTraining(settings_, communicator_.world_size());
    LogHeader(settings_, estimate, communicator_);
    LogEstimate(settings_, estimate, runtime_);
    LogCrowdedBudget(settings_, estimate.parameters);
    if (resumes_ == 0) WarmUp();
    checkpointed_seconds_ = elapsed_ = clock_.seconds();
    if (interrupted_by_ != 0) return Interrupted();
    try {
      ReserveTime();
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
    trainer_.Restore(checkpoint);
    const Counters& counters = checkpoint.counters();
    clock_ = Stopwatch(counters.Get(counter::kTrainSeconds));
    warmup_steps_ = counters.Get(counter::kWarmupSteps);
    warmup_seconds_ = counters.Get(counter::kWarmupSeconds);
    loss_ = counters.Get(counter::kLastLoss);
    stopped_by_clock_ = counters.Get(counter::kStoppedByClock) != 0;
    search_seconds_ = counters.Get(counter::kQatSeconds);
    resumes_ = counters.Get(counter::kResumes) + 1;
    Log("resume: from step %ld of %s", trainer_.step(), checkpoint.path().c_str());
  }

  void WarmUp() {
    const auto start = Clock::now();
    trainer_.WarmUp([&](int64_t step) {
      const int64_t all = trainer_.WarmUpSteps();
      if (all <= 20 || step % 10 == 0 || step == all) Log("warmup_step:%ld/%ld", step, all);
      SetLiveLine(StringPrintf("warm-up step %ld/%ld", step, all));
      warmup_steps_ = static_cast<double>(step);
    });
    warmup_seconds_ = SecondsSince(start);
  }

  NamedTensors WeightsOnCpu() const {
    NamedTensors weights;
    for (const auto& [name, weight] : trainer_.parameters()) weights.emplace_back(name, weight.cpu());
    return weights;
  }

  // The clock leaves time for what the end of the schedule needs beside steps: calibration for the quantiser, and late QAT's search of the
  // steps to train on. Both are measured here, on the weights as they are, and get a fifth more. Steps are scheduled by the time that is left.
  void ReserveTime() {
    const bool calibrates = TrainingCalibrates(settings_), searches = FindsSteps(settings_) && !trainer_.fake_quantises();
    if (settings_.max_wallclock_seconds > 0 && (calibrates || searches)) {
      const NamedTensors weights = WeightsOnCpu();
      const int64_t world = communicator_.world_size();
      Calibration calibration;
      const auto seconds = [&](int64_t rounds) {
        Settings few = settings_;
        few.calibration_windows = std::min(rounds * world, settings_.calibration_windows);
        const Stopwatch clock = Stopwatch::Started();
        calibration = Calibrate(weights, few, trainer_.shards(), [this](int64_t, int64_t) { StopIfAsked(); }, communicator_);
        return clock.seconds();
      };
      double whole = 0;
      if (settings_.calibration_windows > 0) {
        seconds(1);  // what is only done the first time
        // A round is a window for each rank. What one takes, and one more for each further round.
        const int64_t rounds = (settings_.calibration_windows + world - 1) / world;
        const double one = seconds(1), three = seconds(3);
        whole = 1.2 * (one + std::max(three - one, 0.0) / 2 * static_cast<double>(rounds - 1));
        const std::vector<double> of_ranks = communicator_.Gather(std::vector<double>{whole});
        whole = *std::ranges::max_element(of_ranks);
      }
      if (calibrates) calibration_reserve_ = whole;
      if (searches) search_reserve_ = whole + 1.2 * MeasureSearch(weights, settings_, calibration, communicator_);
      if (calibration_reserve_ + search_reserve_ >= settings_.max_wallclock_seconds)
        throw UsageError(StringPrintf("MAX_WALLCLOCK_SECONDS=%g leaves no time to train: QUANTISER=%s takes %.3g s of it for calibration at the end "
                                      "and %.3g s to prepare late QAT. CALIBRATION=self, LATE_QAT_THRESHOLD=0 and fewer CALIBRATION_WINDOWS take less",
                                      settings_.max_wallclock_seconds, settings_.quantiser.c_str(), calibration_reserve_, search_reserve_));
      Log("clock: %.1f s are kept for calibration at the end, %.1f s to prepare late QAT", calibration_reserve_, search_reserve_);
    }
    ScheduleSteps();
  }

  // The time that steps may take is what is neither kept for something else nor was taken by it.
  void ScheduleSteps() {
    if (settings_.max_wallclock_seconds <= 0) return;
    const double search = trainer_.fake_quantises() ? search_seconds_ : search_reserve_;
    scheduled_.max_wallclock_seconds = std::max(settings_.max_wallclock_seconds - calibration_reserve_ - search, 1e-9);
  }
  double SecondsOfSteps() const { return elapsed_ - search_seconds_; }

  void PrepareLateQat(double scale) {
    SetLiveLine(StringPrintf("step %ld/%ld  preparing late QAT", trainer_.step(), settings_.iterations));
    const int64_t matrices = trainer_.StartFakeQuantisation();
    std::string grid;
    if (trainer_.qat_step()) {
      const double before = elapsed_;
      Agree();
      search_seconds_ = elapsed_ - before;
      ScheduleSteps();
      grid = StringPrintf(" quantise_step:%.6g", *trainer_.qat_step());
    }
    Log("late_qat: enabled at step %ld (scale=%.6f) matrices:%ld%s", trainer_.step(), scale, matrices, grid.c_str());
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
      SetLiveLine(StringPrintf("calibration %ld%%", 100 * done / of));
    };
    trainer_.WithWeights(ParseSource(source), [&](Engine&) {
      calibration_ = Calibrate(WeightsOnCpu(), settings_, trainer_.shards(), progress, communicator_);
    });
    clock_.Stop();
    Agree();
    calibrated_source_ = source;
    calibration_seconds_ = clock_.seconds() - begun;
    Log("calibration: %ld windows of %ld tokens, of the weights of %s, in %.1f s", settings_.calibration_windows, settings_.calibration_tokens,
        source.c_str(), calibration_seconds_);
  }

  void Step() {
    const double scale = LearningRateScale(scheduled_, trainer_.step(), SecondsOfSteps());
    if (scale < settings_.late_qat_threshold && !trainer_.fake_quantises()) PrepareLateQat(scale);
    const double fraction = TrainingFraction(scheduled_, trainer_.step(), SecondsOfSteps());
    if (trainer_.LoopFrom(fraction)) Log("layer_loop:enabled step:%ld frac:%.3f", trainer_.step(), fraction);
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
    if (snapshots == 0 && trainer_.swa_snapshots() == 1) Log("swa:start step:%ld", step);

    Agree();
    step_seconds_ = elapsed_ - begun;
    const double cap = TrainingSeconds(scheduled_);
    // Compat stops after the cap; we stop where the next step, if it is as long as this one, would end behind it
    // (a quirk of pull request 531).
    stopped_by_clock_ = cap > 0 && (settings_.published_quirks ? SecondsOfSteps() >= cap : SecondsOfSteps() + step_seconds_ > cap);
    const int64_t every = settings_.train_log_every;
    ShowState(elapsed_ - begun);
    if (updated && every > 0 && (step <= 10 || step % every == 0 || stopped_by_clock_))
      LogProgress("step:%ld/%ld train_loss:%.4f %s data_wait:%.0fms tokens/s:%.0f", step, settings_.iterations, loss_, Timing().c_str(),
          1e3 * trainer_.data_wait_seconds(), static_cast<double>(step * settings_.train_batch_tokens) / elapsed_);
  }

  // On the live line, ten times a second at most.
  void ShowState(double seconds) {
    seconds_per_step_ = seconds_per_step_ == 0 ? seconds : 0.9 * seconds_per_step_ + 0.1 * seconds;
    const bool more = trainer_.step() < settings_.iterations && !stopped_by_clock_;
    if (more && SecondsSince(shown_) < 0.1) return;
    shown_ = Clock::now();
    SetLiveLine(LiveText(settings_, {.step = trainer_.step(),
                                     .elapsed = elapsed_,
                                     .seconds_per_step = seconds_per_step_,
                                     .validation_seconds = validation_seconds_,
                                     .loss = loss_,
                                     .val_bpb = validated_ ? std::optional(score_.val_bpb) : std::nullopt,
                                     .averages_snapshots = trainer_.swa_snapshots() > 0,
                                     .fake_quantises = trainer_.fake_quantises()}));
  }

  // What all ranks go by until they do so again: the time of the one that has taken the longest, a signal that one of them has
  // had, and whether one was asked for a checkpoint since the last one. Once per step, and where one of them has done something that the others
  // have not.
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
    std::string what = StringPrintf("the loss of step %ld is %f", step, loss);
    if (!tensor.empty()) what += ", " + tensor + " is not finite";
    if (settings_.on_nonfinite == "stop" || (!tensor.empty() && !tensor.starts_with("gradient"))) throw Diverged(what);
    if (++skipped_in_a_row_ > kMostSkippedInARow)
      throw Diverged(StringPrintf("%ld updates in a row were left out, ", kMostSkippedInARow) + what);
    trainer_.SkipUpdate();
    Log("nonfinite: %s; update left out, %ld so far", what.c_str(), trainer_.skipped_updates());
  }

  void Validate() {
    clock_.Stop();
    const auto begun = Clock::now();
    const auto on_batch = [&](const BatchDone& done) {
      if (done.batch % communicator_.world_size() == 0) StopIfAsked();
      if (SecondsSince(begun) < 1 || SecondsSince(shown_) < 0.1) return;
      shown_ = Clock::now();
      SetLiveLine(StringPrintf("step %ld/%ld  validation %ld%%", trainer_.step(), settings_.iterations, 100 * done.windows_done / done.windows));
    };
    score_ = EvaluatePlain(trainer_.ModelForScoring(), val_, table_, settings_.ForEvaluation(), on_batch, communicator_);
    validation_seconds_ = SecondsSince(begun);
    validated_ = true;
    // The last update of all shows here alone.
    if (!std::isfinite(score_.val_loss))
      throw Diverged(StringPrintf("the validation loss after step %ld is %f", trainer_.step(), score_.val_loss));
    Log("step:%ld/%ld val_loss:%.4f val_bpb:%.4f %s", trainer_.step(), settings_.iterations, score_.val_loss, score_.val_bpb,
        Timing().c_str());
    clock_.Start();
  }

  // Where the steps' time went, the largest share first; what no operation claims is "other".
  void LogProfile() const {
    if (!profile_steps_ || profiled_steps_ == 0) return;
    std::vector<std::pair<double, std::string>> parts;
    double rest = profiled_seconds_;
    for (int i = 0; i < StepProfile::kOperations; ++i) {
      parts.emplace_back(profile_.seconds[i], StepProfile::kNames[i]);
      rest -= profile_.seconds[i];
    }
    parts.emplace_back(rest, "other");
    std::sort(parts.rbegin(), parts.rend());
    Log("step_profile: %ld steps of %.3f ms", profiled_steps_, 1e3 * profiled_seconds_ / static_cast<double>(profiled_steps_));
    for (const auto& [seconds, name] : parts)
      Log("step_profile:%-9s %10.3f ms %5.1f%%", name.c_str(), 1e3 * seconds / static_cast<double>(profiled_steps_),
          100 * seconds / profiled_seconds_);
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
      throw Diverged(StringPrintf("after step %ld %s is not finite", trainer_.step(), tensor.c_str()));
    CheckpointWriter writer(path, Kind::kTraining, settings_.Select(kStages));
    Counters counters;
    trainer_.Save(writer, counters);
    counters.Set(counter::kTrainSeconds, clock_.seconds());
    counters.Set(counter::kWarmupSteps, warmup_steps_);
    counters.Set(counter::kWarmupSeconds, warmup_seconds_);
    counters.Set(counter::kLastLoss, loss_);
    counters.Set(counter::kStoppedByClock, stopped_by_clock_);
    counters.Set(counter::kResumes, resumes_);
    if (search_seconds_ > 0) counters.Set(counter::kQatSeconds, search_seconds_);
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
    LogProfile();
    Agree();
    if (stopped_by_clock_ && trainer_.step() < settings_.iterations)
      Log("stopping_early: wallclock_cap train_time:%.0fms step:%ld/%ld", 1e3 * elapsed_, trainer_.step(),
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
    LogProfile();
    NoteInterrupt(interrupted_by_);
    const std::string path = partials_.Path(trainer_.step()), identity = WritePartial();
    Log("interrupted by signal %d after step %ld: %s is written; continue with the same command and --resume newest",
        interrupted_by_, trainer_.step(), path.c_str());
    return Result(path, identity, /*finished=*/false);
  }

  const Settings settings_;
  Settings scheduled_ = settings_;  // the same, with the wallclock that steps may take
  double calibration_reserve_ = 0, search_reserve_ = 0;  // seconds that are kept from steps
  double search_seconds_ = 0;                            // that late QAT's search took, of all processes of this run
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
  if (profile_steps && runtime.device != nullptr)
    throw UsageError("--profile-step: operations are timed on the CPU alone; use --device cpu");
  if (settings.run_id.empty()) settings.run_id = StringPrintf("%08lx-%d", std::chrono::system_clock::now().time_since_epoch().count() / 1000000000, getpid());
  // Written at the very end: a wrong path is reported now.
  std::error_code ignored;  // reported by the writer
  if (!fs::is_directory(DirectoryOf(out), ignored)) throw IoError(out, "its folder does not exist");
  if (fs::is_other(out, ignored)) throw UsageError(out + ": a file is needed; a run keeps checkpoints beside it");
  settings.CheckMemory(EstimateTraining(settings, runtime.communicator->world_size()).memory_bytes);
  CatchInterrupts();
  // Through a link the checkpoints lie where the file does: they take its name in the end.
  const std::string file = fs::is_symlink(out, ignored) ? fs::weakly_canonical(out, ignored).string() : out;
  return Run(std::move(settings), file, resume, std::move(lineage), runtime, profile_steps).Execute();
}

}  // namespace fairway
