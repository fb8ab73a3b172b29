#include "common/tool/tool.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/interrupt.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "tests/terminal.h"

namespace fairway {
namespace {

using ::testing::ContainsRegex;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

struct Outcome {
  int status;
  std::string out, err;
};

// A program like ours: what it was given, and what it does with it.
struct Program {
  std::string in, out, text = "unset", side;
  std::vector<std::string> words;
  int64_t count = 7;
  double share = 0.5;
  bool flag = false, ran = false;
  Settings settings;
  std::function<Json()> body = [] { return Json{{"tool", "demo"}}; };

  Outcome Run(std::vector<std::string> arguments) {
    for (const SettingInfo& info : SettingTable()) unsetenv(info.Environment().c_str());
    return RunInEnvironment(std::move(arguments));
  }

  Outcome RunInEnvironment(std::vector<std::string> arguments) {
    CommandLine line("demo", "Shows what every program does.", "demo in.ckpt out.ckpt\n  demo --flag in.ckpt -");
    line.Input("IN", in, "what is read");
    line.Output("OUT", out, "what is written");
    line.Optional();
    line.Option("--text", text, "any text");
    line.Option("--word", words, "a word; may be given several times");
    line.Option("--count", count, 1, 22, "a whole number");
    line.Option("--share", share, 0, 1, "a number");
    line.OutputOption("--side", side, "written too");
    line.Flag("--flag", flag, "a flag");
    line.Use(settings, scope::kFinalize | scope::kQuantise);

    arguments.insert(arguments.begin(), "path/to/demo");
    std::vector<char*> argv;
    for (std::string& word : arguments) argv.push_back(word.data());
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const int status = RunTool(line, static_cast<int>(argv.size()), argv.data(), [&] {
      ran = true;
      return body();
    });
    std::string written = ::testing::internal::GetCapturedStdout();
    return {status, std::move(written), ::testing::internal::GetCapturedStderr()};
  }
};

// --- how a program ends

TEST(RunTool, PrintsOneJsonLineAndItsCommandLine) {
  Program program;
  program.body = [] { return Json{{"tool", "demo"}, {"text", "two\nlines"}, {"bytes", 3}}; };
  const Outcome outcome = program.Run({"it's in", "out"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.out, "{\"tool\":\"demo\",\"text\":\"two\\nlines\",\"bytes\":3}\n");
  EXPECT_EQ(outcome.err, "demo 'it'\\''s in' out\n");
  EXPECT_EQ(QuotedCommand(), "demo 'it'\\''s in' out");
}

TEST(RunTool, PrintsNothingForANullResult) {
  Program program;
  program.body = [] { return nullptr; };
  EXPECT_EQ(program.Run({"in", "out"}).out, "");
}

TEST(RunTool, TextThatIsNotUtf8IsShownAsFarAsItGoes) {
  Program program;
  program.body = [] { return Json{{"path", "a\xff"}}; };
  const Outcome outcome = program.Run({"in", "out"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.out, "{\"path\":\"a\xef\xbf\xbd\"}\n");
}

TEST(RunTool, EachFailureHasItsStatusAndPrintable) {
  const auto fails = [](auto error) {
    Program program;
    program.body = [&]() -> Json { throw error; };
    const Outcome outcome = program.Run({"in", "out"});
    EXPECT_EQ(outcome.out, "");
    EXPECT_THAT(outcome.err, StartsWith("demo in out\n"));  // the line that was given
    return std::to_string(outcome.status) + " " + outcome.err.substr(std::string("demo in out\n").size());
  };
  EXPECT_EQ(fails(UsageError("--x: is wrong")), "2 demo: --x: is wrong\n");
  EXPECT_EQ(fails(IoError("a.ckpt", "No such file or directory")), "3 demo: a.ckpt: No such file or directory\n");
  EXPECT_EQ(fails(InputError("a.ckpt", "is empty")), "4 demo: a.ckpt: is empty\n");
  EXPECT_EQ(fails(GateError("over budget")), "5 demo: over budget\n");
  EXPECT_EQ(fails(Error(ExitStatus::kInternal, "broken")), "1 demo: broken\n");
  EXPECT_EQ(fails(std::bad_alloc()), "1 demo: out of memory\n");
  EXPECT_EQ(fails(std::logic_error("first\nstack of calls\n")), "1 demo: internal error: first\n");
}

TEST(RunTool, MemoryThatRunsOutIsNoCrash) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "skipped: a sanitizer's allocator ends the program itself";
#endif
  Program program;
  program.body = [] {
    volatile size_t size = std::numeric_limits<ptrdiff_t>::max() / 2;  // the compiler must not see that it is too much
    return Json(std::vector<char>(size).size());
  };
  const Outcome outcome = program.Run({"in", "out"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.err, EndsWith("demo: out of memory\n"));
}

TEST(RunTool, AnInterruptShowsInTheStatusBehindTheResult) {
  const pid_t child = fork();
  if (child == 0) {
    Program program;
    program.body = [] {
      CatchInterrupts();
      raise(SIGTERM);
      return Json{{"finished", false}};
    };
    const Outcome outcome = program.Run({"in", "out"});
    _exit(outcome.out == "{\"finished\":false}\n" ? outcome.status : 99);
  }
  int status;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 128 + SIGTERM);
}

// Of a program whose standard output is a full disk.
int StatusOnAFullDisk(const std::function<Json()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    stdout = fopen("/dev/full", "w");  // nothing is buffered yet
    CommandLine line("demo", "Shows.", "demo");
    char name[] = "demo";
    char* argv[] = {name};
    _exit(RunTool(line, 1, argv, body));
  }
  int status;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// Also one that is longer than the buffer.
TEST(RunTool, AResultThatCannotBeWrittenIsAFailure) {
  for (const size_t size : {1u, 100'000u}) EXPECT_EQ(StatusOnAFullDisk([&] { return Json{{"tool", std::string(size, 'x')}}; }), 3) << size;
}

// An interrupted program's own status tells more than that its reader was interrupted, too.
TEST(RunTool, WhereTheReaderHasGoneTheSignalIsTheStatus) {
  EXPECT_EQ(StatusOnAFullDisk([] {
              NoteInterrupt(SIGTERM);
              return Json{{"tool", "demo"}};
            }),
            128 + SIGTERM);
}

TEST(RunTool, TheResultMakesWayForACheckpointOnStandardOutput) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"in", "-"}, {"in", "--side", "-"}, {"in", "o", "--side=-"}}) {
    Program program;
    const Outcome outcome = program.Run(words);
    EXPECT_EQ(outcome.out, "") << words.back();
    EXPECT_THAT(outcome.err, EndsWith("\n{\"tool\":\"demo\"}\n"));
  }
  Program reader;  // standard input is another matter
  EXPECT_EQ(reader.Run({"-", "out"}).out, "{\"tool\":\"demo\"}\n");
}

// --- what a command line may say

TEST(CommandLine, ValuesArriveWhereTheyBelong) {
  Program program;
  const Outcome outcome = program.Run({"in", "--count=22", "--share", ".25", "--flag", "out", "--text", "--dashes"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(program.in, "in");
  EXPECT_EQ(program.out, "out");
  EXPECT_EQ(program.count, 22);
  EXPECT_EQ(program.share, 0.25);
  EXPECT_EQ(program.text, "--dashes");
  EXPECT_TRUE(program.flag);
}

TEST(CommandLine, WhatIsNotGivenStaysAsItWas) {
  Program program;
  EXPECT_EQ(program.Run({"in"}).status, 0);
  EXPECT_EQ(program.out, "");
  EXPECT_EQ(program.count, 7);
  EXPECT_EQ(program.text, "unset");
  EXPECT_FALSE(program.flag);
}

TEST(CommandLine, WhatItCannotTakeIsRefusedBeforeAnythingRuns) {
  const auto refused = [](std::vector<std::string> words) {
    Program program;
    const Outcome outcome = program.Run(std::move(words));
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.out, "");
    EXPECT_FALSE(program.ran);
    return outcome.err;
  };
  EXPECT_EQ(refused({}), "demo: IN is required (see --help)\n");
  EXPECT_EQ(refused({"in", "--no-such", "out"}), "demo: unexpected: --no-such (see --help)\n");
  EXPECT_EQ(refused({"--no-such"}), "demo: unexpected: --no-such (see --help)\n");
  EXPECT_EQ(refused({"in", "--fla"}), "demo: unexpected: --fla (see --help)\n");  // no abbreviations
  EXPECT_EQ(refused({"in", "out", "more", "words"}), "demo: unexpected: more words (see --help)\n");
  EXPECT_EQ(refused({"in", "--count", "23"}), "demo: --count = '23' must be between 1 and 22\n");
  EXPECT_EQ(refused({"in", "--count", "-1"}), "demo: --count = '-1' must be between 1 and 22\n");
  for (const char* text : {"many", "0x10", "1e1", "5.5", "+5", " 5", ""})
    EXPECT_EQ(refused({"in", "--count", text}), "demo: --count = '" + std::string(text) + "' is not a whole number\n");
  EXPECT_EQ(refused({"in", "--count", "99999999999999999999"}), "demo: --count = '99999999999999999999' is more than 9223372036854775807\n");
  EXPECT_EQ(refused({"in", "--share", "1.5"}), "demo: --share = '1.5' must be between 0 and 1\n");
  for (const char* text : {"nan", "inf", "0,5", ""})
    EXPECT_EQ(refused({"in", "--share", text}), "demo: --share = '" + std::string(text) + "' is not a number\n");
  EXPECT_EQ(refused({"in", "--seed", "abc"}), "demo: --seed: seed = 'abc' is not a whole number\n");
  EXPECT_EQ(refused({"in", "--seed="}), "demo: --seed: seed = '' is not a whole number\n");
  EXPECT_EQ(refused({"in", "--published-quirks="}), "demo: --published-quirks: published_quirks = '' must be 0 or 1\n");
}

TEST(CommandLine, OfAnOptionGivenTwiceTheLastOneCounts) {
  Program program;
  EXPECT_EQ(
      program.Run({"in", "--count", "3", "--seed", "1", "--count=4", "--seed=2", "--text", "a", "--text", "b"}).status,
      0);
  EXPECT_EQ(program.count, 4);
  EXPECT_EQ(program.settings.seed, 2);
  EXPECT_EQ(program.text, "b");
}

TEST(CommandLine, AnOptionForSeveralValuesKeepsThemInOrderTheEmptyOneIncluded) {
  Program program;
  EXPECT_EQ(program.Run({"--word", "b", "in", "--word", "", "--word=", "--word=a", "out"}).status, 0);
  EXPECT_EQ(program.words, (std::vector<std::string>{"b", "", "", "a"}));
  EXPECT_EQ(Program().Run({"in", "out", "--word"}).status, 2);
}

TEST(CommandLine, ALeadingZeroMakesNoOctalNumber) {
  Program program;
  EXPECT_EQ(program.Run({"in", "--count", "010"}).status, 0);
  EXPECT_EQ(program.count, 10);
}

TEST(CommandLine, ARequiredOptionIsMissed) {
  std::string out;
  const auto run = [&](std::vector<std::string> words) {
    CommandLine line("demo", "Shows.", "demo --out x");
    line.Option("--out", out, "written");
    line.Required("--out");
    words.insert(words.begin(), "demo");
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    ::testing::internal::CaptureStderr();
    const int status = RunTool(line, static_cast<int>(argv.size()), argv.data(), [] { return nullptr; });
    return std::to_string(status) + " " + ::testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(run({}), "2 demo: --out is required (see --help)\n");
  EXPECT_EQ(run({"--out", "x"}), "0 ");  // a program without settings has no log
  EXPECT_EQ(out, "x");
}

TEST(CommandLine, ASwitchStandsAloneOrWithItsValue) {
  const auto published_quirks = [](std::vector<std::string> words) {
    Program program;
    const Outcome outcome = program.Run(std::move(words));
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(program.settings.origin("published_quirks"), Origin::kCommandLine);
    return std::to_string(program.settings.published_quirks) + " " + program.in;
  };
  EXPECT_EQ(published_quirks({"--published-quirks", "in"}), "1 in");
  EXPECT_EQ(published_quirks({"--published-quirks", "1", "in"}), "1 in");
  EXPECT_EQ(published_quirks({"--published-quirks", "0", "in"}), "0 in");
  EXPECT_EQ(published_quirks({"--published-quirks=0", "in"}), "0 in");
  EXPECT_EQ(published_quirks({"--published-quirks=1", "in"}), "1 in");
  EXPECT_EQ(published_quirks({"in", "--published-quirks"}), "1 in");
  EXPECT_EQ(published_quirks({"--published-quirks", "--flag", "in"}), "1 in");
  EXPECT_EQ(published_quirks({"--published-quirks", "in", "--published-quirks", "0"}), "0 in");  // the last one counts
}

TEST(CommandLine, AnEmptyTextIsAValue) {
  for (const std::vector<std::string>& words : {std::vector<std::string>{"in", "--source="}, {"--source", "", "in"}}) {
    Program program;
    EXPECT_EQ(program.Run(words).status, 0);
    EXPECT_EQ(program.settings.source, "");
    EXPECT_EQ(program.settings.origin("source"), Origin::kCommandLine);
  }
}

TEST(CommandLine, NegativeNumbersAreValues) {
  Program program;
  EXPECT_EQ(program.Run({"in", "--warmdown-iters", "-5"}).status, 0);
  EXPECT_EQ(program.settings.warmdown_iters, -5);
}

TEST(CommandLine, EverySettingIsTakenAlsoThoseOfOtherStages) {
  const Settings defaults;
  for (const SettingInfo& info : SettingTable()) {
    Program program;
    const Outcome outcome = program.Run({"in", info.Flag() + "=" + defaults.Get(info.name)});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(program.settings.origin(info.name), Origin::kCommandLine) << info.name;
  }
}

// --- what it says about itself

TEST(Help, ListsTheStagesSettingsAndEndsWithTheExample) {
  Program program;
  const Outcome outcome = program.Run({"--help"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.err, "");
  EXPECT_FALSE(program.ran);
  EXPECT_THAT(outcome.out, StartsWith("Shows what every program does."));
  EXPECT_THAT(outcome.out,
              EndsWith("exit status: 0 done, 1 internal error, 2 usage, 3 input/output, 4 bad or incompatible input,\n"
                       "             5 a gate failed (over budget, score too low), 128+n ended by signal n\n"
                       "\nexample:\n  demo in.ckpt out.ckpt\n  demo --flag in.ckpt -\n"));
  for (const char* part :
       {"IN", "OUT", "--text", "--count", "--profile", "--log", "--print-settings", "--source", "--keep-max-numel"})
    EXPECT_THAT(outcome.out, HasSubstr(part));
  for (const char* part : {"--seed", "--num-layers", "--eval-stride"}) EXPECT_THAT(outcome.out, Not(HasSubstr(part)));
}

TEST(VersionFlag, NamesTheProgramAndItsSources) {
  Program program;
  const Outcome outcome = program.Run({"--version"});
  EXPECT_EQ(outcome.status, 0);
  // In a build with CUDA it also says what GPUs there are.
  EXPECT_THAT(outcome.out, testing::MatchesRegex("demo fairway [^,]*, (no )?MPI, (CPU only|CPU and CUDA, GPUs here: [0-9]+)\n"));
  EXPECT_THAT(outcome.out, StartsWith("demo " + Version()));
  EXPECT_THAT(Version(), HasSubstr(SourceDigest().substr(0, 12)));
}

TEST(PrintSettings, ShowsEachWithItsPlaceAndNeedsNoFiles) {
  Program program;
  const Outcome outcome = program.Run({"--print-settings", "--keep-max-numel", "5"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_FALSE(program.ran);
  EXPECT_EQ(outcome.err, "");
  std::string expected;
  for (const auto& [name, value] : program.settings.Select(scope::kFinalize | scope::kQuantise, /*with_run=*/true))
    expected += name + " = " + value + (name == "keep_max_numel" ? "  # command line\n" : "  # default\n");
  EXPECT_EQ(outcome.out, expected);
  EXPECT_THAT(outcome.out, HasSubstr("keep_max_numel = 5  # command line\n"));
  EXPECT_THAT(outcome.out, HasSubstr("threads = 0  # default\n"));
}

TEST(PrintSettings, WithoutItsCommentsIsAProfile) {
  const std::string path = ::testing::TempDir() + "tool_test.profile." + std::to_string(getpid());
  Program program;
  WriteFile(path, program.Run({"--print-settings", "--source", "swa", "--published-quirks"}).out);
  Program again;
  EXPECT_EQ(again.Run({"in", "--profile", path}).status, 0);
  EXPECT_EQ(again.settings.Select(scope::kAll), program.settings.Select(scope::kAll));
  EXPECT_EQ(again.settings.origin("source"), Origin::kProfile);
  std::filesystem::remove(path);
}

TEST(Use, CommandLineBeatsEnvironmentBeatsProfile) {
  const std::string path = ::testing::TempDir() + "tool_test.profile." + std::to_string(getpid());
  WriteFile(path, "source = last\nkeep_max_numel = 1\nseed = 1\nseed = 2\n");
  setenv("SOURCE", "swa", 1);
  setenv("KEEP_MAX_NUMEL", "2", 1);
  Program program;
  EXPECT_EQ(program.RunInEnvironment({"in", "--keep-max-numel", "3", "--profile", path}).status, 0);
  EXPECT_EQ(program.settings.keep_max_numel, 3);
  EXPECT_EQ(program.settings.source, "swa");
  EXPECT_EQ(program.settings.seed, 2);
  setenv("SEED", "abc", 1);
  const Outcome outcome = program.RunInEnvironment({"in"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(outcome.err, "demo: environment SEED: seed = 'abc' is not a whole number\n");
  for (const char* name : {"SOURCE", "KEEP_MAX_NUMEL", "SEED"}) unsetenv(name);
  std::filesystem::remove(path);
}

// Last: from here on this program's log goes to the file as well.
TEST(ZLog, GetsTheCommandLineAndTheFailure) {
  const std::string path = ::testing::TempDir() + "tool_test.log." + std::to_string(getpid());
  Program program;
  program.body = []() -> Json {
    Log("on the way");
    throw GateError("over budget");
  };
  EXPECT_EQ(program.Run({"in", "--log", path}).status, 5);
  EXPECT_EQ(InputFile(path).text(), "demo in --log " + ShellQuote(path) + "\non the way\ndemo: over budget\n");
  std::filesystem::remove(path);
}

// --- progress on a terminal

TEST(Progress, ShowsTheLabelTheShareTheTimeAndANoteAndLeavesNothing) {
  Terminal terminal(80);
  setenv("FAIRWAY_PROGRESS_AFTER", "0", 1);
  {
    Progress progress("packing", 10);
    progress.Update(5, "half of it");
  }
  unsetenv("FAIRWAY_PROGRESS_AFTER");
  const std::string text = terminal.Text();
  EXPECT_THAT(text, ContainsRegex("\r\033\\[Kpacking   50%  [0-9]+:[0-9]+, [0-9]+:[0-9]+ left  half of it"));
  EXPECT_THAT(text, EndsWith("\r\033[K"));
}

TEST(Progress, ShowsTheTimeWhereTheAmountOfWorkIsUnknown) {
  Terminal terminal(80);
  setenv("FAIRWAY_PROGRESS_AFTER", "0", 1);
  { const Progress progress("compressing"); }
  unsetenv("FAIRWAY_PROGRESS_AFTER");
  EXPECT_THAT(terminal.Text(), ContainsRegex("\r\033\\[Kcompressing  [0-9]+:[0-9]+\r\033\\[K$"));
}

TEST(Progress, ShowsNothingForShortWorkOrInAPipe) {
  Terminal terminal(80);
  setenv("FAIRWAY_PROGRESS_AFTER", "1000", 1);
  { Progress("short", 10).Update(5); }
  EXPECT_EQ(terminal.Text(), "");
  setenv("FAIRWAY_PROGRESS_AFTER", "0", 1);
  ::testing::internal::CaptureStderr();
  { Progress("piped", 10).Update(5); }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  unsetenv("FAIRWAY_PROGRESS_AFTER");
}

}  // namespace
}  // namespace fairway
