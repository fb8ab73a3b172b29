#include "common/audit/audit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "common/audit/report.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "tests/common/submission/temporary.h"

namespace fairway {

void PrintTo(const Finding& finding, std::ostream* out) {
  *out << VerdictName(finding.verdict) << " " << finding.check << ": " << finding.claim << " => " << finding.files
       << " [" << finding.files_at << "]";
}

namespace {

using testing::AllOf;
using testing::Contains;
using testing::Field;
using testing::HasSubstr;
using testing::Not;

// A record of three seeds that its files bear out. What a test changes in it is what it is about.
struct Seed {
  int seed = 42;
  double bpb = 1.1000;  // and a loss in the ratio of the published split
  int steps = 5000;
  int train_ms = 599'000;
  double calibration_s = 0.5;
  double eval_ms = 90'000;
  int model_bytes = 15'900'000, code_bytes = 50'000;
  int shards = 80;
  int64_t tokens = 62'021'632;
  double loss_of_bit = 1 / 0.410521;  // nats per token for one bit per byte, over ln 2
  std::string before, after, settings, tail;
};

std::string Log(const Seed& seed) {
  const double loss = seed.bpb * 0.69314718056 * seed.loss_of_bit;
  std::string log = seed.before;
  log += "Running PyTorch 2.9.1+cu128\n";
  log += StringPrintf("train_loader:dataset:fineweb10B_sp1024 train_shards:%d\n", seed.shards);
  log += StringPrintf("val_loader:shards pattern=./fineweb_val_*.bin tokens:%jd\n", seed.tokens);
  log += "model_params:27878489\nworld_size:8 grad_accum_steps:1\n";
  log += "train_batch_tokens:786432 train_seq_len:2048 iterations:20000 max_wallclock_seconds:600.000\n";
  log += StringPrintf("seed:%d\n", seed.seed) + seed.settings;
  for (int step = 1; step <= 12; ++step)
    log += StringPrintf("step:%d/20000 train_loss:%.4f train_time:%dms step_avg:120.00ms\n", step,
                        7 - 0.001 * seed.seed - 0.1 * step, 120 * step);
  log += seed.after;
  log += StringPrintf("stopping_early: wallclock_cap train_time:%dms step:%d/20000\n", seed.train_ms, seed.steps);
  if (seed.calibration_s > 0)
    log += StringPrintf("GPTQ:collecting Hessians from calibration data...\nGPTQ:collected 66 Hessians in %.1fs\n",
                        seed.calibration_s);
  log += "Serialized model: 107886527 bytes\n";
  log += StringPrintf("Code size: %d bytes\nTotal submission size: %d bytes\n", seed.code_bytes,
                      107886527 + seed.code_bytes);
  log += StringPrintf("Serialized model int6+zstd: %d bytes\nTotal submission size int6+zstd: %d bytes\n",
                      seed.model_bytes, seed.model_bytes + seed.code_bytes);
  log += StringPrintf("final_int6_sliding_window val_loss:%.4f val_bpb:%.4f stride:64 eval_time:%.0fms\n", loss,
                      seed.bpb, seed.eval_ms);
  log += StringPrintf("final_int6_sliding_window_exact val_loss:%.8f val_bpb:%.8f\n", loss, seed.bpb);
  return log + seed.tail;
}

class AuditTest : public testing::Test {
 protected:
  AuditTest() : folder_(TemporaryRoot() + "record/") {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    for (const auto& [number, bpb] : {std::pair{42, 1.1000}, {314, 1.1004}, {999, 1.1008}}) {
      Seed seed;
      seed.seed = number;
      seed.bpb = bpb;
      seeds_.push_back(seed);
    }
  }

  // submission.json of three seeds; `fields` go before the others.
  std::string Submission(const std::string& fields = "") const {
    std::string text = "{\n" + fields +
                       " \"name\": \"A record\",\n \"track\": \"10min_16mb\",\n \"val_bpb\": 1.1004,\n \"seeds\": [42, "
                       "314, 999],\n \"seed_results\": {\n";
    for (const Seed& seed : seeds_) {
      text += StringPrintf("  \"%d\": {\"val_bpb\": %.8f, \"artifact_bytes\": %d, \"steps\": %d}%s\n", seed.seed,
                           stated_bpb_.value_or(seed.bpb), seed.model_bytes + seed.code_bytes, 5000,
                           seed.seed == 999 ? "" : ",");
    }
    return text + " }\n}\n";
  }

  void Write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(folder_ + name).parent_path());
    WriteFile(folder_ + name, text);
  }
  void WriteLogs() {
    for (const Seed& seed : seeds_) Write(StringPrintf("train_seed%d.log", seed.seed), Log(seed));
  }
  Audit Run(AuditOptions options = {}) { return AuditFolder(ReadRecordFolder(folder_), options); }
  Audit Whole(const std::string& fields = "") {
    WriteLogs();
    Write("submission.json", Submission(fields));
    return Run();
  }

  std::string folder_;
  std::vector<Seed> seeds_;
  std::optional<double> stated_bpb_;
};

auto Is(Verdict verdict, const std::string& check, const std::string& claim, const std::string& files,
        const std::string& at = "") {
  return AllOf(Field(&Finding::verdict, verdict), Field(&Finding::check, check),
               Field(&Finding::claim, HasSubstr(claim)), Field(&Finding::files, HasSubstr(files)),
               Field(&Finding::files_at, HasSubstr(at)));
}

std::string Contradictions(const Audit& audit) {
  std::string text;
  for (const Finding& finding : audit.findings)
    if (finding.verdict == Verdict::kContradicted)
      text += finding.check + ": " + finding.claim + " => " + finding.files + " [" + finding.files_at + "]\n";
  return text;
}

constexpr Verdict kHolds = Verdict::kHolds, kContradicted = Verdict::kContradicted, kUnknown = Verdict::kUnknown;

TEST_F(AuditTest, ARecordThatItsFilesBearOutIsNotContradicted) {
  const Audit audit = Whole();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings,
              Contains(Is(kHolds, "size", "16,000,000", "15,950,000 bytes, under by 50,000", "train_seed42.log:")));
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "clock", "training within", "599.000 s")));
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "clock", "training and calibration", "599.500 s")));
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "clock", "evaluation", "90.000 s")));
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "score", "val_bpb 1.1004", "mean over 3 logs")));
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "score", "seed_results.val_bpb", "final_int6_sliding_window_exact")));
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "text", "published validation split", "SP1024")));
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "data", "training shards", "80 training shards")));
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "seeds", "42, 314, 999", "3 logs")));
}

TEST_F(AuditTest, ClaimsNameTheirLine) {
  const Audit audit = Whole();
  EXPECT_THAT(audit.findings, Contains(AllOf(Field(&Finding::claim, "val_bpb 1.1004"),
                                             Field(&Finding::claim_at, "submission.json:4"))));
}

TEST_F(AuditTest, SizeOverTheLimit) {
  seeds_[1].model_bytes = 17'442'081;
  seeds_[1].code_bytes = 56'639;
  seeds_[0].code_bytes = seeds_[2].code_bytes = 56'639;
  EXPECT_THAT(Whole().findings, Contains(Is(kContradicted, "size", "16,000,000", "17,498,720 bytes, over by 1,498,720",
                                            "train_seed314.log:")));
}

TEST_F(AuditTest, SizeCountsTheScriptAsShipped) {
  Write("train_gpt.py", std::string(120'000, '#'));
  EXPECT_THAT(
      Whole().findings,
      AllOf(Contains(Is(kHolds, "size", "artifact and code", "under by")),
            Contains(Is(kContradicted, "size", "script as shipped", "over by 20,000", "train_gpt.py")),
            Contains(Is(kContradicted, "logs", "train_gpt.py as shipped", "120,000 bytes; the logs count 50,000"))));
}

TEST_F(AuditTest, ACompressedScriptThatIsNotThereCannotBeTold) {
  for (Seed& seed : seeds_) seed.tail = "Code size (uncompressed): 150000 bytes\n";
  EXPECT_THAT(Whole().findings, Contains(Is(kUnknown, "size", "script as shipped", "over by 50,000")));
}

TEST_F(AuditTest, TrainingOverTheClock) {
  seeds_[2].train_ms = 601'153;
  EXPECT_THAT(Whole().findings, Contains(Is(kContradicted, "clock", "training within 600 s",
                                            "601.153 s, over by 1.153 s", "train_seed999.log:")));
}

TEST_F(AuditTest, AStepThatWasUnderWayIsNoOverrun) {
  seeds_[2].train_ms = 600'050;
  seeds_[2].calibration_s = 0;
  const Audit audit = Whole();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings,
              Contains(Is(kHolds, "clock", "training within 600 s", "over by 0.050 s: the step under way ended")));
}

TEST_F(AuditTest, CalibrationWithinTwoStepsOfTheClockCannotBeTold) {
  seeds_[0].calibration_s = 1.2;  // 600.2 s; a step takes 0.12 s, the log rounds to 0.1 s
  const Audit audit = Whole();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings, Contains(Is(kUnknown, "clock", "training and calibration",
                                          "600.200 s, over by 0.200 s: no more than two steps")));
  seeds_[0].calibration_s = 1.4;
  EXPECT_THAT(Whole().findings,
              Contains(Is(kContradicted, "clock", "training and calibration", "600.400 s, over by 0.400 s")));
}

TEST_F(AuditTest, CalibrationAfterTheClockNamesRunsThatKeepToIt) {
  for (Seed& seed : seeds_) {
    Seed again = seed;
    again.bpb += 0.01;
    again.train_ms = 592'000;
    again.calibration_s = 3.5;
    seed.calibration_s = 6.9;
    Write(StringPrintf("train_seed%d_again.log", seed.seed), Log(again));
  }
  EXPECT_THAT(Whole().findings, Contains(Is(kContradicted, "clock", "training and calibration",
                                            "whose scores are not the claimed ones, took at most 595.500 s")));
}

TEST_F(AuditTest, ACapWithoutATrackIsNoClaim) {
  seeds_[0].train_ms = 600'431;
  seeds_[0].calibration_s = 0;
  WriteLogs();
  std::string submission = Submission();
  submission.erase(submission.find(" \"track\""), sizeof(" \"track\": \"10min_16mb\",\n") - 1);
  Write("submission.json", submission);
  const Audit audit = Run();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings, Contains(Is(kUnknown, "clock", "the cap of its settings",
                                          "600.431 s, over by 0.431 s; no track is stated")));
}

TEST_F(AuditTest, ATrainingTimeWithinAStepOfTheLogsCannotBeTold) {
  const auto stated = [](int ms) { return StringPrintf(" \"seed_times\": {\"42\": {\"train_time_ms\": %d}},\n", ms); };
  const Audit near = Whole(stated(598'950));  // of 599,000, at 120 ms per step
  EXPECT_EQ(Contradictions(near), "");
  EXPECT_THAT(near.findings, Contains(Is(kUnknown, "seconds", "train_time_ms 598950", "less than a step apart")));
  EXPECT_THAT(Whole(stated(598'500)).findings,
              Contains(Is(kContradicted, "seconds", "train_time_ms 598500", "no log has it")));
}

TEST_F(AuditTest, AScoreOfAnEarlierStepIsNotTheArtifacts) {
  for (Seed& seed : seeds_)
    seed.after =
        "step:3000/20000 val_loss:1.8900 val_bpb:1.1200 train_time:360000ms step_avg:120.00ms\n"
        "step:5000/20000 val_loss:1.8400 val_bpb:1.0898 train_time:599000ms step_avg:119.80ms\n";
  WriteLogs();
  Write("submission.json", "{\"val_bpb\": 1.1200}");
  EXPECT_THAT(Run().findings,
              Contains(Is(kContradicted, "score", "val_bpb 1.1200", "only as validation in training, step 3000")));
}

TEST_F(AuditTest, TheScoreInTheName) {
  const auto named = [&](const std::string& name) {
    WriteLogs();
    std::string submission = Submission();
    submission.replace(submission.find("A record"), 8, name);
    Write("submission.json", submission);
    return Run();
  };
  EXPECT_THAT(named("Mixer_0.979556").findings,
              Contains(Is(kContradicted, "score", "\"0.979556\" in name", "val_bpb is 1.1004")));
  EXPECT_THAT(named("Windows, val_bpb=1.100").findings,
              Contains(Is(kHolds, "score", "\"1.100\" in name", "val_bpb is 1.1004")));
  for (const char* name : {"EMA 0.9965, WD=0.095", "from 1.120000"}) EXPECT_EQ(Contradictions(named(name)), "") << name;
}

TEST_F(AuditTest, ValidationDocumentsThatAreTrainedOn) {
  for (Seed& seed : seeds_) {
    seed.tokens = 47'851'520;
    seed.loss_of_bit = 1 / 0.31673;
  }
  EXPECT_THAT(Whole(" \"technique_summary\": \"data by --val-docs=10000\",\n").findings,
              Contains(Is(kContradicted, "data", "\"--val-docs=10000\"", "40,000 of them went into the training shards",
                          "submission.json:2")));
  Write("README.md", "# A record\n\n    prepare.py --val-docs 50000\n");
  const Audit audit = Whole();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings,
              Contains(Is(kHolds, "data", "\"--val-docs 50000\"", "leaves out all 50,000", "README.md:3")));
}

TEST_F(AuditTest, CalibrationAfterTheClock) {
  seeds_[0].calibration_s = 6.9;
  EXPECT_THAT(Whole().findings, Contains(Is(kContradicted, "clock", "training and calibration",
                                            "605.900 s, over by 5.900 s; 6.9 s of it", "train_seed42.log:")));
}

TEST_F(AuditTest, CalibrationOnTextThatTheModelMadeReadsNoTrainingData) {
  for (Seed& seed : seeds_) {
    seed.calibration_s = 0;
    seed.tail = "gptq:generating autoregressive calibration data\ngptq:collected hessians for 68 layers in 199.6s\n";
  }
  const Audit audit = Whole();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "clock", "nothing reads training data", "the model made")));
}

TEST_F(AuditTest, EvaluationOverTheClock) {
  seeds_[0].eval_ms = 605'460;
  EXPECT_THAT(Whole(" \"compliance\": {\"eval_under_600s\": true},\n").findings,
              AllOf(Contains(Is(kContradicted, "clock", "evaluation within", "605.460 s", "train_seed42.log:")),
                    Contains(Is(kContradicted, "clock", "compliance.eval_under_600s", "605.460 s"))));
}

TEST_F(AuditTest, LogsOfOtherExperimentsDoNotCount) {
  WriteLogs();
  Seed wide;
  wide.model_bytes = 17'000'000;
  wide.bpb = 1.05;
  Write("ablation_wide_seed42.log", Log(wide));
  Write("submission.json", "{\"val_bpb\": 1.1004}");
  EXPECT_EQ(Contradictions(Run()), "");
}

TEST_F(AuditTest, AClockOfAnotherMachineCannotBeTold) {
  for (Seed& seed : seeds_) {
    seed.train_ms = 10'775'230;
    seed.before = "world_size:1\n";
  }
  const Audit audit = Whole();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings, Contains(Is(kUnknown, "clock", "training within", "other machines")));
}

TEST_F(AuditTest, ScoresThatNoLogHas) {
  stated_bpb_ = 1.0429;
  EXPECT_THAT(Whole().findings, Contains(Is(kContradicted, "score", "seed_results.42.val_bpb",
                                            "no log has it; the nearest is 1.1000", "train_seed42.log:")));
}

TEST_F(AuditTest, ScoresOfSeedsWithoutALogCannotBeTold) {
  Write("train_seed42.log", Log(seeds_[0]));
  Write("submission.json", Submission());
  const Audit audit = Run();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings, AllOf(Contains(Is(kUnknown, "seeds", "314, 999", "no log")),
                                    Contains(Is(kUnknown, "score", "seed_results.314.val_bpb", "no log of seed 314"))));
}

TEST_F(AuditTest, AScoreBeforeQuantisationIsNotTheArtifacts) {
  for (Seed& seed : seeds_)
    seed.after = "step:5000/20000 val_loss:1.8400 val_bpb:1.0898 train_time:599000ms step_avg:119.80ms\n";
  WriteLogs();
  Write("submission.json", "{\"val_bpb\": 1.0898}");
  EXPECT_THAT(Run().findings, Contains(Is(kUnknown, "score", "val_bpb 1.0898", "not a score of the artifact")));
}

TEST_F(AuditTest, BitsUnderTheNameOfTheLoss) {
  EXPECT_THAT(Whole(" \"val_loss\": 1.1004,\n").findings,
              Contains(Is(kContradicted, "score", "val_loss 1.1004", "is the score in bits per byte")));
}

TEST_F(AuditTest, DeviationOverSeeds) {
  EXPECT_THAT(Whole(" \"val_bpb_std\": 0.0004,\n").findings,
              Contains(Is(kHolds, "score", "val_bpb_std", "sample deviation")));
  EXPECT_THAT(Whole(" \"val_bpb_std\": 0.0001,\n").findings,
              Contains(Is(kContradicted, "score", "val_bpb_std", "0.0004")));
}

TEST_F(AuditTest, OneSeedInSubmissionOfTwo) {
  seeds_.pop_back();
  WriteLogs();
  Write("submission.json", "{\n\"val_bpb\": 1.1004\n}");
  EXPECT_THAT(Run().findings,
              Contains(Is(kUnknown, "seeds", "val_bpb 1.1004 is the score of all seeds",
                          "one seed in submission.json of 2 logged: it is seed 314's; seed 42 1.1000")));
}

TEST_F(AuditTest, StepsThatDisagree) {
  seeds_[0].steps = 4000;
  EXPECT_THAT(
      Whole().findings,
      AllOf(Contains(Is(kContradicted, "steps", "seed_results.42.steps 5000", "4,000", "train_seed42.log:")),
            Contains(Is(kUnknown, "steps", "equal length", "steps disagree: 4,000 (seed 42), 5,000 (seed 314)"))));
}

// A log that ends before its score, after a diagnostic one of the same artifact, contradicts no score.
TEST_F(AuditTest, ALogThatEndsAfterADiagnosticScore) {
  for (Seed& seed : seeds_)
    seed.after = "diagnostic quantized val_loss:1.90000000 val_bpb:1.12500000 eval_time:9129ms\n";
  WriteLogs();
  for (const Seed& seed : seeds_) {
    const std::string name = StringPrintf("train_seed%d.log", seed.seed), log = Log(seed);
    Write(name, log.substr(0, log.find("final_int6")));
  }
  Write("submission.json", Submission());
  const Audit audit = Run();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings, Contains(Is(kUnknown, "score", "val_bpb 1.1004", "")));
}

// The logs have 120.00 and 119.80 ms; a clock that was read elsewhere may have come to 120.30.
TEST_F(AuditTest, AStepTimeHasNoExactPlace) {
  EXPECT_THAT(Whole(" \"step_avg_ms\": 119.80,\n").findings,
              Contains(Is(kHolds, "steps", "step_avg_ms 119.80", "ms per step")));
  const Audit near = Whole(" \"step_avg_ms\": 120.30,\n");
  EXPECT_EQ(Contradictions(near), "");
  EXPECT_THAT(near.findings,
              Contains(Is(kUnknown, "steps", "step_avg_ms 120.30", "no log has it; the nearest is 120")));
  EXPECT_THAT(Whole(" \"step_avg_ms\": 121.50,\n").findings,
              Contains(Is(kContradicted, "steps", "step_avg_ms 121.50", "no log has it; the nearest is 120")));
}

TEST_F(AuditTest, StepsOfTheReadmesTable) {
  Write("README.md", "| Seed | Steps | BPB |\n|---|---|---|\n| 42 | 5,000 | 1.1 |\n| 314 | 5,722 | 1.1 |\n");
  EXPECT_THAT(Whole().findings,
              AllOf(Contains(Is(kHolds, "steps", "seed 42 ran 5000 steps", "5,000")),
                    Contains(Is(kContradicted, "steps", "seed 314 ran 5722 steps", "5,000", "train_seed314.log:"))));
}

TEST_F(AuditTest, BytesCountedTwice) {
  for (Seed& seed : seeds_) seed.loss_of_bit *= 1.17;  // the same bits over 17% more bytes
  EXPECT_THAT(Whole().findings,
              Contains(Is(kContradicted, "text", "published SP1024 split's bytes", "17.0% more bytes counted")));
}

TEST_F(AuditTest, AScoreThatWasCorrectedByItsLossHolds) {
  for (Seed& seed : seeds_) seed.loss_of_bit *= 1.089493;
  WriteLogs();
  Write("submission.json", StringPrintf("{\"val_bpb\": %.6f}", 1.1000 * 1.089493));
  EXPECT_THAT(Run().findings, Contains(Is(kHolds, "score", "val_bpb",
                                          "over the 151,080,891 bytes of the text; the line itself says 1.1000")));
  // And of its lines, which count other bytes, nothing is claimed.
  const Audit audit = Run();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(
      audit.findings,
      Contains(Is(kHolds, "text", "the claimed score is over the published SP1024 split's bytes", "counts 8.9% more")));
}

TEST_F(AuditTest, APartOfTheSplit) {
  for (Seed& seed : seeds_) seed.tokens = 9'660'000;
  EXPECT_THAT(Whole().findings, Contains(Is(kContradicted, "text", "the whole validation split",
                                            "9,660,000 tokens of the published SP1024 split's 62,021,632")));
}

TEST_F(AuditTest, AMixtureOverASubset) {
  for (Seed& seed : seeds_)
    seed.tail = StringPrintf("ppm_mix bytes=10982035 mix_bpb=%.6f mode=binary\n", seed.bpb - 0.1);
  WriteLogs();
  Write("submission.json", "{\"track\": \"10min_16mb\", \"val_bpb\": 1.0004}");
  EXPECT_THAT(Run().findings, Contains(Is(kContradicted, "text", "the claimed score is of the whole",
                                          "ppm_mix is over 10,982,035 bytes of 151,080,891")));
}

TEST_F(AuditTest, AnUnknownTokenizerCannotBeTold) {
  for (Seed& seed : seeds_) {
    seed.tokens = 36'335'616;
    seed.loss_of_bit = 1 / 0.2405;
  }
  const Audit audit = Whole();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings, Contains(Is(kUnknown, "text", "published validation split", "no published tokenizer's")));
  EXPECT_THAT(Whole(" \"blurb\": \"a casefold vocabulary\",\n").findings,
              Contains(Is(kUnknown, "text", "published validation split", "blurb (line 2) says \"casefold\"")));
}

TEST_F(AuditTest, MoreShardsThanThereIsText) {
  for (Seed& seed : seeds_) {
    seed.shards = 1499;
    seed.tokens = 47'851'520;
    seed.loss_of_bit = 1 / 0.31673;
  }
  EXPECT_THAT(Whole().findings, Contains(Is(kContradicted, "data", "training shards",
                                            "1,499 training shards; all documents make only 151")));
  // Shards of another making, of which nobody knows a leak.
  for (Seed& seed : seeds_) seed.shards = 191;
  const Audit audit = Whole();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings, Contains(Is(kUnknown, "data", "training shards", "191 training shards")));
}

TEST_F(AuditTest, TechniquesThatActedAndThoseWithoutASign) {
  for (Seed& seed : seeds_)
    seed.after = "swa:start step:4600\nlayer_loop:enabled step:2888 frac:0.500 encoder:[0, 1]\n";
  const Audit audit = Whole(" \"blurb\": \"SWA, late QAT when the rate falls, depth recurrence; no TTT\",\n");
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "techniques", "SWA", "swa:start step:4600", "train_seed42.log:")));
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "techniques", "depth recurrence", "layer_loop:enabled step:2888")));
  EXPECT_THAT(audit.findings, Contains(Is(kUnknown, "techniques", "late QAT", "no sign of it having acted in 3 logs")));
  EXPECT_THAT(audit.findings, Not(Contains(Field(&Finding::claim, HasSubstr("test-time training")))));
}

TEST_F(AuditTest, EmaOfWhichOnlyTheOtherAverageWasExported) {
  for (Seed& seed : seeds_) seed.tail = "swa:applying averaged 23 checkpoints\n";
  EXPECT_THAT(Whole(" \"blurb\": \"EMA throughout training\",\n").findings,
              Contains(Is(kContradicted, "techniques", "EMA",
                          "no sign of it having acted; what was exported: swa:applying averaged 23 checkpoints",
                          "train_seed42.log:")));
}

TEST_F(AuditTest, ATechniqueThatTheScriptDoesNotHave) {
  Write("train_gpt.py", "import torch\ndef main():\n  swa = 1\n");
  EXPECT_THAT(Whole(" \"blurb\": \"late QAT\",\n").findings,
              Contains(Is(kContradicted, "techniques", "late QAT", "the script has nothing of that name")));
}

TEST_F(AuditTest, ASwitchThatIsOff) {
  for (Seed& seed : seeds_) seed.settings = "Hyperparameters:\n  gated_attn_enabled: False\n  num_loops: 2\n";
  const Audit audit = Whole(" \"blurb\": \"Gated attention, depth recurrence\",\n");
  EXPECT_THAT(audit.findings, Contains(Is(kContradicted, "techniques", "gated attention",
                                          "switched off: gated_attn_enabled: False", "train_seed42.log:")));
  // One that is on is no sign that it began.
  EXPECT_THAT(audit.findings, Contains(Is(kUnknown, "techniques", "depth recurrence",
                                          "set (num_loops: 2), but no line says that it acted")));
}

TEST_F(AuditTest, NumbersInTheTexts) {
  for (Seed& seed : seeds_)
    seed.settings =
        "Hyperparameters:\n  qk_gain_init: 4.0\n  loop_start: 3\n  loop_end: 5\n  muon_wd: 0.09\n  min_lr: 0.1\n"
        "layer_loop:enabled step:2000 encoder:[0, 1, 2, 3, 4, 5]\n";
  const Audit audit = Whole(" \"blurb\": \"QK-Gain 5.0, Loop4-5, WD 0.090 (was WD 0.04), MIN_LR=0.10\",\n");
  EXPECT_THAT(audit.findings, Contains(Is(kContradicted, "settings", "QK-Gain 5.0", "qk_gain_init: 4.0")));
  EXPECT_THAT(audit.findings,
              Contains(Is(kContradicted, "settings", "Loop4-5",
                          "loop_start: 3, loop_end: 5; layer_loop:enabled step:2000 encoder:[0, 1, 2, 3, 4, 5]",
                          "train_seed42.log:")));
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "settings", "WD 0.090", "muon_wd: 0.09")));
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "settings", "MIN_LR=0.10", "min_lr: 0.1")));
}

TEST_F(AuditTest, NumbersThatWereChangedInTheTexts) {
  for (Seed& seed : seeds_)
    seed.settings = "Hyperparameters:\n  qk_gain_init: 5.25\n  warmdown_frac: 0.72\n  min_lr: 0.1\n";
  const Audit audit = Whole(" \"blurb\": \"QK-Gain 4.0 -> 5.25, warmdown 3500 in the base, MIN_LR=0.0 to 0.1\",\n");
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings, AllOf(Contains(Is(kHolds, "settings", "QK-Gain 4.0", "qk_gain_init: 5.25")),
                                    Contains(Is(kHolds, "settings", "MIN_LR=0.0", "min_lr: 0.1"))));
}

TEST_F(AuditTest, SettingsOfTheReadmesCommand) {
  for (Seed& seed : seeds_) seed.settings = "Hyperparameters:\n  matrix_lr: 0.026\n  ema_decay: 0.997\n";
  Write("README.md",
        "# Run\nMATRIX_LR=0.5 is not in a block\n```bash\nMATRIX_LR=0.026 EMA_DECAY=0.9965 SEED=42 \\\n  torchrun "
        "train_gpt.py\n```\n");
  EXPECT_THAT(Whole().findings,
              AllOf(Contains(Is(kContradicted, "command", "EMA_DECAY=0.9965", "ema_decay: 0.997", "train_seed42.log:")),
                    Contains(Is(kHolds, "command", "1 settings", "same values"))));
}

TEST_F(AuditTest, KeySettingsOfSubmission) {
  for (Seed& seed : seeds_) seed.settings = "Hyperparameters:\n  lqer_rank: 4\n";
  EXPECT_THAT(Whole(" \"key_settings\": {\"LQER_RANK\": 2},\n").findings,
              Contains(Is(kContradicted, "settings", "key_settings.LQER_RANK 2", "lqer_rank: 4")));
}

TEST_F(AuditTest, ALogOfAnotherSeedThanItsName) {
  seeds_[0].before = "seed:1337\n";
  EXPECT_THAT(Whole().findings, Contains(Is(kContradicted, "seeds", "train_seed42.log is of seed 42",
                                            "its settings say seed 1337", "train_seed42.log:1")));
}

TEST_F(AuditTest, ALogOfAnotherSeedStartsAsThatSeedDoes) {
  WriteLogs();
  std::string copy = Log(seeds_[0]);
  copy.replace(copy.find("step:12/20000 train_loss:"), 25, "step:12/20000 train_loss:1");
  Write("train_seed7.log", copy);
  Write("submission.json", Submission());
  EXPECT_THAT(Run().findings,
              Contains(Is(kContradicted, "seeds", "train_seed7.log is of seed 7",
                          "its settings say seed 42, and its first losses are those of train_seed42.log")));
}

TEST_F(AuditTest, OneRunUnderTwoSeeds) {
  WriteLogs();
  std::string copy = Log(seeds_[0]);
  copy.replace(copy.find("seed:42"), 7, "seed:314");
  Write("train_seed314.log", copy);
  Write("submission.json", Submission());
  EXPECT_THAT(Run().findings,
              Contains(Is(kContradicted, "seeds", "are two runs", "all 12 logged training losses are the same")));
}

TEST_F(AuditTest, TheSameBytesTwiceAreOneLog) {
  WriteLogs();
  Write("train.log", Log(seeds_[0]));
  Write("submission.json", Submission());
  const Audit audit = Run();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "seeds", "42, 314, 999", "3 logs")));
}

TEST_F(AuditTest, LogsOfScriptsOfDifferentSizes) {
  seeds_[0].code_bytes = 50'117;
  seeds_[0].model_bytes = 15'899'883;
  EXPECT_THAT(Whole().findings, Contains(Is(kContradicted, "logs", "the record's one script", "50,000, 50,117")));
  // A line end at the end of the file.
  seeds_[0].code_bytes = 50'001;
  seeds_[0].model_bytes = 15'899'999;
  const Audit audit = Whole();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings, Contains(Is(kUnknown, "logs", "the record's one script", "50,000, 50,001")));
}

TEST_F(AuditTest, CodeThatTheRecordsOwnTotalDoesNotCount) {
  EXPECT_THAT(Whole(" \"bytes_total\": 15950000,\n \"bytes_code\": 49859,\n").findings,
              Contains(Is(kContradicted, "bytes", "bytes_code 49859",
                          "bytes_total 15950000 (line 2) counts 50,000 bytes of code", "train_seed314.log:")));
  // Another log's code, which that total does not count either.
  seeds_[2].code_bytes = 51'000;
  WriteLogs();
  Write("submission.json", "{\"val_bpb\": 1.1000, \"bytes_total\": 15950000, \"bytes_code\": 51000}");
  EXPECT_THAT(Run().findings, Contains(Is(kContradicted, "bytes", "bytes_code 51000", "counts 50,000 bytes of code")));
}

TEST_F(AuditTest, CodeThatWasShortenedAfterTheRunsCannotBeTold) {
  // The total is the logged artifact with the shorter script.
  for (const char* fields : {" \"bytes_total\": 15947000,\n \"bytes_code\": 47000,\n", " \"bytes_code\": 50001,\n"}) {
    const Audit audit = Whole(fields);
    EXPECT_EQ(Contradictions(audit), "") << fields;
    EXPECT_THAT(audit.findings, Contains(Is(kUnknown, "bytes", "bytes_code", "the logs count 50,000"))) << fields;
  }
}

TEST_F(AuditTest, TheLargestOfMoreSeedsThanAreLoggedCannotBeTold) {
  const Audit audit = Whole(" \"extended_seeds\": [42, 7],\n \"artifact_bytes_max\": 15993334,\n");
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings,
              Contains(Is(kUnknown, "bytes", "artifact_bytes_max 15993334", "not every seed's log is here")));
  EXPECT_THAT(Whole(" \"artifact_bytes_max\": 15993334,\n").findings,
              Contains(Is(kContradicted, "bytes", "artifact_bytes_max 15993334", "no log has it")));
}

TEST_F(AuditTest, ARoundedSizeIsNoOtherSize) {
  const Audit audit = Whole(" \"bytes_total\": 15900000,\n");  // of 15,950,000, cut off
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "bytes", "bytes_total 15900000", "artifact")));
  EXPECT_THAT(Whole(" \"bytes_total\": 15700000,\n").findings,
              Contains(Is(kContradicted, "bytes", "bytes_total 15700000", "no log has it")));
}

TEST_F(AuditTest, ALogThatIsCutOff) {
  WriteLogs();
  const std::string log = Log(seeds_[2]);
  Write("train_seed999.log", log.substr(0, log.find("stopping_early")));
  Write("submission.json", Submission());
  const Audit audit = Run();
  EXPECT_THAT(audit.findings, Contains(Is(kUnknown, "logs", "train_seed999.log is whole",
                                          "without a score of the artifact and without the end of training")));
  EXPECT_EQ(Contradictions(audit), "");
}

TEST_F(AuditTest, SeedsAndMeansInOtherPlaces) {
  WriteLogs();
  Write("submission.json",
        "{\"val_bpb\": {\"mean\": 1.1004, \"std\": 0.0004}, \"seed_42_val_bpb\": 1.1, \"val_bpb_seed314\": 1.2,\n"
        " \"runs\": [{\"seed\": 999, \"val_bpb\": 1.1008}], \"code_bytes\": \"50000\"}");
  const Audit audit = Run();
  EXPECT_THAT(audit.findings,
              AllOf(Contains(Is(kHolds, "score", "val_bpb.mean 1.1004", "mean over 3 logs")),
                    Contains(Is(kHolds, "score", "seed_42_val_bpb", "exact")),
                    Contains(Is(kHolds, "score", "val_bpb.std", "deviation")),
                    Contains(Is(kContradicted, "score", "val_bpb_seed314 1.2", "no log has it")),
                    Contains(Is(kHolds, "score", "runs.0.val_bpb 1.1008", "exact", "train_seed999.log"))));
}

// As many keys as there are seeds, one of which is no place in their list; and numbers that are no seeds.
TEST_F(AuditTest, KeysThatLookLikePlacesAndSeedsThatAreNone) {
  WriteLogs();
  Write("submission.json",
        "{\"seeds\": [42, 1e300], \"bits\": {\"-1\": 6, \"90000000000\": 6}, \"seed\": 1e40, \"runs\": [{\"seed\": 0.5, \"val_bpb\": 1.1}],\n"
        " \"extended_seeds\": [-1e300], \"val_bpb_max\": 9}");
  EXPECT_THAT(Run().findings, AllOf(Contains(Is(kHolds, "seeds", "runs of seeds 42", "1 log")), Contains(Is(kUnknown, "score", "val_bpb_max 9", ""))));
}

TEST_F(AuditTest, ProbabilityAgainstABaseline) {
  WriteLogs();
  Write("submission.json", Submission());
  EXPECT_THAT(Run({.baseline_bpb = 1.12}).findings, Contains(Is(kHolds, "baseline", "beats 1.120000", "p = ")));
  EXPECT_THAT(Run({.baseline_bpb = 1.1005}).findings,
              Contains(Is(kContradicted, "baseline", "beats 1.100500", "p = ")));
  // One that the record states, without a word of p, is shown.
  Write("submission.json", Submission(" \"comparison_baseline_bpb\": 1.1005,\n \"delta_vs_baseline_bpb\": -0.0001,\n"));
  EXPECT_THAT(Run().findings, AllOf(Contains(Is(kUnknown, "baseline", "beats 1.100500", "p = ")),
                                    Contains(Is(kHolds, "baseline", "delta_vs_baseline_bpb", "-0.0001"))));
}

TEST_F(AuditTest, Environment) {
  EXPECT_THAT(Whole(" \"hardware\": \"8xH100 80GB\",\n \"pytorch_version\": \"2.9+\",\n").findings,
              AllOf(Contains(Is(kHolds, "environment", "hardware", "world_size 8")),
                    Contains(Is(kHolds, "environment", "pytorch_version", "2.9.1"))));
  EXPECT_THAT(Whole(" \"hardware\": \"1xRTX5090\",\n \"pytorch_version\": \"2.11.0\",\n").findings,
              AllOf(Contains(Is(kContradicted, "environment", "hardware", "world_size 8")),
                    Contains(Is(kContradicted, "environment", "pytorch_version", "2.9.1"))));
}

TEST_F(AuditTest, TheLayoutSinceApril) {
  Write("train_seed42.log",
        "Hyperparameters:\n  seed: 42\n  world_size: 8\n  vocab_size: 8192\ntrain_shards: 128\nval_tokens: "
        "40540160\n0/20000 val_loss: 9.0090 val_bpb: 3.4877\n"
        "500/20000 train_loss: 3.3342 train_time: 0.8m tok/s: 8242436\nema:applying EMA weights\nstopping_early: "
        "wallclock_cap train_time: 588136ms step: 4986/20000\n"
        "Code size: 15516 bytes\nSerialized model quantized+brotli: 15973467 bytes\nTotal submission size "
        "quantized+brotli: 15988983 bytes\n"
        "quantized_sliding_window val_loss:2.80691494 val_bpb:1.08664424 eval_time:84115ms\n");
  Write("submission.json",
        "{\"track\": \"10min_16mb\", \"blurb\": \"EMA, SP8192\", \"val_bpb\": 1.08664, \"val_loss\": 2.80691, "
        "\"bytes_total\": 15988983, \"bytes_code\": 15516}");
  const Audit audit = Run();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings,
              AllOf(Contains(Is(kHolds, "score", "val_bpb", "quantized_sliding_window", "train_seed42.log:14")),
                    Contains(Is(kHolds, "techniques", "EMA", "ema:applying")),
                    Contains(Is(kHolds, "settings", "SP8192", "vocab_size: 8192")),
                    Contains(Is(kHolds, "data", "training shards", "128"))));
}

TEST_F(AuditTest, ARecordOfOurs) {
  Write("train.log",
        "seed:7\nworld_size:1 grad_accum_steps:1\n"
        "step:1/20 train_loss:6.9 train_time:10ms step_avg:10.00ms\n"
        "step:20/20 train_loss:6.0 train_time:963ms step_avg:48.15ms\n"
        "calibration: 32 windows of 256 tokens, of the weights of ema, in 1.2 s\n"
        "calibration: 32 windows of 256 tokens read from the training checkpoint in 0.0 s\n");
  Write("eval.json", "{\"val_loss\": 6.079578933166001,\n \"val_bpb\": 3.154451498451734}");
  Write("model.bin.zst", std::string(67'400, 'x'));
  Write("source.tar.zst", std::string(2227, 'x'));
  Write(
      "submission.json",
      "{\"val_loss\": 6.079578933166001, \"val_bpb\": 3.154451498451734, \"bytes_total\": 69627, \"bytes_code\": 2227, "
      "\"seeds\": [7], \"seed_results\": {\"7\": {\"val_bpb\": 3.154451498451734, \"artifact_bytes\": 67400, "
      "\"steps\": 20, \"step_avg_ms\": 108.16}}}");
  const Audit audit = Run();
  EXPECT_EQ(Contradictions(audit), "");
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "bytes", "bytes_total", "sizes of the files")));
  EXPECT_THAT(audit.findings, Contains(Is(kHolds, "score", "seed_results.7.val_bpb", "eval.json", "eval.json:2")));
  EXPECT_THAT(audit.findings, Not(Contains(Field(&Finding::check, "logs"))));
}

TEST_F(AuditTest, WhatCannotBeReadIsNamed) {
  using std::string_literals::operator""s;
  Write("submission.json", "{\"val_bpb\": ");
  Write("train.log", "\0\xff\n\n===\nstep:x/y train_loss:\nval_bpb:\n"s);
  std::filesystem::create_symlink("/etc/passwd", folder_ + "link.log");
  const Audit audit = Run();
  EXPECT_THAT(audit.findings, AllOf(Contains(Is(kUnknown, "files", "submission.json", "is not JSON")),
                                    Contains(Is(kUnknown, "files", "a training log", "none of the files")),
                                    Contains(Is(kUnknown, "files", "every file", "link.log (a link)"))));
  EXPECT_THROW(ReadRecordFolder(folder_ + "nowhere"), IoError);
}

TEST_F(AuditTest, AnEmptyFolderHasAVerdict) {
  EXPECT_THAT(Run().findings, Contains(Is(kUnknown, "files", "submission.json", "there is none")));
}

TEST_F(AuditTest, ReportsAreInOrderAndPrintable) {
  seeds_[0].model_bytes = 16'000'000;
  Audit audit = Whole(" \"note_bytes_total\": 3,\n");
  const std::vector<std::string> lines = AuditLines(audit);
  EXPECT_EQ(lines[0], "record");
  EXPECT_THAT(lines[1], HasSubstr("contradicted"));
  EXPECT_THAT(lines.back(), HasSubstr("cannot be told"));
  const auto json = AuditJson(audit);
  EXPECT_EQ(json["contradicted"], audit.Count(kContradicted));
  EXPECT_EQ(json["findings"].size(), audit.findings.size());
  EXPECT_EQ(json["findings"][0]["verdict"], "contradicted");
  const Table table = AuditTable({audit}, true);
  ASSERT_EQ(table.size(), 2u);
  EXPECT_THAT(table[1].back(), HasSubstr("size: artifact and code within"));
}

}  // namespace
}  // namespace fairway
