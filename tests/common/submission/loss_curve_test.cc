#include "common/submission/loss_curve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "common/base/error.h"
#include "common/base/file.h"
#include "tests/common/submission/temporary.h"

namespace fairway {
namespace {

using testing::HasSubstr;

std::string FreshDirectory(const std::string& name) {
  const std::string directory = TemporaryRoot() + name;
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);
  return directory;
}

std::vector<Curve> TwoCurves() {
  std::vector<Curve> curves;
  for (const char* label : {"seed 1337", "seed '42'; system \"touch pwned\""}) {
    Curve& curve = curves.emplace_back(label);
    for (int64_t step = 1; step <= 100; ++step) {
      curve.log.train.push_back({step, 7.0 / (1 + 0.01 * step), 10.0 * step, 10});
      if (step % 25 == 0) curve.log.validation.push_back({step, 7.0 / (1 + 0.01 * step), 4.1 / (1 + 0.01 * step)});
    }
  }
  return curves;
}

TEST(LossCurve, DrawsBothPicturesTheSameEveryTime) {
  // A quote and a newline in the folder's name: it must never reach a gnuplot command or a shell.
  const std::string first = FreshDirectory("loss curve's\nfolder"), second = FreshDirectory("loss_curve_again");
  const std::vector<Curve> curves = TwoCurves();
  DrawLossCurve(first, curves);
  DrawLossCurve(second, curves);
  const InputFile svg(first + "/loss-curve.svg"), png(first + "/loss-curve.png");
  EXPECT_EQ(svg.text(), InputFile(second + "/loss-curve.svg").text());
  EXPECT_EQ(png.text(), InputFile(second + "/loss-curve.png").text());
  EXPECT_THAT(std::string(svg.text()), HasSubstr("seed 1337, training"));
  EXPECT_THAT(std::string(svg.text()), HasSubstr("validation, bits per byte"));
  EXPECT_TRUE(png.text().starts_with("\x89PNG"));
  // Nothing else stays behind.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(first), {}), 2);
}

TEST(LossCurve, OneKindOfLineIsEnough) {
  const std::string directory = FreshDirectory("loss_curve_sparse");
  std::vector<Curve> curves = {{"seed 1", {}}};
  curves[0].log.train.push_back({1, 6.9, 10, 10});
  DrawLossCurve(directory, curves);
  EXPECT_GT(InputFile(directory + "/loss-curve.svg").bytes().size(), 1000u);
  curves[0].log = {};
  curves[0].log.validation.push_back({60, 5.4, 3.2});
  DrawLossCurve(directory, curves);
  EXPECT_GT(InputFile(directory + "/loss-curve.svg").bytes().size(), 1000u);
}

TEST(LossCurve, SaysThatGnuplotIsMissing) {
  const std::string path = std::getenv("PATH");
  setenv("PATH", "/nonexistent", 1);
  std::string said = "drawn";
  try {
    DrawLossCurve(FreshDirectory("loss_curve_none"), TwoCurves());
  } catch (const IoError& error) {
    said = error.what();
  }
  setenv("PATH", path.c_str(), 1);
  EXPECT_EQ(said, "gnuplot: cannot be started (No such file or directory); Debian has it in the package gnuplot-nox");
}

TEST(LossCurve, OneAxisOfBitsServesOneTokenizerOnly) {
  std::vector<Curve> curves = TwoCurves();
  const auto axis = [&](const std::string& name) {
    const std::string directory = FreshDirectory(name);
    DrawLossCurve(directory, curves);
    return InputFile(directory + "/loss-curve.svg").text().find("bits per byte") != std::string_view::npos;
  };
  EXPECT_TRUE(axis("one_tokenizer"));
  for (ValidationPoint& point : curves[1].log.validation) point.bpb *= 1.5;
  EXPECT_FALSE(axis("two_tokenizers"));
}

}  // namespace
}  // namespace fairway
