#include "common/submission/loss_curve.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string_view>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"

namespace fairway {
namespace {

constexpr char kScript[] = "loss-curve.gnuplot";
constexpr char kMessages[] = "loss-curve.messages";
// Colours that people with colour blindness can distinguish (Okabe and Ito).
constexpr std::array<std::string_view, 6> kColours = {"0072B2", "D55E00", "009E73", "CC79A7", "E69F00", "56B4E9"};

// A single-quoted string of gnuplot.
std::string Quote(std::string_view text) {
  std::string quoted = "'";
  for (char c : text) quoted += c == '\'' ? std::string("''") : std::string(1, c == '\n' ? ' ' : c);
  return quoted + "'";
}

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;
};

template <typename Point>
std::string DataBlock(const std::string& name, const std::vector<Point>& points, Range& range) {
  std::string block = name + " << END\n";
  for (const Point& point : points) {
    block += std::to_string(point.step) + " " + ShortestDouble(point.loss) + "\n";
    range = {std::min(range.low, point.loss), std::max(range.high, point.loss)};
  }
  return block + "END\n";
}

std::string RangeText(const Range& range, double unit) {
  return "[" + ShortestDouble(range.low * unit) + ":" + ShortestDouble(range.high * unit) + "]";
}

std::string Script(std::span<const Curve> curves) {
  std::string data;
  std::vector<std::string> plots;
  Range range;
  double bpb_per_nat = 0;
  bool one_text = true;  // curves of other tokenizers have other bytes per token, and no axis serves both
  for (size_t i = 0; i < curves.size(); ++i) {
    const auto& [label, log] = curves[i];
    const std::string number = std::to_string(i), colour(kColours[i % kColours.size()]);
    if (!log.train.empty()) {
      data += DataBlock("$train" + number, log.train, range);
      plots.push_back("$train" + number + " with lines lw 1 lc rgb '#70" + colour + "' title " +
                      Quote(label + ", training"));
    }
    if (!log.validation.empty()) {
      data += DataBlock("$validation" + number, log.validation, range);
      plots.push_back("$validation" + number + " with linespoints lw 2 pt 7 ps 0.5 lc rgb '#" + colour + "' title " +
                      Quote(label + ", validation"));
      const double ratio = log.validation.back().bpb / log.validation.back().loss;
      one_text &= bpb_per_nat == 0 || std::abs(ratio / bpb_per_nat - 1) < 0.01;
      bpb_per_nat = ratio;
    }
  }
  const double margin = 0.03 * std::max(range.high - range.low, 0.1);
  range = {range.low - margin, range.high + margin};

  std::string script = data +
                       "set encoding utf8\n"
                       "set xlabel 'step'\n"
                       "set ylabel 'loss, nats per token'\n"
                       "set grid lt 1 lw 1 lc rgb '#dddddd'\n"
                       "set key top right\n"
                       "set tics nomirror\n"
                       "set yrange " +
                       RangeText(range, 1) + "\n";
  // All tokens of a validation split together have so many bytes, so one curve serves both units.
  if (bpb_per_nat > 0 && one_text) {
    script += "set y2range " + RangeText(range, bpb_per_nat) + "\nset y2tics\nset y2label 'validation, bits per byte'\n";
  }
  return script +
         "set terminal svg size 900,540 noenhanced font 'sans-serif,13' name 'loss_curve' background rgb 'white'\n"
         "set output 'loss-curve.svg'\n"
         "plot " +
         Join(plots, ", ") +
         "\n"
         "set terminal pngcairo size 1200,720 noenhanced font 'sans,13' background rgb 'white'\n"
         "set output 'loss-curve.png'\n"
         "replot\n"
         "unset output\n";
}

// Runs `gnuplot -d loss-curve.gnuplot` in `directory`: -d keeps out what a user's own start-up files would change.
void RunGnuplot(const std::string& directory) {
  char program[] = "gnuplot", defaults[] = "-d", script[] = "loss-curve.gnuplot";
  char* const arguments[] = {program, defaults, script, nullptr};
  const char* path = std::getenv("PATH");
  std::string search = std::string("PATH=") + (path ? path : "/usr/bin:/bin"), locale = "LC_ALL=C";
  char* const environment[] = {search.data(), locale.data(), nullptr};

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, kMessages, O_WRONLY | O_CREAT | O_TRUNC, 0666);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  pid_t process;
  const int error = posix_spawnp(&process, program, &actions, nullptr, arguments, environment);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    throw IoError("gnuplot", std::string("cannot be started (") + std::strerror(error) +
                                 "); Debian has it in the package gnuplot-nox");
  }
  int status;
  while (waitpid(process, &status, 0) < 0 && errno == EINTR) continue;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    std::string said;
    for (const std::string& line : Split(InputFile(directory + "/" + kMessages).text(), '\n')) {
      said += (said.empty() ? "" : " ") + line;
    }
    throw IoError("gnuplot", "could not draw the loss curve: " + (said.empty() ? "it was ended by a signal" : said));
  }
}

}  // namespace

void DrawLossCurve(const std::string& directory, std::span<const Curve> curves) {
  WriteFile(directory + "/" + kScript, Script(curves));
  RunGnuplot(directory);
  // gnuplot does not notice that a disk is full.
  for (const auto& [name, end] : {std::pair{"/loss-curve.svg", "</svg>"}, {"/loss-curve.png", "IEND"}}) {
    const InputFile picture(directory + name);
    const std::string_view text = picture.text();
    if (text.substr(text.size() - std::min<size_t>(text.size(), 12)).find(end) == std::string_view::npos) {
      throw IoError(directory + name, "gnuplot left it unfinished");
    }
  }
  for (const char* name : {kScript, kMessages}) RemoveFile(directory + "/" + name);
}

}  // namespace fairway
