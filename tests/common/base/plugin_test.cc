#include "common/base/plugin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/error.h"

namespace fairway {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

const std::string kFolder = PLUGINS;
constexpr char kSymbol[] = "FairwayTestAnswer";

// The status and the line of what LoadPluginAt throws.
std::pair<ExitStatus, std::string> Refusal(const std::string& path, const char* symbol = kSymbol) {
  try {
    LoadPluginAt(path, symbol);
  } catch (const Error& error) {
    return {error.status(), error.what()};
  }
  return {ExitStatus::kDone, ""};
}

TEST(Plugin, OfTheSameSourcesIsLoaded) {
  void* found = LoadPluginAt(kFolder + "/libown.so", kSymbol);
  EXPECT_EQ(reinterpret_cast<int (*)()>(found)(), 42);
}

TEST(Plugin, OfOtherSourcesIsRefusedInOneLine) {
  const auto [status, line] = Refusal(kFolder + "/libother.so");
  EXPECT_EQ(status, ExitStatus::kBadInput);
  EXPECT_THAT(line, MatchesRegex(".*/libother\\.so: was built from other sources \\(0123456789ab\\) than this program "
                                 "\\([0-9a-f]{12}\\); build or install both from one checkout"));
}

TEST(Plugin, ThatDoesNotNameItsSourcesIsRefused) {
  const auto [status, line] = Refusal(kFolder + "/libsilent.so");
  EXPECT_EQ(status, ExitStatus::kBadInput);
  EXPECT_THAT(line, HasSubstr("libsilent.so: was built from other sources (unknown) than this program ("));
}

TEST(Plugin, ThatIsMissingOrLacksTheFunctionIsRefused) {
  const auto [missing, no_file] = Refusal(kFolder + "/libnone.so");
  EXPECT_EQ(missing, ExitStatus::kIo);
  EXPECT_THAT(no_file, HasSubstr("libnone.so: "));
  const auto [lacking, no_function] = Refusal(kFolder + "/libown.so", "FairwayTestQuestion");
  EXPECT_EQ(lacking, ExitStatus::kIo);
  EXPECT_THAT(no_function, HasSubstr("FairwayTestQuestion"));
}

}  // namespace
}  // namespace fairway
