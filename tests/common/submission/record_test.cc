#include "common/submission/record.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <thread>

#include "common/base/error.h"
#include "common/submission/output_folder.h"
#include "tests/common/submission/finished_run.h"
#include "tests/common/submission/temporary.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

std::string Fresh(const std::string& name) {
  const std::string path = TemporaryRoot() + name;
  fs::remove_all(path);
  return path;
}

// What a call throws, as "status: message"; "done" where it throws nothing.
std::string Outcome(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return std::to_string(static_cast<int>(error.status())) + ": " + error.what();
  }
  return "done";
}

std::string Reading(const std::string& directory) {
  return Outcome([&] { ReadRun(directory); });
}

// A run that was spoilt in one way.
std::string Finished(const std::string& name, const FakeRun& run = {}) {
  const std::string directory = Fresh(name);
  run.Write(directory);
  return directory;
}

void Edit(const std::string& path, const std::string& from, const std::string& to) {
  std::string text(InputFile(path).text());
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << path << " has no " << from;
  WriteFile(path, text.replace(at, from.size(), to));
}

std::map<std::string, std::string> Files(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file()) {
      files[fs::relative(entry.path(), directory)] = std::string(InputFile(entry.path()).text());
    }
  }
  return files;
}

std::vector<std::string> Names(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& [name, text] : Files(directory)) names.push_back(name);
  return names;
}

RecordOptions Dated() {
  RecordOptions options;
  options.date = "2026-03-31";
  return options;
}

std::vector<FinishedRun> ThreeSeeds() {
  std::vector<FinishedRun> runs;
  double loss = 2.0;
  for (int64_t seed : {1337, 42, 7}) {
    FakeRun run;
    run.seed = seed;
    run.val_loss = loss;
    loss += 0.001;
    runs.push_back(ReadRun(Finished("three-" + std::to_string(seed), run)));
  }
  return runs;
}

TEST(ReadRun, TakesAWholeRun) {
  FinishedRun run = ReadRun(Finished("whole"));
  EXPECT_EQ(run.seed(), 1337);
  EXPECT_EQ(run.steps(), 60);
  EXPECT_EQ(run.step_ms(), 200);
  run.counters.Set(counter::kTrainSeconds, 13);  // a second of calibration, after the last step
  EXPECT_EQ(run.step_ms(), 200);
  EXPECT_EQ(run.settings.num_layers, 5);
  EXPECT_EQ(run.artifact.scales, 16u);
  EXPECT_EQ(run.artifact.kept, 12u);
  EXPECT_EQ(run.artifact.compressed, fs::file_size(run.directory + "/model.bin.zst"));
  EXPECT_EQ(run.before.size(), 3u);
  EXPECT_EQ(run.source_bytes, 18u);
}

// Parts of the content are counted as they lie in it, so that they sum to it: a coder's streams, else a byte for each code.
TEST(ReadRun, CountsWhatAnArtifactHolds) {
  for (const Coder coder : {Coder::kArithmetic, Coder::kZstd}) {
    FakeRun fake;
    fake.coder = coder;
    const FinishedRun run = ReadRun(Finished("sizes", fake));
    const ArtifactSizes& sizes = run.artifact;
    const uint64_t content = OpenWeights(run.directory + "/model.bin.zst").packing().bytes;
    EXPECT_EQ(sizes.codes + sizes.scales + sizes.kept + sizes.other, content);
    EXPECT_EQ(sizes.scales, 16u);
    EXPECT_EQ(sizes.kept, 12u);
    EXPECT_GT(sizes.other, 100u);
    EXPECT_LT(sizes.other, content);
    EXPECT_EQ(sizes.coded, coder == Coder::kZstd ? 0u : 128u);
    if (coder == Coder::kZstd) EXPECT_EQ(sizes.codes, 128u);
    else EXPECT_LT(sizes.codes, 64u);  // they are all alike
    EXPECT_THAT(Join(TextLines(SummaryTable(MakeRecord({run}, Dated()))), "\n"),
                HasSubstr(coder == Coder::kZstd ? "bytes of codes  " : "bytes of codes, by the arithmetic coder  "));
  }
}

TEST(ReadRun, NamesAMissingFile) {
  for (const char* name : {run_file::kTrain, run_file::kWeights, run_file::kQuantised, run_file::kArtifact,
                           run_file::kLineage, run_file::kEval, run_file::kLog, run_file::kSource}) {
    const std::string directory = Finished("missing");
    fs::remove(directory + "/" + name);
    EXPECT_EQ(Reading(directory), "3: " + directory + "/" + name + ": No such file or directory");
  }
  EXPECT_EQ(Reading("/nonexistent"), "3: /nonexistent/train.ckpt: No such file or directory");
}

TEST(ReadRun, TakesAbsentScoresBeforeQuantisation) {
  const std::string directory = Finished("absent");
  fs::remove(directory + "/before-swa.json");
  WriteFile(directory + "/before-ema.json", "null\n");  // training did not keep it
  const FinishedRun run = ReadRun(directory);
  EXPECT_FALSE(run.before.contains("swa"));
  EXPECT_FALSE(run.before.contains("ema"));
  const Record record = MakeRecord({run}, Dated());
  EXPECT_THAT(ReadMe(record), HasSubstr("| bits per byte before quantisation, swa weights, plain | - |"));
}

TEST(ReadRun, RefusesAnArtifactOfAnotherRun) {
  FakeRun other;
  other.seed = 42;
  const std::string directory = Finished("artifact"), foreign = Finished("artifact-other", other);
  const std::string own = Sha256Hex(InputFile(directory + "/model.bin.zst").bytes());
  const std::string theirs = Sha256Hex(InputFile(foreign + "/model.bin.zst").bytes());
  fs::copy_file(foreign + "/model.bin.zst", directory + "/model.bin.zst", fs::copy_options::overwrite_existing);
  EXPECT_EQ(Reading(directory),
            "5: " + directory + "/model.bin.zst.lineage: does not belong to the other parts: it is of the artifact " +
                own + ", but model.bin.zst has the SHA-256 " + theirs);
}

// Each link of the chain, broken by a part of another run.
TEST(ReadRun, RefusesACheckpointOfAnotherRun) {
  FakeRun other;
  other.seed = 42;
  other.settings["model_dim"] = "64";
  const std::string foreign = Finished("link-other", other);
  const auto identity = [](const std::string& path) { return CheckpointReader(path).identity(); };
  struct Link {
    const char *changed, *after, *role;
  };
  for (const Link& link : {Link{run_file::kQuantised, run_file::kLineage, "quantised checkpoint"},
                           Link{run_file::kWeights, run_file::kQuantised, "weights"},
                           Link{run_file::kTrain, run_file::kWeights, "training checkpoint"}}) {
    const std::string directory = Finished("link"), path = directory + "/" + link.changed;
    const std::string own = identity(path);
    fs::copy_file(foreign + "/" + link.changed, path, fs::copy_options::overwrite_existing);
    EXPECT_EQ(Reading(directory), "5: " + directory + "/" + link.after +
                                      ": does not belong to the other parts: it was made from the " + link.role + " " +
                                      own + ", but " + path + " is " + identity(path));
  }
}

TEST(ReadRun, RefusesScoresOfSomethingElse) {
  const std::string path = Finished("scores") + "/eval.json", directory = fs::path(path).parent_path();
  const std::string digest = Sha256Hex(InputFile(directory + "/model.bin.zst").bytes());
  Edit(path, digest, "0123");
  EXPECT_EQ(Reading(directory), "5: " + path +
                                    ": does not belong to the other parts: it scores the artifact \"0123\", but "
                                    "model.bin.zst has the SHA-256 " +
                                    digest);
  Edit(path, "0123", digest);
  const std::string identity = CheckpointReader(directory + "/quantised.ckpt").identity();
  Edit(path, identity, "4567");
  EXPECT_EQ(Reading(directory), "5: " + path +
                                    ": does not belong to the other parts: it scores the weights \"4567\", but "
                                    "model.bin.zst holds " +
                                    identity);
  Edit(path, "4567", identity);
  EXPECT_EQ(Reading(directory), "done");

  const std::string before = directory + "/before-ema.json",
                    trained = CheckpointReader(directory + "/train.ckpt").identity();
  Edit(before, trained, "89ab");
  EXPECT_EQ(Reading(directory),
            "5: " + before + ": does not belong to the other parts: it is of weights made from [\"89ab\"], but the run's training "
                "checkpoint is " + trained);
  Edit(before, "89ab", trained);
  Edit(before, "\"76a1\"", "\"cdef\"");
  EXPECT_EQ(Reading(directory),
            "5: " + before + ": does not belong to the other parts: val_digest is \"cdef\", but \"76a1\" in eval.json");
}

TEST(ReadRun, RefusesScoresThatItCannotRead) {
  const std::string directory = Finished("unreadable"), path = directory + "/eval.json";
  Edit(path, "\"val_loss\": 2.0", "\"val_loss\": \"two\"");
  EXPECT_EQ(Reading(directory), "4: " + path + ": val_loss is no score");
  for (const char* text : {"-1", "1e300", "null"}) {
    Edit(path, "\"val_loss\": \"two\"", std::string("\"val_loss\": ") + text);
    EXPECT_EQ(Reading(directory), "4: " + path + ": val_loss is no score");
    Edit(path, std::string("\"val_loss\": ") + text, "\"val_loss\": \"two\"");
  }
  Edit(path, "\"val_loss\"", "\"lost\"");
  EXPECT_EQ(Reading(directory), "4: " + path + ": misses val_loss");
  WriteFile(path, "{");
  EXPECT_EQ(Reading(directory), "4: " + path + ": is not JSON");
  WriteFile(path, "[]");
  EXPECT_EQ(Reading(directory), "4: " + path + ": is no JSON object");
}

TEST(ReadRun, RefusesALogOfAnotherRun) {
  const std::string directory = Finished("log"), path = directory + "/train.log";
  Edit(path, "seed:1337", "seed:42");
  EXPECT_EQ(Reading(directory),
            "5: " + path + ": does not belong to the other parts: it is of seed 42, but the weights are of seed 1337");
  Edit(path, "seed:42", "seed:1337");
  WriteFile(path, std::string(InputFile(path).text()) + "step:61/90 train_loss:2 train_time:1ms step_avg:1ms\n");
  EXPECT_EQ(Reading(directory),
            "5: " + path + ": does not belong to the other parts: it ends at step 61, but training at step 60");
  WriteFile(path, "seed:1337\n");
  EXPECT_EQ(Reading(directory), "4: " + path + ": holds no line of a step");
}

TEST(ReadRun, RefusesWeightsThatNeverCameAbout) {
  struct Claim {
    const char* counter;
    const char* message;
  };
  for (const Claim& claim :
       {Claim{counter::kEmaUpdates, "its weights are of the ema, which was never taken (ema.updates is 0)"},
        Claim{counter::kSwaSnapshots, "its weights are of the swa, which was never taken (swa.snapshots is 0)"},
        Claim{counter::kClipRowsSearched,
              "the artifact has int6 matrices, but no row's clip was searched for (clip.rows_searched is 0)"}}) {
    FakeRun run;
    run.counters[std::string(counter::kFinalizePrefix) + "swa"] = 0.5;
    run.counters[claim.counter] = 0;
    std::string directory = Finished("claim", run);
    EXPECT_EQ(Reading(directory), "5: " + directory + ": " + claim.message);
    run.counters.erase(claim.counter);
    directory = Finished("claim", run);
    EXPECT_EQ(Reading(directory), "5: " + directory + ": " + claim.message);
  }
  // Other quantisers have six bits, too, and search no clip.
  FakeRun run;
  run.settings["quantiser"] = "gptq_sdclip";
  run.counters[counter::kClipRowsSearched] = 0;
  EXPECT_EQ(Reading(Finished("claim", run)), "done");
}

// An average without a snapshot and late QAT that a clock left no step for are no reason to refuse a record, and no part of its title.
TEST(ReadRun, ClaimsOnlyWhatActed) {
  const auto record_of = [](const FakeRun& run) { return MakeRecord({ReadRun(Finished("idle", run))}, Dated()); };
  FakeRun run;
  run.counters[std::string(counter::kFinalizePrefix) + "ema"] = 0;
  run.counters[std::string(counter::kFinalizePrefix) + "last"] = 1;
  for (const char* name : {counter::kEmaUpdates, counter::kSwaSnapshots, counter::kQatReplacements}) run.counters[name] = 0;
  Record record = record_of(run);
  EXPECT_EQ(record.options.name, "5L 512d + XSA4 + clip search");
  const std::string page = ReadMe(record);
  EXPECT_THAT(page, HasSubstr("decay 0.997 | none taken |"));
  EXPECT_THAT(page, HasSubstr("below a learning rate scale of 0.4 | none taken |"));
  EXPECT_THAT(page, HasSubstr("late QAT, below a scale of 0.15 | none taken |"));
  for (FinishedRun& finished : record.runs) finished.before.clear();
  const std::string table = Join(TextLines(SummaryTable(record)), "\n");
  EXPECT_THAT(table, testing::ContainsRegex("swa weights, plain +none taken"));
  EXPECT_THAT(table, testing::ContainsRegex("last weights, plain +-"));

  // One step of the 450 that it was meant for.
  run.settings["warmdown_iters"] = "3000";
  run.counters = FakeRun().counters;
  run.counters[counter::kSteps] = 60;
  run.counters[counter::kQatFirstStep] = 59;
  EXPECT_THAT(record_of(run).options.name, HasSubstr("late QAT"));  // one of 60, for there were no more
  FinishedRun finished = ReadRun(Finished("idle", run));
  EXPECT_EQ(finished.late_qat().acted, 1);
  EXPECT_EQ(finished.late_qat().meant, 60);
  finished.counters.Set(counter::kSteps, 10000);
  finished.counters.Set(counter::kQatFirstStep, 9999);
  EXPECT_EQ(finished.late_qat().meant, 450);
  EXPECT_FALSE(finished.late_qat().counts());
  // A share of the run in place of steps: 0.15 of its last half, unless the scale stays above the threshold.
  finished.settings.warmdown_frac = 0.5;
  EXPECT_EQ(finished.late_qat().meant, 750);
  finished.settings.min_lr = 0.2;
  EXPECT_EQ(finished.late_qat().meant, 1);
  finished.settings.warmdown_frac = 0;
  record = MakeRecord({finished}, Dated());
  EXPECT_THAT(record.options.name, Not(HasSubstr("late QAT")));
  EXPECT_THAT(ReadMe(record), HasSubstr("from step 9,999, 1 of 450 meant: not claimed |"));
}

TEST(ReadRun, AsksNothingOfTechniquesThatAreOff) {
  FakeRun run;
  for (const char* name :
       {counter::kEmaUpdates, counter::kSwaSnapshots, counter::kQatReplacements, counter::kClipRowsSearched}) {
    run.counters.erase(name);
  }
  run.counters[std::string(counter::kFinalizePrefix) + "ema"] = 0;
  run.counters[std::string(counter::kFinalizePrefix) + "last"] = 1;
  run.settings.insert({{"ema_enabled", "0"}, {"swa_enabled", "0"}, {"late_qat_threshold", "0"}});
  run.grid = "int5";
  const std::string directory = Finished("off", run);
  EXPECT_EQ(Reading(directory), "done");
  EXPECT_THAT(ReadMe(MakeRecord({ReadRun(directory)}, Dated())), HasSubstr("decay 0.997 | off |"));
}

TEST(Warnings, NameRoundingThatCostsMuch) {
  FinishedRun run = ReadRun(Finished("costly"));
  EXPECT_THAT(Warnings(MakeRecord({run}, Dated())), testing::IsEmpty());
  const double after = run.eval["val_bpb_plain"].get<double>();
  run.before["ema"]["val_bpb_plain"] = after - 0.049;
  run.before["swa"]["val_bpb_plain"] = after - 1;  // was not taken
  EXPECT_THAT(Warnings(MakeRecord({run}, Dated())), testing::IsEmpty());
  run.before["ema"]["val_bpb_plain"] = after - 0.06;
  EXPECT_THAT(Warnings(MakeRecord({run}, Dated())), ElementsAre(HasSubstr("rounding costs 0.060 bits per byte")));
  run.before.erase("ema");
  EXPECT_THAT(Warnings(MakeRecord({run}, Dated())), testing::IsEmpty());
}

TEST(MakeRecord, RefusesRunsThatAreNotOneExperiment) {
  const FinishedRun first = ReadRun(Finished("first"));
  const auto with = [&](const std::function<void(FakeRun&)>& change) {
    FakeRun other;
    other.seed = 42;
    change(other);
    const FinishedRun second = ReadRun(Finished("second", other));
    return Outcome([&] { MakeRecord({first, second}, Dated()); });
  };
  const std::string another =
      "5: " + TemporaryRoot() + "second is another experiment than " + TemporaryRoot() + "first: ";
  EXPECT_EQ(with([](FakeRun&) {}), "done");
  EXPECT_EQ(with([](FakeRun& run) { run.seed = 1337; }), "5: " + TemporaryRoot() + "second: seed 1337 was given twice");
  EXPECT_EQ(with([](FakeRun& run) { run.settings["matrix_lr"] = "0.03"; }),
            another + "matrix_lr is 0.03 and matrix_lr is 0.02");
  EXPECT_EQ(with([](FakeRun& run) { run.train_program = "cc"; }),
            another + "program train is cc and program train is aa");
  EXPECT_EQ(with([](FakeRun& run) { run.shards = "ffff"; }), another + "train shards is ffff and train shards is 5ad5");
  EXPECT_THAT(with([](FakeRun& run) { run.source = "other"; }), HasSubstr(another + "the source archive is "));
  FakeRun other;
  other.seed = 42;
  FinishedRun second = ReadRun(Finished("second", other));
  second.eval["ttt"] = {{"steps", 3}};
  EXPECT_EQ(Outcome([&] { MakeRecord({first, second}, Dated()); }),
            another + "ttt of eval.json is {\"steps\":3} and ttt of eval.json is null");
}

TEST(MakeRecord, HoldsTheBudget) {
  const FinishedRun run = ReadRun(Finished("budget"));
  const uint64_t total = run.artifact.compressed + run.source_bytes;
  RecordOptions options = Dated();
  options.budget = total;
  EXPECT_EQ(MakeRecord({run}, options).bytes_total, total);
  options.budget = total - 1;
  EXPECT_EQ(Outcome([&] { MakeRecord({run}, options); }),
            "5: " + run.directory + ": over budget by 1 bytes: artifact " + WithCommas(run.artifact.compressed) +
                " + code 18 > " + WithCommas(total - 1));
}

TEST(MakeRecord, ComparesSeedsWithTheBaseline) {
  RecordOptions options = Dated();
  options.baseline_loss = 2.02;
  const Record record = MakeRecord(ThreeSeeds(), options);
  EXPECT_DOUBLE_EQ(record.val_loss, 2.001);
  EXPECT_NEAR(*record.val_loss_std, 0.001, 1e-12);  // rounding of three sums near 2
  ASSERT_TRUE(record.comparison);
  EXPECT_NEAR(record.comparison->improvement, 0.019, 1e-12);
  // t = (2.001 - 2.015) / (0.001 / sqrt(3)), two degrees of freedom; the closed form of that distribution.
  const double t = -0.014 / (0.001 / std::sqrt(3.0));
  EXPECT_NEAR(*record.comparison->p_value, 0.5 + t / (2 * std::sqrt(2 + t * t)), 1e-9);
  EXPECT_TRUE(record.comparison->qualifies);
  EXPECT_EQ(SubmissionJson(record)["track"], "10min_16mb");
  EXPECT_THAT(ReadMe(record), HasSubstr("over at least 3 seeds: this one qualifies."));
  EXPECT_THAT(ReadMe(record), HasSubstr("not the order of the training text (data_order = sequential)"));

  // The same baseline in bits per byte is the same comparison.
  options.baseline_loss.reset();
  options.baseline_bpb = FakeRun::BitsPerByte(2.02);
  EXPECT_NEAR(*MakeRecord(ThreeSeeds(), options).comparison->p_value, *record.comparison->p_value, 1e-12);

  options.baseline_bpb = FakeRun::BitsPerByte(2.0065);  // better than the baseline, but not by enough
  const Record close = MakeRecord(ThreeSeeds(), options);
  EXPECT_GT(close.comparison->improvement, kRequiredNats);
  EXPECT_FALSE(close.comparison->qualifies);
  EXPECT_EQ(SubmissionJson(close)["track"], "non-record-16mb");
}

// A score that beats the standing record is of the ten-minute track only where everything was done in time.
TEST(MakeRecord, TheTrackFollowsFromTheClock) {
  RecordOptions options = Dated();
  options.baseline_loss = 2.02;
  const auto with = [&](const std::function<void(FinishedRun&)>& change) {
    std::vector<FinishedRun> runs = ThreeSeeds();
    change(runs[1]);
    return MakeRecord(runs, options);
  };
  const auto reasons = [&](const std::function<void(FinishedRun&)>& change) {
    const Record record = with(change);
    const Json json = SubmissionJson(record);
    EXPECT_EQ(json["track"], "non-record-16mb");
    const std::string said = json["track_reasons"].dump();
    EXPECT_THAT(ReadMe(record), HasSubstr("These runs are outside of it: " + json["track_reasons"][0].get<std::string>()));
    return said;
  };
  const Json in_time = SubmissionJson(with([](FinishedRun&) {}));
  EXPECT_EQ(in_time["track"], "10min_16mb");
  EXPECT_FALSE(in_time.contains("track_reasons"));
  EXPECT_THAT(reasons([](FinishedRun& run) { run.eval["seconds"] = 4000; }), HasSubstr("evaluation took 4000.0 s, more than 600"));
  EXPECT_THAT(reasons([](FinishedRun& run) { run.eval.erase("seconds"); }), HasSubstr("does not say how long evaluation took"));
  EXPECT_THAT(reasons([](FinishedRun& run) { run.counters.Set(counter::kTrainSeconds, 600.5); }), HasSubstr("training took 600.5 s"));
  EXPECT_THAT(reasons([](FinishedRun& run) { run.counters.Set(counter::kCalibrationTokens, 98304); }),
              HasSubstr("calibration read 98,304 training tokens after the clock of training had ended"));
}

// The programs of an honest evaluation, with a library from somewhere else.
Json ProgramsWith(uint64_t elsewhere) {
  Json programs = {{{"name", "eval-sliding"}, {"bytes", 20'000'000}, {"from", "code"}},
                   {{"name", "libtorch_cpu.so"}, {"bytes", 400'000'000}, {"from", "libtorch"}},
                   {{"name", "libc10.so"}, {"bytes", 1'000'000}, {"from", "libtorch"}},
                   {{"name", "libzstd.so.1"}, {"bytes", 700'000}, {"from", "system"}}};
  if (elsewhere > 0) programs.push_back({{"name", "libpacker.so"}, {"bytes", elsewhere}, {"from", "elsewhere"}});
  return programs;
}

FinishedRun ScoredWith(uint64_t elsewhere) {
  FakeRun run;
  run.programs = ProgramsWith(elsewhere);
  return ReadRun(Finished("scored-with", run));
}

TEST(MakeRecord, AnHonestRecordCountsArtifactAndCode) {
  const FinishedRun run = ScoredWith(0);
  const Record record = MakeRecord({run}, Dated());
  EXPECT_EQ(record.bytes_total, run.artifact.compressed + 18);
  const Json ledger = SubmissionJson(record)["bytes_ledger"];
  std::vector<std::string> lines;
  for (const Json& line : ledger) lines.push_back(line.dump());
  EXPECT_THAT(lines, ElementsAre("{\"what\":\"artifact\",\"bytes\":" + std::to_string(run.artifact.compressed) + ",\"counts\":true}",
                                 "{\"what\":\"code\",\"bytes\":18,\"counts\":true}",
                                 "{\"what\":\"tokenizer\",\"bytes\":254483,\"counts\":false}",
                                 "{\"what\":\"programs\",\"bytes\":20000000,\"counts\":false}",
                                 "{\"what\":\"LibTorch and what comes with it\",\"bytes\":401000000,\"counts\":false}",
                                 "{\"what\":\"libraries of the system\",\"bytes\":700000,\"counts\":false}"));
  EXPECT_THAT(ReadMe(record), HasSubstr("| tokenizer: scoring reads its byte table, which is in the code | no | 254,483 |"));
}

// Records of older programs do not say what scored them.
TEST(MakeRecord, AnOlderRecordHasNoLedgerInItsSubmission) {
  const Record record = MakeRecord({ReadRun(Finished("older-ledger"))}, Dated());
  EXPECT_FALSE(SubmissionJson(record).contains("bytes_ledger"));
  EXPECT_THAT(ReadMe(record), AllOf(HasSubstr("| programs: not recorded | no | - |"), HasSubstr("| code: the source archive as shipped, byte table included | yes | 18 |")));
}

// The dispute: a size counted without what decoding needs.
TEST(MakeRecord, CountsALibraryThatDecodingNeeds) {
  const FinishedRun run = ScoredWith(2'000'000);
  const uint64_t total = run.artifact.compressed + 18 + 2'000'000;
  RecordOptions options = Dated();
  options.budget = total;
  const Record record = MakeRecord({run}, options);
  EXPECT_EQ(record.bytes_total, total);
  EXPECT_EQ(SubmissionJson(record)["bytes_total"], total);
  EXPECT_THAT(ReadMe(record), HasSubstr("| library libpacker.so: is part of neither the code, LibTorch nor the system | yes | 2,000,000 |"));
  options.budget = total - 1;
  EXPECT_EQ(Outcome([&] { MakeRecord({run}, options); }),
            "5: " + run.directory + ": over budget by 1 bytes: artifact " + WithCommas(run.artifact.compressed) +
                " + code 18 + library libpacker.so 2,000,000 > " + WithCommas(total - 1));

  // A record that leaves it out, in its total or in its ledger.
  const std::string out = Fresh("counted-without");
  WriteRecord(record, out);
  EXPECT_EQ(Outcome([&] { ReadRecord(out, RecordOptions().budget); }), "done");
  const auto said = [&](const std::string& from, const std::string& to) {
    const std::string kept(InputFile(out + "/submission.json").text());
    Edit(out + "/submission.json", from, to);
    const std::string outcome = Outcome([&] { ReadRecord(out, RecordOptions().budget); });
    WriteFile(out + "/submission.json", kept);
    return outcome;
  };
  EXPECT_THAT(said("\"bytes_total\": " + std::to_string(total), "\"bytes_total\": " + std::to_string(total - 2'000'000)),
              StartsWith("5: " + out + "/submission.json: bytes_total is " + std::to_string(total - 2'000'000)));
  EXPECT_THAT(said("\"bytes\": 2000000", "\"bytes\": 2"), StartsWith("5: " + out + "/submission.json: bytes_ledger is "));
}

TEST(MakeRecord, WhatIsTooLargeIsOfNoTrack) {
  RecordOptions options = Dated();
  options.budget = 20'000'000;
  options.baseline_loss = 2.02;
  std::vector<FinishedRun> runs = ThreeSeeds();
  runs[1].eval["programs"] = ProgramsWith(16'000'000);
  const Record record = MakeRecord(runs, options);
  const Json json = SubmissionJson(record);
  EXPECT_EQ(json["track"], "non-record");
  EXPECT_EQ(json["track_reasons"][0], "seed 42: artifact, code and what else decoding needs have " + WithCommas(record.bytes_total) + " bytes, more than 16,000,000");
  EXPECT_THAT(ReadMe(record), HasSubstr("These runs are outside of it: seed 42: artifact, code"));
}

TEST(ReadRun, RefusesProgramsThatItCannotCount) {
  for (const char* programs : {"3", "[3]", "[{\"name\": \"a\", \"from\": \"code\"}]", "[{\"name\": \"a\", \"from\": \"code\", \"bytes\": -1}]",
                               "[{\"name\": \"a\", \"from\": 1, \"bytes\": 1}]", "[{\"name\": \"a\\u0007\", \"from\": \"code\", \"bytes\": 1}]"}) {
    FakeRun run;
    run.programs = Json::parse(programs);
    EXPECT_THAT(Reading(Finished("programs", run)), HasSubstr("eval.json: programs is no list of programs")) << programs;
  }
}

// What took how long: of the checkpoints' counters, and of the log, where each program says it at its end.
TEST(ReadMe, HasTheClockOfEveryStage) {
  const std::string folder = Finished("clock-of-stages");
  WriteFile(folder + "/train.log", std::string(InputFile(folder + "/train.log").text()) + "ema-finalize: 0.3 s\ngptq-lite: 9.0 s\ngptq-lite: 3.1 s\npack-zstd: 0.2 s\n");
  FinishedRun run = ReadRun(folder);
  run.counters.Set(counter::kWarmupSeconds, 1.25);
  run.counters.Set(counter::kCalibrationSeconds, 2.5);
  const std::string text = ReadMe(MakeRecord({run}, Dated()));
  for (const char* row : {"warm-up, undone, on training data | 1.2 s", "training, on training data | 12.0 s",
                          "of this, calibration for the quantiser, on training data | 2.5 s", "averaging, on weights alone | 0.3 s",
                          "quantising | 3.1 s", "training tokens that quantising read | 0", "packing, on weights alone | 0.2 s",
                          "evaluation, on the artifact and validation data | 1.5 s"})
    EXPECT_THAT(text, HasSubstr(row));
}

TEST(ReadRun, TakesUpAProofOfItsScores) {
  const std::string folder = Finished("proof-of-scores");
  EXPECT_THAT(ReadMe(MakeRecord({ReadRun(folder)}, Dated())), HasSubstr("None was run here (`make prove`)."));
  const Json eval = ReadJson(folder + "/eval.json");
  Json proof = {{"targets", {{"in_all", 12000}, {"scored", 12000}, {"doubled", 0}, {"dropped", 0}, {"learnt_from", 0}}},
                {"bytes", {{"counted", 30000}, {"spelt", 30000}}},
                {"order", {{"events", 7}}},
                {"flips", {{"tokens", 8}, {"scores_kept", 900}}},
                {"sums", {{"distributions", 8}, {"worst", 2e-7}}},
                {"documents", {{"train_documents", 1151}, {"val_documents", 38}, {"shared", 0}, {"near", 2}}},
                {"val_bpb", eval["val_bpb"]},
                {"failures", Json::array()},
                {"proved", true}};
  for (const char* name : {"artifact_digest", "val_digest", "byte_table_digest", "method"}) proof[name] = eval[name];
  const auto write = [&](const Json& json) { WriteFile(folder + "/prove.json", json.dump()); };
  write(proof);
  const std::string text = ReadMe(MakeRecord({ReadRun(folder)}, Dated()));
  for (const char* row : {"targets scored exactly once | 12,000 of 12,000", "distributions summed, largest distance from 1 | 8, 2.0e-07",
                          "documents of training, compared by content | 1,151", "documents of training that are one of validation | 0",
                          "documents of training that are nearly one of validation | 2"})
    EXPECT_THAT(text, HasSubstr(row));
  // One from before, of another artifact, is not of this run.
  Json other = proof;
  other["artifact_digest"] = "aa";
  write(other);
  EXPECT_TRUE(ReadRun(folder).proof.is_null());
  Json failed = proof;
  failed["proved"] = false;
  failed["failures"] = {"3 targets were scored more than once"};
  write(failed);
  EXPECT_THAT(Outcome([&] { ReadRun(folder); }), HasSubstr("the score is not proved: \"3 targets were scored more than once\""));
  proof.erase("sums");
  write(proof);
  EXPECT_THAT(Outcome([&] { ReadRun(folder); }), HasSubstr("is not what eval-sliding --prove writes: misses sums"));
}

TEST(MakeRecord, NeedsThreeSeedsForARecord) {
  std::vector<FinishedRun> runs = ThreeSeeds();
  runs.pop_back();
  RecordOptions options = Dated();
  options.baseline_loss = 3.0;
  const Record two = MakeRecord(runs, options);
  EXPECT_LT(*two.comparison->p_value, kRequiredProbability);
  EXPECT_FALSE(two.comparison->qualifies);
  runs.pop_back();
  const Record one = MakeRecord(runs, options);
  EXPECT_FALSE(one.comparison->p_value);
  EXPECT_FALSE(one.comparison->qualifies);
  EXPECT_FALSE(one.val_loss_std);
}

TEST(MakeRecord, TakesOnlyDaysThatThereAre) {
  const FinishedRun run = ReadRun(Finished("days"));
  for (const char* date : {"2026-02-31", "2026-13-01", " 2026-3-31", "2026-3-311", "2026/03/31", "2026-03-31T"}) {
    RecordOptions options;
    options.date = date;
    EXPECT_EQ(Outcome([&] { MakeRecord({run}, options); }), "2: --date: '" + std::string(date) + "' is no date such as 2026-03-31");
  }
  RecordOptions options;
  options.date = "2028-02-29";
  EXPECT_EQ(Outcome([&] { MakeRecord({run}, options); }), "done");
}

TEST(MakeRecord, RefusesOptionsThatMakeNoSense) {
  const FinishedRun run = ReadRun(Finished("options"));
  RecordOptions options;
  options.date = "2026-02-30x";
  EXPECT_EQ(Outcome([&] { MakeRecord({run}, options); }), "2: --date: '2026-02-30x' is no date such as 2026-03-31");
  options = Dated();
  options.baseline_bpb = options.baseline_loss = 1;
  EXPECT_EQ(Outcome([&] { MakeRecord({run}, options); }), "2: --baseline-loss and --baseline-bpb: give one of them");
}

TEST(SubmissionJson, HasTheFieldsOfTheSpecification) {
  RecordOptions options = Dated();
  options.author = "A. Nonymous";
  options.github_id = "anon";
  options.name = "a \"quoted\"\nname \xff";
  options.blurb = "what it is";
  const Record record = MakeRecord(ThreeSeeds(), options);
  const Json json = SubmissionJson(record);
  EXPECT_EQ(json["author"], "A. Nonymous");
  EXPECT_EQ(json["github_id"], "anon");
  EXPECT_EQ(json["name"], options.name);
  EXPECT_EQ(json["blurb"], "what it is");
  EXPECT_EQ(json["date"], "2026-03-31");
  EXPECT_EQ(json["val_loss"], record.val_loss);
  EXPECT_EQ(json["val_bpb"], record.val_bpb);
  EXPECT_EQ(json["bytes_code"], 18);
  uint64_t largest = 0;
  for (const FinishedRun& run : record.runs) largest = std::max(largest, run.artifact.compressed);
  EXPECT_EQ(json["bytes_total"], largest + 18);
  EXPECT_EQ(json["seeds"], Json({1337, 42, 7}));
  EXPECT_EQ(json["seed_results"]["42"], (Json{{"val_loss", 2.001},
                                              {"val_bpb", FakeRun::BitsPerByte(2.001)},
                                              {"artifact_bytes", record.runs[1].artifact.compressed},
                                              {"steps", 60},
                                              {"step_avg_ms", 200.0}}));
  EXPECT_TRUE(json.contains("val_bpb_std"));
  EXPECT_EQ(json["hardware"], "Abacus 9000, 2 threads");
  EXPECT_EQ(json["pytorch_version"], "2.11.0");
  EXPECT_FALSE(json.contains("baseline"));
}

TEST(SummaryTable, ShowsStepsScoresAndSizes) {
  const Record record = MakeRecord({ReadRun(Finished("summary"))}, Dated());
  const std::vector<std::string> lines = TextLines(SummaryTable(record));
  ASSERT_EQ(lines.size(), 14u);
  EXPECT_THAT(lines[0], HasSubstr("seed 1337"));
  EXPECT_THAT(lines[1], AllOf(HasSubstr("steps"), HasSubstr(" 60")));
  EXPECT_THAT(lines[2], AllOf(HasSubstr("last weights"), HasSubstr(StringPrintf("%.6f", FakeRun::BitsPerByte(2.04)))));
  EXPECT_THAT(lines[6],
              AllOf(HasSubstr("sliding by 64 (the score)"), HasSubstr(StringPrintf("%.6f", FakeRun::BitsPerByte(2)))));
  EXPECT_THAT(lines[7], AllOf(HasSubstr("codes"), HasSubstr(" " + WithCommas(record.runs[0].artifact.codes))));
  EXPECT_THAT(lines[13], HasSubstr("of 16,000,000"));
  for (const std::string& line : lines) EXPECT_EQ(line.size(), lines[0].size());
}

TEST(ReadMe, NamesWhatTheModelHasAndHowItWasScored) {
  FakeRun run;
  for (const auto& [name, value] : std::map<std::string, std::string>{{"rope_dims", "16"}, {"ln_scale", "1"}, {"mlp_negative_slope", "0.5"}})
    run.settings[name] = value;
  FinishedRun read = ReadRun(Finished("options", run));
  read.eval["method"] = "kv_cache";
  const std::string text = ReadMe(MakeRecord({read}, Dated()));
  EXPECT_THAT(text, HasSubstr("# 5L 512d + partial RoPE of 16 dimensions + XSA4 + layer scale + leaky ReLU squared + EMA + late QAT + clip search\n"));
  EXPECT_THAT(text, HasSubstr("sliding by 64, kv_cache (the score)"));
}

TEST(ReadMe, NamesWhatLearnsWhileItIsScored) {
  FinishedRun read = ReadRun(Finished("learns"));
  read.eval["method"] = "ttt";
  read.eval["ttt"] = {{"chunk_tokens", 512}, {"steps", 3}};
  EXPECT_THAT(ReadMe(MakeRecord({read}, Dated())), HasSubstr("# 5L 512d + XSA4 + EMA + late QAT + clip search + score-first TTT\n"));
  read.eval["ttt"] = {{"ttt_lora_rank", "80"}, {"phased_ttt_prefix_docs", "0"}};
  EXPECT_THAT(ReadMe(MakeRecord({read}, Dated())), HasSubstr("clip search + score-first TTT with adapters of rank 80\n"));
  read.eval["ttt"]["phased_ttt_prefix_docs"] = "2500";
  EXPECT_THAT(ReadMe(MakeRecord({read}, Dated())), HasSubstr("clip search + phased score-first TTT with adapters of rank 80\n"));
  read.eval["ngram_order"] = 3;
  EXPECT_THAT(ReadMe(MakeRecord({read}, Dated())), HasSubstr("with adapters of rank 80 + n-gram mixture of order 3\n"));
}

TEST(ReadMe, IsMadeFromCountersAndLineage) {
  const Record record = MakeRecord({ReadRun(Finished("readme"))}, Dated());
  const std::string text = ReadMe(record);
  EXPECT_THAT(text, HasSubstr("# 5L 512d + XSA4 + EMA + late QAT + clip search\n"));
  EXPECT_THAT(text, HasSubstr("| 60 updates |"));
  EXPECT_THAT(text, HasSubstr("| 3 snapshots |"));
  EXPECT_THAT(text, HasSubstr("| 1,230 matrices replaced, from step 55 |"));
  EXPECT_THAT(text, HasSubstr("| of these, won by the quantile 0.999 | 5 |"));
  EXPECT_THAT(text, HasSubstr("| of these, won by the quantile 1 | 3 |"));
  EXPECT_THAT(text, HasSubstr("| weights taken | ema |"));
  EXPECT_THAT(text, HasSubstr("| training time | 12.0 s |"));
  EXPECT_THAT(text, HasSubstr("| 0.30 s (2.50%) |"));
  EXPECT_THAT(text, HasSubstr("num_layers = 5\n"));
  EXPECT_THAT(text, HasSubstr("        - train shards `5ad5`, made by tokenize-shard"));
  EXPECT_THAT(text, HasSubstr("          - text `7e87`\n"));
  EXPECT_THAT(text, Not(HasSubstr(record.runs[0].directory)));
}

std::string SampleJson(const FinishedRun& run) {
  const Json samples = {{{"prompt", ""}, {"text", "In the beginning\n```\x1b[2J " + std::string(90, 'x') + " end"}}, {{"prompt", "Now "}, {"text", "then"}}};
  return Json{{"samples", samples}, {"temperature", 0.8}, {"top_k", 0}, {"top_p", 0.95}, {"seed", 7}, {"identity", run.eval["identity"]}}.dump();
}

TEST(ReadMe, ShowsSamplesAsTextThatCannotBeTakenForMarkup) {
  const std::string directory = Finished("sample");
  WriteFile(directory + "/sample.json", SampleJson(ReadRun(directory)));
  const Record record = MakeRecord({ReadRun(directory)}, Dated());
  EXPECT_THAT(SampleLines(record), ElementsAre("samples from the artifact of seed 1337, with temperature 0.8, top-p 0.95, seed 7:",
                                               "    In the beginning", "    ```\\x1b[2J", "    " + std::string(90, 'x') + " end", "",
                                               "    Now then"));
  EXPECT_THAT(ReadMe(record), HasSubstr("## Samples\n\nThe artifact of seed 1337 wrote this, with temperature 0.8, top-p 0.95, seed 7:\n\n"
                                        "    In the beginning\n    ```\\x1b[2J\n"));
  const std::string out = Fresh("sample-out");
  WriteRecord(record, out);
  EXPECT_TRUE(fs::exists(out + "/sample.json"));
  EXPECT_EQ(ReadRecord(out, 16'000'000).runs[0].samples.size(), 2u);
}

TEST(ReadRun, RefusesSamplesOfAnotherArtifactOrOfAnotherShape) {
  const std::string directory = Finished("sample-other"), path = directory + "/sample.json";
  Json json = Json::parse(SampleJson(ReadRun(directory)));
  const auto with = [&](const char* name, const Json& value) {
    Json changed = json;
    changed[name] = value;
    WriteFile(path, changed.dump());
    return Reading(directory);
  };
  EXPECT_EQ(with("seed", 8), "done");
  EXPECT_THAT(with("identity", "other"), AllOf(StartsWith("5: " + path + ": does not belong"), HasSubstr("it is of the weights \"other\"")));
  EXPECT_EQ(with("identity", 5), "4: " + path + ": is not what eval-sliding --generate prints");
  EXPECT_EQ(with("samples", "text"), "4: " + path + ": is not what eval-sliding --generate prints");
  EXPECT_EQ(with("samples", {"text"}), "4: " + path + ": a sample misses prompt or text");
  EXPECT_EQ(with("top_p", "0.9"), "4: " + path + ": misses top_p");
}

TEST(ReadMe, ShowsTheProgressionOfTheValidationScore) {
  const std::string directory = Finished("progression");
  FinishedRun run = ReadRun(directory);
  EXPECT_THAT(ReadMe(MakeRecord({run}, Dated())),
              HasSubstr("## Progression during training\n\n"
                        "| step | training time | training loss | validation loss | bits per byte |\n|---|---:|---:|---:|---:|\n"
                        "| 0 | - | - | 6.9319 | 4.0003 |\n| 60 | 12.0 s | 2.2492 | 2.1000 | 1.2119 |\n\n"));
  // Of many validations 25, the first and the last among them.
  run.log.validation.clear();
  for (int64_t step = 0; step <= 1000; ++step) run.log.validation.push_back({step, 2, 1});
  const std::string many = ReadMe(MakeRecord({run}, Dated()));
  const std::string table = many.substr(many.find("## Progression"), many.find("## Sizes") - many.find("## Progression"));
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 2 + 2 + 25 + 1);
  EXPECT_THAT(table, AllOf(HasSubstr("\n| 0 |"), HasSubstr("\n| 41 |"), HasSubstr("\n| 1,000 |")));
  EXPECT_THAT(ReadMe(MakeRecord(ThreeSeeds(), Dated())), HasSubstr("| step | bits per byte, seed 1337 |"));
}

TEST(WriteRecord, OneSeedLiesFlat) {
  const std::string out = Fresh("out-one");
  WriteRecord(MakeRecord({ReadRun(Finished("one"))}, Dated()), out);
  EXPECT_THAT(Names(out), ElementsAre("README.md", "before-ema.json", "before-last.json", "before-swa.json",
                                      "eval.json", "loss-curve.png", "loss-curve.svg", "model.bin.zst",
                                      "model.bin.zst.lineage", "source.tar.zst", "submission.json", "train.log"));
  EXPECT_FALSE(fs::exists(TemporaryRoot() + ".out-one.tmp"));
  const Json json = Json::parse(InputFile(out + "/submission.json").text());
  EXPECT_EQ(json["bytes_code"], fs::file_size(out + "/source.tar.zst"));
  EXPECT_EQ(json["bytes_total"], fs::file_size(out + "/source.tar.zst") + fs::file_size(out + "/model.bin.zst"));
}

TEST(WriteRecord, SeveralSeedsHaveFolders) {
  const std::string out = Fresh("out-three");
  const Record record = MakeRecord(ThreeSeeds(), Dated());
  WriteRecord(record, out);
  for (const FinishedRun& run : record.runs) {
    const std::string folder = "/seed-" + std::to_string(run.seed());
    EXPECT_EQ(InputFile(out + folder + "/model.bin.zst").text(), InputFile(run.directory + "/model.bin.zst").text());
    EXPECT_THAT(std::string(InputFile(out + "/README.md").text()),
                HasSubstr("`" + folder.substr(1) + "/model.bin.zst`"));
  }
  EXPECT_TRUE(fs::exists(out + "/source.tar.zst"));
}

TEST(WriteRecord, IsTheSameEveryTimeAndReplacesARecord) {
  // A name that a shell, gnuplot or an option parser would stumble over.
  const std::string run = Finished("-it's a \"run\"\n$(touch x)"), out = Fresh("-it's \"out\"\n");
  WriteRecord(MakeRecord({ReadRun(run)}, Dated()), out);
  const auto first = Files(out);
  WriteFile(out + "/stale", "of an older record");
  WriteRecord(MakeRecord({ReadRun(run)}, Dated()), out + "/");
  EXPECT_EQ(Files(out), first);
}

TEST(WriteRecord, ReplacesNothingButRecords) {
  const Record record = MakeRecord({ReadRun(Finished("replacing"))}, Dated());
  const std::string out = Fresh("precious");
  MakeDirectories(out);
  WriteFile(out + "/thesis.txt", "years of work");
  EXPECT_EQ(Outcome([&] { WriteRecord(record, out); }),
            "4: " + out + ": is in the way: a folder with other things than a record in it is not replaced");
  EXPECT_THAT(Names(out), ElementsAre("thesis.txt"));
  EXPECT_EQ(Outcome([&] { WriteRecord(record, out + "/thesis.txt"); }), "3: " + out + "/thesis.txt: Not a directory");
  fs::remove(out + "/thesis.txt");
  EXPECT_EQ(Outcome([&] { WriteRecord(record, out); }), "done");  // an empty folder is free
  EXPECT_EQ(Outcome([&] { WriteRecord(record, "/"); }), "2: /: cannot be replaced");
}

TEST(WriteRecord, GoesRoundWhatAKilledOneLeft) {
  const std::string out = Fresh("killed"), temporary = TemporaryRoot() + ".killed.tmp";
  MakeDirectories(temporary + "/seed-1");
  WriteFile(temporary + "/seed-1/model.bin.zst", "half");
  WriteRecord(MakeRecord({ReadRun(Finished("after-kill"))}, Dated()), out);
  EXPECT_FALSE(fs::exists(out + "/seed-1"));
  EXPECT_FALSE(fs::exists(temporary));
}

// Where the file system cannot exchange two folders (see OutputFolder::Commit).
TEST(WriteRecord, PutsBackWhatAKilledOneTookAway) {
  const std::string out = Fresh("taken-away"), old = TemporaryRoot() + ".taken-away.tmp.old";
  const std::string run = Finished("taken-away-run");
  WriteRecord(MakeRecord({ReadRun(run)}, Dated()), out);
  const auto before = Files(out);
  fs::rename(out, old);
  fs::remove(run + "/train.log");
  Record record = MakeRecord({ReadRun(Finished("taken-away-other"))}, Dated());
  record.runs[0].directory = run;
  EXPECT_EQ(Outcome([&] { WriteRecord(record, out); }), "3: " + run + "/train.log: No such file or directory");
  EXPECT_EQ(Files(out), before);
  // It was put there already: then the old one is of no use.
  MakeDirectories(old + "/stale");
  WriteRecord(MakeRecord({ReadRun(Finished("taken-away-last"))}, Dated()), out);
  EXPECT_FALSE(fs::exists(old));
}

TEST(WriteRecord, RefusesToWriteBesideAnotherProcess) {
  const std::string out = Fresh("busy"), temporary = TemporaryRoot() + ".busy.tmp";
  MakeDirectories(temporary);
  const int lock = open(temporary.c_str(), O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(flock(lock, LOCK_EX), 0);
  const Record record = MakeRecord({ReadRun(Finished("busy-run"))}, Dated());
  EXPECT_EQ(Outcome([&] { WriteRecord(record, out); }), "3: " + out + ": another process is writing it");
  EXPECT_FALSE(fs::exists(out));
  close(lock);
  EXPECT_EQ(Outcome([&] { WriteRecord(record, out); }), "done");
}

// The old record, on its way out under the name that the next process would work in.
TEST(OutputFolder, NobodyElseWritesWhileTheOldFolderIsRemoved) {
  const std::string out = Fresh("exchanged");
  MakeDirectories(out);
  for (int i = 0; i < 5000; ++i) WriteBytes(out + "/" + std::to_string(i), "");
  WriteBytes(out + "/proof", "0");
  auto first = std::make_unique<OutputFolder>(out, "proof");
  WriteBytes(first->temporary() + "/proof", "1");
  std::jthread committing([&] { first->Commit(); });
  for (bool written = false; !written;) {
    try {
      OutputFolder second(out, "proof");
      WriteBytes(second.temporary() + "/proof", "2");
      second.Commit();
      written = true;
    } catch (const IoError& error) {
      EXPECT_EQ(error.what(), out + ": another process is writing it");
    }
  }
  committing.join();
  EXPECT_EQ(ReadBytes(out + "/proof"), "2");
}

// A record's folder, made of these runs.
std::string Recorded(const std::string& name, std::vector<FinishedRun> runs, const RecordOptions& options = Dated()) {
  const std::string folder = Fresh(name);
  WriteRecord(MakeRecord(std::move(runs), options), folder);
  return folder;
}

std::string Checking(const std::string& record) {
  return Outcome([&] { ReadRecord(record, RecordOptions().budget); });
}

TEST(ReadRecord, TakesWhatWasWritten) {
  EXPECT_EQ(Checking(Recorded("checked-one", {ReadRun(Finished("checked"))})), "done");
  RecordOptions options = Dated();
  options.name = "a \"quoted\"\nname";
  const std::string plain = Recorded("checked-three", ThreeSeeds(), options);
  EXPECT_EQ(Checking(plain), "done");
  options.baseline_loss = 2.02;
  EXPECT_EQ(Checking(Recorded("checked-loss", ThreeSeeds(), options)), "done");
  options.baseline_loss.reset();
  options.baseline_bpb = 1.15;
  const Record record = ReadRecord(Recorded("checked-bpb", ThreeSeeds(), options), options.budget);
  EXPECT_EQ(record.runs[1].seed(), 42);  // in the order that it says
  EXPECT_EQ(SubmissionJson(record), SubmissionJson(MakeRecord(ThreeSeeds(), options)));
}

// The lineage alone says how a recorded run was trained.
TEST(ReadRecord, TakesSettingsFromTheLineage) {
  FakeRun run;
  run.seed = 42;
  run.counters.erase(counter::kEmaUpdates);
  run.settings["ema_enabled"] = "0";
  run.counters[std::string(counter::kFinalizePrefix) + "ema"] = 0;
  const std::string record = Recorded("checked-settings", {ReadRun(Finished("settings", run))});
  EXPECT_EQ(Checking(record), "done");
  const FinishedRun read = ReadRecordedRun(record, record + "/source.tar.zst");
  EXPECT_EQ(read.seed(), 42);
  EXPECT_EQ(read.settings.num_layers, 5);
  EXPECT_EQ(read.settings.iterations, 60);
  EXPECT_FALSE(read.settings.ema_enabled);
  EXPECT_TRUE(read.settings.swa_enabled);
}

TEST(ReadRecord, RefusesWhatItsFilesDoNotBearOut) {
  RecordOptions options = Dated();
  options.baseline_loss = 2.02;
  const std::string record = Recorded("claims", ThreeSeeds(), options), path = record + "/submission.json";
  const std::string whole(InputFile(path).text());
  const Json said = Json::parse(whole);
  const auto with = [&](const std::string& pointer, const Json& value) {
    Json changed = said;
    changed[Json::json_pointer(pointer)] = value;
    WriteFile(path, changed.dump(2));
    const std::string outcome = Checking(record);
    const std::string beginning = "5: " + path + ": ";
    return outcome.starts_with(beginning) ? outcome.substr(beginning.size()) : outcome;
  };
  const std::string shown = ", but the record's files make it ";
  for (const char* pointer : {"/val_loss", "/val_bpb", "/val_loss_std", "/val_bpb_std", "/bytes_total", "/bytes_code",
                              "/seed_results/42/val_loss", "/seed_results/42/val_bpb", "/seed_results/7/artifact_bytes",
                              "/seed_results/1337/steps", "/seed_results/1337/step_avg_ms", "/baseline/val_loss",
                              "/baseline/improvement_nats", "/baseline/required_nats", "/baseline/p_value"}) {
    const Json& value = said[Json::json_pointer(pointer)];
    const Json other = value.is_number_float() ? Json(value.get<double>() * 1.0001) : Json(value.get<int64_t>() + 1);
    std::string name = std::string(pointer).substr(1);
    std::ranges::replace(name, '/', '.');
    EXPECT_THAT(with(pointer, other), testing::StartsWith(name + " is " + other.dump() + shown)) << pointer;
  }
  // What a person says.
  for (const char* name : {"author", "github_id", "name", "blurb"}) EXPECT_EQ(with(std::string("/") + name, "x"), "done");
  EXPECT_EQ(with("/date", "2025-12-31"), "done");
  EXPECT_EQ(with("/track", "non-record-16mb"), "track is \"non-record-16mb\"" + shown + "\"10min_16mb\"");
  EXPECT_EQ(with("/baseline/qualifies", false), "baseline.qualifies is false" + shown + "true");
  EXPECT_EQ(with("/hardware", "Abacus 9001"), "hardware is \"Abacus 9001\"" + shown + "\"Abacus 9000, 2 threads\"");
  EXPECT_EQ(with("/pytorch_version", "3"), "pytorch_version is \"3\"" + shown + "\"2.11.0\"");
  EXPECT_EQ(with("/seeds", {1337, 42}), "seeds is [1337,42]" + shown + "[1337,42,7]");
  EXPECT_EQ(with("/seeds", {42, 1337, 7}), "done");  // another order
  EXPECT_EQ(with("/val_loss", said["val_loss"].get<double>() * (1 + 1e-13)), "done");  // last digits
  EXPECT_EQ(with("/seed_results/5", said["seed_results"]["7"]), "says seed_results.5, of which the record's files show nothing");
  EXPECT_EQ(with("/val_bpb_of_another_text", 1.0), "says val_bpb_of_another_text, of which the record's files show nothing");
}

TEST(ReadRecord, SaysFirstThatARecordIsAnotherPrograms) {
  const std::string folder = Fresh("another-programs");
  fs::create_directories(folder);
  WriteFile(folder + "/submission.json", "{\"author\": \"A\", \"date\": \"2026-03-18T14:56:29Z\", \"val_bpb\": 1.2}");
  WriteFile(folder + "/train.log", "step:1/2 train_loss:6.9 train_time:310ms step_avg:310.20ms\n");
  EXPECT_EQ(Checking(folder), "4: " + folder +
                                  ": is not a record written by make-submission: it has no model.bin.zst.lineage; audit-record "
                                  "compares what any public record claims with its files");
}

TEST(ReadRecord, RefusesWhatItCannotRead) {
  const std::string record = Recorded("unreadable-record", {ReadRun(Finished("unreadable-recorded"))}), path = record + "/submission.json";
  const Json said = Json::parse(InputFile(path).text());
  for (const auto& [name, value] : said.items()) {
    Json changed = said;
    changed.erase(name);
    WriteFile(path, changed.dump());
    EXPECT_EQ(Checking(record), "4: " + path + ": misses " + name);
    changed[name] = nullptr;
    WriteFile(path, changed.dump());
    EXPECT_THAT(Checking(record), testing::StartsWith("4: " + path + ": " + name + " is no "));
  }
  WriteFile(path, "[]");
  EXPECT_EQ(Checking(record), "4: " + path + ": is no JSON object");
  WriteFile(path, "{");
  EXPECT_EQ(Checking(record), "4: " + path + ": is not JSON");
  fs::remove(path);
  EXPECT_EQ(Checking(record), "3: " + path + ": No such file or directory");
}

TEST(ReadRecord, RefusesFilesThatWereExchanged) {
  FakeRun other;
  other.seed = 42;
  const FinishedRun run = ReadRun(Finished("exchanged-run"));
  const std::string foreign = Finished("exchanged-other", other);
  const auto exchanged = [&](const char* name, const std::string& from) {
    const std::string record = Recorded("exchanged", {run});
    fs::copy_file(from + "/" + name, record + "/" + name, fs::copy_options::overwrite_existing);
    return Checking(record);
  };
  const std::string record = TemporaryRoot() + "exchanged/";
  EXPECT_THAT(exchanged("model.bin.zst", foreign), testing::StartsWith("5: " + record + "model.bin.zst.lineage: does not belong"));
  EXPECT_THAT(exchanged("model.bin.zst.lineage", foreign), testing::StartsWith("5: " + record + "model.bin.zst.lineage: does not belong"));
  EXPECT_THAT(exchanged("eval.json", foreign), testing::StartsWith("5: " + record + "eval.json: does not belong"));
  EXPECT_THAT(exchanged("before-ema.json", foreign), testing::StartsWith("5: " + record + "before-ema.json: does not belong"));
  EXPECT_THAT(exchanged("train.log", foreign), testing::StartsWith("5: " + record + "train.log: does not belong"));
  other = {};
  other.source = "another source archive";
  EXPECT_EQ(exchanged("source.tar.zst", Finished("exchanged-source", other)).substr(0, 4), "5: " + record.substr(0, 1));
  // Of the same artifact, but by its counters no average was ever updated.
  other = {};
  other.counters[counter::kEmaUpdates] = 0;
  EXPECT_EQ(exchanged("model.bin.zst.lineage", Finished("exchanged-counters", other)),
            "5: " + TemporaryRoot() + "exchanged: its weights are of the ema, which was never taken (ema.updates is 0)");
}

TEST(ReadRecord, RefusesARunTooFewOrTooMany) {
  const std::string record = Recorded("counted", ThreeSeeds()), path = record + "/submission.json";
  FakeRun fourth;
  fourth.seed = 5;
  const std::string four = Recorded("counted-four", {ReadRun(Finished("counted-fifth", fourth))});
  fs::copy(four, record + "/seed-5", fs::copy_options::recursive);
  EXPECT_EQ(Checking(record), "5: " + path + ": val_loss is 2.001, but the record's files make it 2.00075");
  fs::remove_all(record + "/seed-5");
  EXPECT_EQ(Checking(record), "done");
  fs::rename(record + "/seed-7", record + "/seed-007");
  EXPECT_EQ(Checking(record), "4: " + record + "/seed-007: holds the run of seed 7");
  fs::remove_all(record + "/seed-007");
  EXPECT_THAT(Checking(record), testing::StartsWith("5: " + path + ": val_loss is "));
}

TEST(ReadRecord, HoldsTheBudget) {
  const std::string record = Recorded("checked-budget", {ReadRun(Finished("checked-budget-run"))});
  const uint64_t total = ReadRecord(record, RecordOptions().budget).bytes_total;
  EXPECT_EQ(Outcome([&] { ReadRecord(record, total); }), "done");
  EXPECT_THAT(Outcome([&] { ReadRecord(record, total - 1); }), testing::StartsWith("5: " + record + ": over budget by 1 bytes"));
}

TEST(WriteRecord, LeavesNothingBehindWhereItFails) {
  const std::string run = Finished("vanishing"), out = Fresh("failed");
  const Record record = MakeRecord({ReadRun(run)}, Dated());
  fs::remove(run + "/train.log");
  EXPECT_EQ(Outcome([&] { WriteRecord(record, out); }), "3: " + run + "/train.log: No such file or directory");
  EXPECT_FALSE(fs::exists(out));
  EXPECT_FALSE(fs::exists(TemporaryRoot() + ".failed.tmp"));
}

}  // namespace
}  // namespace fairway
