#include "common/quantise/budget.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/plan/plan.h"
#include "common/quantise/grid.h"

namespace fairway {
namespace {

// The fast coder's bytes by the logarithm of the step. The ends are those of the finest and the coarsest steps there are.
class Curve {
 public:
  Curve(double guess, const std::function<uint64_t(double)>& measure) : measure_(measure), guess_(std::log2(guess)) {
    Add(guess_ - kReach);
    Add(guess_ + kReach);
  }

  double finest() const { return points_.begin()->second; }
  double coarsest() const { return points_.rbegin()->second; }
  double Step(double place) const {
    return place == points_.begin()->first ? 0 : place == points_.rbegin()->first ? kCoarsest : std::exp2(place);
  }

  // The finest step of at most `target` bytes: one of at least `enough`, or the coarser of two next to each other on both sides
  // of these. REQUIRES: coarsest() <= target < finest().
  double Find(double enough, double target) {
    for (int i = 0;; ++i) {
      const auto coarse = std::ranges::find_if(points_, [&](const auto& point) { return point.second <= target; });
      const auto fine = std::prev(coarse);
      const double width = coarse->first - fine->first;
      if (coarse->second >= enough || width < 1e-7) return Step(coarse->first);
      // Bytes are nearly straight against the logarithm, but for the ends; where the line does not help, halves.
      if (points_.size() == 2) {
        Add(guess_);
      } else if (width > kReach / 2 || i % 4 == 3) {
        Add(Towards(fine->first, coarse->first));
      } else {
        Add(fine->first + width * (fine->second - (enough + target) / 2) / (fine->second - coarse->second));
      }
    }
  }

  // How fast bytes fall about there.
  double BytesPerOctave(double place) const {
    auto right = points_.upper_bound(place);
    if (right == points_.begin()) ++right;
    if (right == points_.end()) --right;
    const auto left = std::prev(right);
    return std::max((left->second - right->second) / (right->first - left->first), 1.0);
  }

  static constexpr double kCoarsest = 1e30;

 private:
  static constexpr double kReach = 40;

  void Add(double place) {
    const bool end = std::fabs(place - guess_) >= kReach;
    points_[place] = static_cast<double>(measure_(!end ? std::exp2(place) : place < guess_ ? 0 : kCoarsest));
  }
  // From the guess outwards by two octaves at a time, then by halves.
  double Towards(double fine, double coarse) const {
    if (fine == guess_ - kReach) return std::max(coarse - 2, (fine + coarse) / 2);
    if (coarse == guess_ + kReach) return std::min(fine + 2, (fine + coarse) / 2);
    return (fine + coarse) / 2;
  }

  const std::function<uint64_t(double)>& measure_;
  const double guess_;
  std::map<double, double> points_;
};

constexpr int kMostPacked = 40;
constexpr double kJump = 1e-3;  // octaves: what a jump is closed in to

}  // namespace

int64_t TargetBytes(const Settings& settings, int64_t parameters) {
  struct Given {
    std::string_view name;
    Origin origin;
    double bytes;
  };
  std::vector<Given> given;
  const auto add = [&](std::string_view name, double value, double bytes) {
    if (value > 0) given.push_back({name, settings.origin(name), bytes});
  };
  const auto count = static_cast<double>(parameters);
  add("target_bytes", static_cast<double>(settings.target_bytes), static_cast<double>(settings.target_bytes - settings.code_bytes));
  add("target_ratio", settings.target_ratio, settings.target_ratio * 4 * count);
  add("bits_per_weight", settings.bits_per_weight, settings.bits_per_weight * count / 8);
  if (given.empty())
    throw UsageError("QUANTISER=" + settings.quantiser + " needs TARGET_BYTES, TARGET_RATIO or BITS_PER_WEIGHT");
  std::ranges::stable_sort(given, [](const Given& a, const Given& b) { return a.origin > b.origin; });
  if (given.size() > 1 && given[0].origin == given[1].origin)
    throw UsageError(StringPrintf("%s and %s are both given by %s; one of them says the size", given[0].name.data(),
                                  given[1].name.data(), std::string(OriginName(given[0].origin)).c_str()));
  if (given[0].bytes < 1)
    throw UsageError(StringPrintf("%s leaves no byte for the weights", given[0].name.data()));
  return static_cast<int64_t>(given[0].bytes);
}

void CheckQuantiser(const Settings& settings) {
  for (const char* name : {"target_bytes", "target_ratio", "bits_per_weight"})
    if (!HasSize(settings) && settings.origin(name) >= Origin::kEnvironment && settings.Get(name) != "0")
      throw UsageError("QUANTISER=" + settings.quantiser + " has no size to choose: " + name + " does nothing");
  if (settings.quantiser == "gptq" && settings.calibration_windows == 0)
    throw UsageError("QUANTISER=gptq needs CALIBRATION_WINDOWS above 0");
  if (const int64_t of_micro_batch = settings.train_batch_tokens / settings.grad_micro_steps;
      settings.quantiser == "gptq_sdclip" && of_micro_batch < settings.train_seq_len)
    throw UsageError(StringPrintf("QUANTISER=gptq_sdclip: a micro-batch of TRAIN_BATCH_TOKENS / GRAD_MICRO_STEPS = %jd tokens holds no window of "
                                  "TRAIN_SEQ_LEN = %jd to calibrate on", of_micro_batch, settings.train_seq_len));
}

void KeptTensors::Add(const std::string& name, const std::vector<int64_t>& shape, const Settings& settings) {
  if (shape.size() == 2 && ExportGrid(name, shape[0], shape[1], settings)) return;
  int64_t numel = 1;
  for (const int64_t size : shape) numel *= size;
  const uint64_t here = numel * DTypeSize(KeptDType(name, numel, settings));
  bytes += here;
  if (here <= largest_bytes) return;
  largest_bytes = here;
  largest = name;
}

std::string KeptTensors::Text() const {
  return StringPrintf("tensors kept in floating point take %s bytes before compression, %s alone %s", WithCommas(static_cast<int64_t>(bytes)).c_str(),
                      largest.c_str(), WithCommas(static_cast<int64_t>(largest_bytes)).c_str());
}

KeptTensors KeptOf(const TensorSource& weights, const Settings& settings) {
  KeptTensors kept;
  for (const TensorInfo& info : weights.tensors()) kept.Add(info.name, info.shape, settings);
  return kept;
}

KeptTensors KeptOf(const Settings& settings) {
  KeptTensors kept;
  for (const Weight& weight : Plan(settings).weights) kept.Add(weight.name, weight.shape, settings);
  return kept;
}

std::string CrowdedBudget(const KeptTensors& kept, int64_t budget) {
  if (3 * kept.bytes <= static_cast<uint64_t>(budget)) return "";
  return StringPrintf("warning: %s, more than a third of the %s bytes there are: fewer are left for all other weights (FP16_KEEP_NAME_PATTERNS and "
                      "KEEP_MAX_NUMEL say what is kept)",
                      kept.Text().c_str(), WithCommas(budget).c_str());
}

void CheckSize(const Settings& settings) {
  if (!HasSize(settings) || (settings.target_bytes <= 0 && settings.target_ratio <= 0 && settings.bits_per_weight <= 0)) return;
  const int64_t budget = TargetBytes(settings, Plan(settings).parameters());
  const KeptTensors kept = KeptOf(settings);
  if (static_cast<uint64_t>(budget) >= kept.bytes) return;
  throw UsageError(StringPrintf("the size that is asked for leaves the artifact %s bytes, but %s: ask for more, or keep fewer of them "
                                "(FP16_KEEP_NAME_PATTERNS, KEEP_MAX_NUMEL)",
                                WithCommas(budget).c_str(), kept.Text().c_str()));
}

FoundStep FindStep(uint64_t budget, double first_guess, const std::function<uint64_t(double)>& measure,
                   const std::function<uint64_t(double)>& ship, double share) {
  const auto most = static_cast<double>(budget), least = (1 - share) * most, aim = (least + most) / 2;
  Curve curve(first_guess, measure);
  FoundStep found;
  const auto try_step = [&](double step) {
    const uint64_t bytes = ship(step);
    if (bytes <= budget && bytes > found.bytes) found = {step, bytes};
    return static_cast<double>(bytes);
  };
  if (curve.finest() <= most && try_step(0) <= most) return found;
  // Where the fast level says less than what is shipped, its finest step may be within the budget.
  const double within = std::min(aim, 0.999 * curve.finest());
  double step = curve.coarsest() <= within ? curve.Find(std::min(least, 0.998 * curve.finest()), within) : Curve::kCoarsest;
  if (step == Curve::kCoarsest) {
    const double bytes = try_step(step);
    if (bytes > most) {
      throw GateError(StringPrintf("the weights do not come within %s bytes: the smallest artifact there is, every code zero, has %s",
                                   WithCommas(static_cast<int64_t>(budget)).c_str(),
                                   WithCommas(static_cast<int64_t>(bytes)).c_str()));
    }
    step = curve.Find(least, std::max(within, curve.coarsest()));
  }
  // What is shipped is a little smaller than what the fast level says, or a little larger. From here on it alone counts.
  double fine = -INFINITY, coarse = INFINITY, fine_bytes = 0, coarse_bytes = 0, place = std::log2(std::min(step, 1e12));
  int beside = 0;
  for (int round = 0; round < kMostPacked; ++round) {
    const double bytes = try_step(std::exp2(place));
    if (bytes >= least && bytes <= most) break;
    if (coarse - fine > kJump) {
      (bytes > most ? fine : coarse) = place;
      (bytes > most ? fine_bytes : coarse_bytes) = bytes;
    }
    if (std::isinf(fine) || std::isinf(coarse)) {
      place += 1.5 * (bytes - aim) / curve.BytesPerOctave(place);
    } else if (coarse - fine > kJump) {
      const double part = round % 3 == 2 ? 0.5 : (fine_bytes - aim) / (fine_bytes - coarse_bytes);
      place = fine + std::clamp(part, 0.05, 0.95) * (coarse - fine);
    } else {
      // zstd's division into blocks varies, and sizes jump by more than the allowed share. On either side, further and further
      // off, another step may fall into it.
      ++beside;
      place = (fine + coarse) / 2 + (beside % 2 == 0 ? kJump : -kJump) * beside;
    }
  }
  if (found.bytes == 0 && try_step(Curve::kCoarsest) > most) throw GateError("no artifact within the budget was found");
  return found;
}

}  // namespace fairway
