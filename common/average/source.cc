#include "common/average/source.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/checkpoint/counter_names.h"

namespace fairway {
namespace {

// The names of weights hold no slash; other tensors of a training checkpoint have a prefix.
bool IsWeight(const TensorInfo& info) {
  return info.name.find('/') == std::string::npos;
}

std::vector<uint16_t> ToBFloat16(const std::vector<float>& values) {
  std::vector<uint16_t> narrow(values.size());
  std::ranges::transform(values, narrow.begin(), FloatToBFloat16);
  return narrow;
}

// One tensor of one set, as float32.
std::vector<float> Values(const CheckpointReader& training, const TensorInfo& weight, const std::string& set) {
  if (set == "last") return training.Floats(weight.name);
  const TensorInfo& stored = training.Find((set == "ema" ? "ema/" : "swa_sum/") + weight.name);
  if (stored.shape != weight.shape) {
    throw InputError(training.path(), "tensor " + stored.name + " has another shape than " + weight.name);
  }
  std::vector<float> values = training.Floats(stored.name);
  if (set == "ema") return values;
  const float snapshots = static_cast<float>(training.Count(counter::kSwaSnapshots));
  for (float& value : values) value /= snapshots;
  return values;
}

void Announce(const CheckpointReader& training, const Settings& settings, const std::string& set) {
  const Counters& counters = training.counters();
  if (set == "ema") {
    Log("ema:applying moving average from %.0f steps (decay=%s)", counters.Get(counter::kSteps),
        ShortestDouble(settings.ema_decay).c_str());
  } else if (set == "swa") {
    Log("swa:applying averaged %.0f checkpoints%s", counters.Get(counter::kSwaSnapshots),
        settings.published_quirks ? " (post-ema)" : "");
  }
}

// Of what train scored, the source with the least loss; the first of equals.
std::string BestSource(const CheckpointReader& training) {
  std::string best;
  double least = 0;
  for (const std::string& source : SelectableSources(/*ema=*/true, /*swa=*/true)) {
    const std::string counter = counter::kSelectPrefix + source;
    if (!training.counters().Has(counter)) continue;
    const double loss = training.counters().Get(counter);
    Log("select:%s loss:%.8f", source.c_str(), loss);
    if (best.empty() || loss < least) {
      best = source;
      least = loss;
    }
  }
  if (best.empty())
    throw InputError(training.path(), "holds no scores to select by: it was trained with select_tokens = 0, or has not ended");
  return best;
}

}  // namespace

std::vector<std::string> SelectableSources(bool ema, bool swa) {
  std::vector<std::string> sources = {"last"};
  if (ema) sources.insert(sources.end(), {"ema", "last:0.5,ema:0.5"});
  if (swa) sources.insert(sources.end(), {"swa", "last:0.5,swa:0.5"});
  if (ema && swa) sources.push_back("ema:0.5,swa:0.5");
  return sources;
}

Source ParseSource(std::string_view text) {
  Source source;
  double sum = 0;
  for (const std::string& part : Split(text, ',')) {
    const size_t colon = part.find(':');
    SourcePart parsed{Trim(part.substr(0, colon))};
    if (parsed.set != "last" && parsed.set != "ema" && parsed.set != "swa") {
      throw UsageError("source: \"" + parsed.set + "\" is none of last, ema, swa");
    }
    if (colon != std::string::npos && !ParseDouble(Trim(part.substr(colon + 1)), &parsed.share)) {
      throw UsageError("source: \"" + part + "\" has no number after the colon");
    }
    if (std::ranges::any_of(source, [&](const SourcePart& other) { return other.set == parsed.set; })) {
      throw UsageError("source: " + parsed.set + " is named twice");
    }
    sum += parsed.share;
    source.push_back(parsed);
  }
  if (source.empty()) throw UsageError("source: expected last, ema, swa, or a blend such as ema:0.5,swa:0.5");
  if (std::fabs(sum - 1) > 1e-6)
    throw UsageError(StringPrintf("source: the shares of a blend sum to %.7g, not 1", sum));
  return source;
}

Source ChooseSource(const CheckpointReader& training, const Settings& settings) {
  Source source = ParseSource(settings.source == "select" ? BestSource(training) : settings.source);
  if (settings.published_quirks && source.size() == 1 && source[0].set == "swa") {
    source[0].set = "last";
    if (training.Count(counter::kEmaUpdates) > 0) {
      source[0].set = "ema";
      Announce(training, settings, "ema");
    }
    if (training.Count(counter::kSwaSnapshots) > 1) {
      source[0].set = "swa";
      Announce(training, settings, "swa");
    }
    return source;
  }
  for (const SourcePart& part : source) {
    const char* counter = part.set == "ema"   ? counter::kEmaUpdates
                          : part.set == "swa" ? counter::kSwaSnapshots
                                              : nullptr;
    if (counter != nullptr && training.Count(counter) == 0) {
      throw InputError(training.path(), "holds no " + part.set + " weights: its counter " + counter + " is 0");
    }
    Announce(training, settings, part.set);
  }
  return source;
}

void WriteWeights(const CheckpointReader& training, const Source& source, bool published_quirks, CheckpointWriter& out) {
  const bool averaged = source.size() > 1 || source[0].set != "last";
  for (const TensorInfo& weight : training.tensors()) {
    if (!IsWeight(weight)) continue;
    if (!averaged) {
      out.Add(weight, training.Data(weight.name));
      continue;
    }
    std::vector<double> sums(weight.numel());
    for (const SourcePart& part : source) {
      const std::vector<float> values = Values(training, weight, part.set);
      for (size_t i = 0; i < values.size(); ++i) sums[i] += part.share * values[i];
    }
    const std::vector<float> average(sums.begin(), sums.end());
    TensorInfo info{.name = weight.name, .dtype = DType::kFloat32, .shape = weight.shape};
    if (published_quirks && weight.dtype == DType::kBFloat16) {
      info.dtype = DType::kBFloat16;
      out.Add(info, ToBFloat16(average));
    } else {
      out.Add(info, average);
    }
  }
}

void CheckSource(const Settings& train, const Settings& finalize, const std::string& why_no_snapshot) {
  if (finalize.source == "select") {
    if (train.select_tokens == 0)
      throw UsageError("SOURCE = select needs SELECT_TOKENS above 0: train scores the sources on tokens that it keeps from training");
    return;
  }
  const Source source = ParseSource(finalize.source);
  // The published script takes what there is where no snapshot was taken.
  const bool published = finalize.published_quirks && source.size() == 1 && source[0].set == "swa";
  for (const SourcePart& part : source) {
    if (part.set == "ema" && !train.ema_enabled) throw UsageError("SOURCE = " + finalize.source + " needs the EMA, and EMA_ENABLED = 0");
    if (part.set != "swa" || published) continue;
    if (!train.swa_enabled) throw UsageError("SOURCE = " + finalize.source + " needs the SWA, and SWA_ENABLED = 0");
    if (!why_no_snapshot.empty())
      throw UsageError("SOURCE = " + finalize.source + " needs a snapshot of the SWA, and there will be none: " + why_no_snapshot);
  }
}

}  // namespace fairway
