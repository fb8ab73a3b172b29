// What a person reads of a record: the table on the terminal and README.md.
#include <algorithm>
#include <functional>
#include <set>

#include "common/base/digest.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "common/checkpoint/counter_names.h"
#include "common/submission/bytes.h"
#include "common/submission/clock.h"
#include "common/submission/record.h"

namespace fairway {
namespace {

using Cell = std::function<std::string(const FinishedRun&)>;

// A table with one column a seed.
class SeedTable {
 public:
  SeedTable(const std::string& heading, const std::vector<FinishedRun>& runs) : runs_(runs) {
    Row(heading, [](const FinishedRun& run) { return "seed " + std::to_string(run.seed()); });
  }

  void Row(const std::string& label, const Cell& cell) {
    std::vector<std::string> row = {label};
    for (const FinishedRun& run : runs_) row.push_back(cell(run));
    table_.push_back(std::move(row));
  }

  const Table& table() const { return table_; }

 private:
  const std::vector<FinishedRun>& runs_;
  Table table_;
};

std::string Score(const Json& bits) {
  return bits.is_number() ? StringPrintf("%.6f", bits.get<double>()) : "-";
}

std::string Count(const FinishedRun& run, const std::string& name) {
  return WithCommas(static_cast<int64_t>(run.counters.Get(name)));
}

void AddScores(const Record& record, SeedTable& table) {
  for (const std::string set : kWeightSets) {
    table.Row("bits per byte before quantisation, " + set + " weights, plain", [&](const FinishedRun& run) {
      const auto found = run.before.find(set);
      if (found != run.before.end()) return Score(found->second["val_bpb_plain"]);
      const FinishedRun::Action action = set == "ema" ? run.ema() : run.swa();
      return std::string(set != "last" && action.on() && action.acted == 0 ? "none taken" : "-");
    });
  }
  table.Row("bits per byte from the artifact, plain",
            [](const FinishedRun& run) { return Score(run.eval["val_bpb_plain"]); });
  const Json& eval = record.runs[0].eval;
  const bool documents = eval.value("ttt", Json::object()).contains("ttt_lora_rank");
  const std::string how = eval["method"],
                    method = how == "plain" ? how
                             : documents    ? "document by document in chunks of " + eval["stride"].dump() + ", " + how
                                            : "sliding by " + eval["stride"].dump() + (how == "sliding" ? "" : ", " + how);
  const std::string ngrams = eval.contains("ngram_order") ? ", mixed with n-grams over the scored text" : "";
  table.Row("bits per byte from the artifact, " + method + ngrams + " (the score)",
            [](const FinishedRun& run) { return Score(run.eval["val_bpb"]); });
}

void AddSizes(const Record& record, SeedTable& table) {
  const auto row = [&](const std::string& label, uint64_t ArtifactSizes::*part) {
    table.Row(label, [part](const FinishedRun& run) { return WithCommas(run.artifact.*part); });
  };
  const bool coded = std::ranges::any_of(record.runs, [](const FinishedRun& run) { return run.artifact.coded > 0; });
  row(coded ? "bytes of codes, by the arithmetic coder" : "bytes of codes", &ArtifactSizes::codes);
  row("bytes of scales", &ArtifactSizes::scales);
  row("bytes of tensors kept in floating point", &ArtifactSizes::kept);
  row("bytes of names and settings", &ArtifactSizes::other);
  row("bytes of the artifact (all of these, compressed)", &ArtifactSizes::compressed);
  table.Row("bytes of code (the source archive)", [](const FinishedRun& run) { return WithCommas(run.source_bytes); });
  table.Row("bytes in all, of " + WithCommas(record.options.budget),
            [](const FinishedRun& run) { return WithCommas(CountedBytes(run)); });
}

// All that scoring the artifacts needs, and whether it counts.
Table Bytes(const Record& record) {
  Table table = {{"bytes", "counts"}};
  for (const FinishedRun& run : record.runs) table[0].push_back("seed " + std::to_string(run.seed()));
  std::vector<std::vector<ByteLine>> ledgers;
  std::set<std::string> shown;
  for (const FinishedRun& run : record.runs) ledgers.push_back(ByteLedger(run));
  for (const std::vector<ByteLine>& ledger : ledgers) {
    for (const ByteLine& line : ledger) {
      if (!shown.insert(line.what).second) continue;
      table.push_back({line.what + ": " + line.why, line.counts ? "yes" : "no"});
      for (const std::vector<ByteLine>& other : ledgers) {
        const auto found = std::ranges::find(other, line.what, &ByteLine::what);
        table.back().push_back(found == other.end() || !found->bytes ? "-" : WithCommas(*found->bytes));
      }
    }
  }
  return table;
}

// Each technique with how often it acted, from its own counter.
Table Activity(const Record& record) {
  const Settings& settings = record.runs[0].settings;
  SeedTable table("technique", record.runs);
  const auto row = [&](bool on, const std::string& label, const Cell& cell) {
    table.Row(
        label, on ? cell : [](const FinishedRun&) { return std::string("off"); });
  };
  // What hardly acted is not claimed, and says so.
  const auto counted = [](const FinishedRun::Action& action, const std::string& text) {
    if (action.counts()) return text;
    return action.acted == 0 ? std::string("none taken") : text + StringPrintf(", %s of %s meant: not claimed", WithCommas(static_cast<int64_t>(action.acted)).c_str(),
                                                                                        WithCommas(static_cast<int64_t>(action.meant)).c_str());
  };
  row(settings.ema_enabled, "moving average of the weights (EMA), decay " + ShortestDouble(settings.ema_decay),
      [=](const FinishedRun& run) { return counted(run.ema(), Count(run, counter::kEmaUpdates) + " updates"); });
  row(settings.swa_enabled,
      "average of snapshots (SWA), every " + WithCommas(settings.swa_every) + " steps below a learning rate scale of " +
          ShortestDouble(settings.swa_start_frac),
      [=](const FinishedRun& run) { return counted(run.swa(), Count(run, counter::kSwaSnapshots) + " snapshots"); });
  row(settings.late_qat_threshold > 0, "late QAT, below a scale of " + ShortestDouble(settings.late_qat_threshold),
      [=](const FinishedRun& run) {
        return counted(run.late_qat(), Count(run, counter::kQatReplacements) + " matrices replaced, from step " +
                                           Count(run, counter::kQatFirstStep));
      });
  table.Row("weights taken", [](const FinishedRun& run) {
    std::vector<std::string> parts;
    for (const std::string set : kWeightSets) {
      const double share = run.counters.Get(counter::kFinalizePrefix + set);
      if (share > 0) parts.push_back(share == 1 ? set : ShortestDouble(share) + " " + set);
    }
    return Join(parts, " + ");
  });
  table.Row("rows whose clip was searched for",
            [](const FinishedRun& run) { return Count(run, counter::kClipRowsSearched); });
  for (const auto& [name, wins] : record.runs[0].counters.all()) {
    if (!name.starts_with(counter::kClipWinsPrefix)) continue;
    table.Row("of these, won by the quantile " + name.substr(std::string(counter::kClipWinsPrefix).size()),
              [name = name](const FinishedRun& run) { return Count(run, name); });
  }
  table.Row("relative error of the quantised weights", [](const FinishedRun& run) {
    return StringPrintf("%.5f", run.counters.Get(counter::kQuantiseRelativeError));
  });
  table.Row("entropy of the codes", [](const FinishedRun& run) {
    return StringPrintf("%.3f bits", run.counters.Get(counter::kQuantiseEntropyBits));
  });
  table.Row("warm-up steps, undone", [](const FinishedRun& run) { return Count(run, counter::kWarmupSteps); });
  return table.table();
}

Table Training(const Record& record) {
  SeedTable table("training", record.runs);
  table.Row("steps", [](const FinishedRun& run) { return WithCommas(run.steps()); });
  table.Row("ended by", [](const FinishedRun& run) {
    return std::string(run.counters.Get(counter::kStoppedByClock) > 0 ? "the clock" : "the number of steps");
  });
  table.Row("training time",
            [](const FinishedRun& run) { return StringPrintf("%.1f s", run.counters.Get(counter::kTrainSeconds)); });
  table.Row("a step", [](const FinishedRun& run) { return StringPrintf("%.2f ms", run.step_ms()); });
  table.Row("of the time, waiting for data", [](const FinishedRun& run) {
    const double wait = run.counters.Get(counter::kDataWaitSeconds), seconds = run.counters.Get(counter::kTrainSeconds);
    return StringPrintf("%.2f s (%.2f%%)", wait, seconds > 0 ? 100 * wait / seconds : 0.0);
  });
  table.Row("tokens trained on", [](const FinishedRun& run) { return Count(run, counter::kTokens); });
  table.Row("updates left out because numbers went astray",
            [](const FinishedRun& run) { return Count(run, counter::kSkippedUpdates); });
  table.Row("training loss of the last step",
            [](const FinishedRun& run) { return StringPrintf("%.4f", run.counters.Get(counter::kLastLoss)); });
  table.Row("times resumed", [](const FinishedRun& run) { return Count(run, counter::kResumes); });
  return table.table();
}

// What took how long, and what of it read training data.
Table Clock(const Record& record) {
  SeedTable table("clock", record.runs);
  const auto row = [&](const char* label, auto part) {
    table.Row(label, [part](const FinishedRun& run) {
      const std::optional<double> seconds = ClockOf(run).*part;
      return seconds ? StringPrintf("%.1f s", *seconds) : std::string("-");
    });
  };
  row("warm-up, undone, on training data", &ClockLedger::warm_up);
  row("training, on training data", &ClockLedger::training);
  row("of this, calibration for the quantiser, on training data", &ClockLedger::calibration);
  row("averaging, on weights alone", &ClockLedger::averaging);
  row("quantising", &ClockLedger::quantising);
  table.Row("training tokens that quantising read", [](const FinishedRun& run) { return WithCommas(ClockOf(run).calibration_tokens); });
  row("packing, on weights alone", &ClockLedger::packing);
  row("evaluation, on the artifact and validation data", &ClockLedger::evaluation);
  return table.table();
}

// What was proved of the score, and of the data that it is of.
Table Proved(const Record& record) {
  SeedTable table("proof", record.runs);
  const auto row = [&](const char* label, auto text) {
    table.Row(label, [text](const FinishedRun& run) { return run.proof.is_null() ? std::string("not run") : std::string(text(run.proof)); });
  };
  const auto count = [](const Json& number) { return WithCommas(number.get<int64_t>()); };
  row("targets scored exactly once", [=](const Json& proof) { return count(proof["targets"]["scored"]) + " of " + count(proof["targets"]["in_all"]); });
  row("targets learnt from, after they were scored", [=](const Json& proof) { return count(proof["targets"]["learnt_from"]); });
  row("events in one order", [=](const Json& proof) { return count(proof["order"]["events"]); });
  row("bytes of text counted", [=](const Json& proof) { return count(proof["bytes"]["counted"]); });
  row("tokens changed, scores before them that stayed",
      [=](const Json& proof) { return count(proof["flips"]["tokens"]) + ", " + count(proof["flips"]["scores_kept"]); });
  row("distributions summed, largest distance from 1", [=](const Json& proof) {
    return count(proof["sums"]["distributions"]) + StringPrintf(", %.1e", proof["sums"]["worst"].get<double>());
  });
  const auto documents = [&](const char* label, const char* name) {
    row(label, [=](const Json& proof) {
      const Json data = proof.value("documents", Json());
      return data.is_object() ? count(data[name]) : std::string("no training shards there");
    });
  };
  documents("documents of training, compared by content", "train_documents");
  documents("documents of validation", "val_documents");
  documents("documents of training that are one of validation", "shared");
  documents("documents of training that are nearly one of validation", "near");
  row("documents that the tokenizer was trained on, of them of validation", [=](const Json& proof) {
    const Json data = proof.value("tokenizer", Json());
    return data.is_object() ? count(data["documents"]) + ", " + count(data["shared"]) : std::string("not known");
  });
  return table.table();
}

// The validations of training: of one seed with loss and time, of several the score of each. At most kMostRows of them, evenly spaced,
// the first and the last included.
Table Progression(const Record& record) {
  constexpr size_t kMostRows = 25;
  std::set<int64_t> steps;
  for (const FinishedRun& run : record.runs)
    for (const ValidationPoint& point : run.log.validation) steps.insert(point.step);
  std::vector<int64_t> shown;
  const size_t rows = std::min(steps.size(), kMostRows);
  for (size_t row = 0; row < rows; ++row)
    shown.push_back(*std::next(steps.begin(), rows == 1 ? 0 : static_cast<int64_t>(row * (steps.size() - 1) / (rows - 1))));

  const bool one = record.runs.size() == 1;
  Table table = {{"step"}};
  if (one) table[0].insert(table[0].end(), {"training time", "training loss", "validation loss", "bits per byte"});
  else for (const FinishedRun& run : record.runs) table[0].push_back("bits per byte, seed " + std::to_string(run.seed()));
  for (const int64_t step : shown) {
    std::vector<std::string> row = {WithCommas(step)};
    for (const FinishedRun& run : record.runs) {
      const auto point = std::ranges::find(run.log.validation, step, &ValidationPoint::step);
      const bool validated = point != run.log.validation.end();
      if (one) {
        const auto after = std::ranges::upper_bound(run.log.train, step, {}, &TrainPoint::step);
        const TrainPoint* trained = after == run.log.train.begin() ? nullptr : &*std::prev(after);
        row.push_back(trained != nullptr ? StringPrintf("%.1f s", trained->train_ms / 1000) : "-");
        row.push_back(trained != nullptr ? StringPrintf("%.4f", trained->loss) : "-");
        row.push_back(validated ? StringPrintf("%.4f", point->loss) : "-");
      }
      row.push_back(validated ? StringPrintf("%.4f", point->bpb) : "-");
    }
    table.push_back(std::move(row));
  }
  return table;
}

// Lines of at most `columns` bytes, broken at blanks; control characters are shown as escapes.
std::vector<std::string> Wrapped(const std::string& text, size_t columns) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = Printable(text.substr(begin, end - begin));
    while (line.size() > columns) {
      const size_t blank = line.rfind(' ', columns);
      if (blank == std::string::npos || blank == 0) break;
      lines.push_back(line.substr(0, blank));
      line.erase(0, blank + 1);
    }
    lines.push_back(line);
    begin = end + 1;
  }
  return lines;
}

std::string SeedList(const Record& record) {
  std::vector<std::string> seeds;
  for (const FinishedRun& run : record.runs) seeds.push_back(std::to_string(run.seed()));
  return Join(seeds, ", ");
}

std::string Verdict(const Record& record) {
  const Comparison& comparison = *record.comparison;
  std::string text =
      StringPrintf("Against the baseline of %.8f bits per byte (%.8f nats per token) the mean is %s by %.5f nats per token.",
                   comparison.baseline_bpb, comparison.baseline_loss, comparison.improvement >= 0 ? "better" : "worse",
                   std::abs(comparison.improvement));
  if (comparison.p_value) {
    text += StringPrintf(" The hypothesis that it is not better by %g nats has p = %.2g (one-sided t-test, %zu seeds).",
                         kRequiredNats, *comparison.p_value, record.runs.size());
    const bool all_shuffled = std::ranges::all_of(record.runs, [](const FinishedRun& run) { return run.settings.data_order == "shuffled"; });
    text += all_shuffled ? " A seed draws the initial weights and the order of the training text."
                         : " A seed draws the initial weights alone, not the order of the training text (data_order = sequential), "
                           "so the seeds' deviation says less than it would.";
  }
  return text + StringPrintf(" A record needs %g nats with p < %g over at least %zu seeds: this one %s.\n",
                             kRequiredNats, kRequiredProbability, kRequiredSeeds,
                             comparison.qualifies ? "qualifies" : "does not qualify");
}

void AddLineage(const std::string& what, const std::string& identity, const Lineage& lineage, int depth,
                std::string& text) {
  text += std::string(2 * depth, ' ') + "- " + what + " `" + identity + "`";
  if (!lineage.tool.empty()) {
    text += ", made by " + lineage.tool + (lineage.version.empty() ? "" : ", " + lineage.version);
    std::vector<std::string> settings;
    for (const auto& [name, value] : lineage.settings) settings.push_back(name + " = " + value);
    if (!settings.empty()) text += ", with `" + Join(settings, "; ") + "`";
  }
  text += "\n";
  for (const Lineage::Input& input : lineage.inputs) {
    if (input.identity != identity) AddLineage(input.role, input.identity, input.lineage, depth + 1, text);
  }
}

std::string OneLine(std::string text) {
  for (char& c : text) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return text;
}

}  // namespace

Table SummaryTable(const Record& record) {
  SeedTable table("", record.runs);
  table.Row("steps", [](const FinishedRun& run) { return WithCommas(run.steps()); });
  AddScores(record, table);
  AddSizes(record, table);
  return table.table();
}

std::vector<std::string> SampleLines(const Record& record) {
  const FinishedRun& run = record.runs[0];
  std::vector<std::string> lines;
  for (const Sample& sample : run.samples) {
    lines.push_back(lines.empty() ? "samples from the artifact of seed " + std::to_string(run.seed()) + ", with " + run.sampling + ":" : "");
    for (const std::string& line : Wrapped(Shorten(sample.prompt + sample.text, 4000), 96)) lines.push_back("    " + line);
  }
  return lines;
}

std::string ReadMe(const Record& record) {
  std::string text = "# " + OneLine(record.options.name) + "\n\n" + record.options.blurb + "\n\n";
  text += StringPrintf("Score: **%.8f bits per byte** (%.8f nats per token)", record.val_bpb, record.val_loss);
  if (record.val_bpb_std) {
    text += StringPrintf(", mean of the seeds %s with a sample standard deviation of %.8f", SeedList(record).c_str(),
                         *record.val_bpb_std);
  } else {
    text += ", seed " + SeedList(record);
  }
  text += ". Size: **" + WithCommas(record.bytes_total) + " bytes** of " + WithCommas(record.options.budget) +
          ", everything that counts together.\n\n";
  if (record.comparison) text += Verdict(record) + "\n";
  text += "![training and validation loss against steps](loss-curve.svg)\n\n";

  SeedTable scores("score", record.runs), sizes("size", record.runs);
  AddScores(record, scores);
  AddSizes(record, sizes);
  text += "## Scores\n\n" + Markdown(scores.table()) + "\n";
  const Json& eval = record.runs[0].eval;
  text += "Over " + WithCommas(eval["targets"].get<int64_t>()) + " targets of " +
          WithCommas(eval["bytes"].get<int64_t>()) + " bytes of text, windows of " + eval["seq_len"].dump() +
          " tokens. The last two rows are of a fresh process that read the artifact alone.\n\n";
  text += "## Progression during training\n\n" + Markdown(Progression(record)) + "\n";
  if (const std::vector<std::string> lines = SampleLines(record); !lines.empty()) {
    text += "## Samples\n\nThe artifact of seed " + std::to_string(record.runs[0].seed()) + " wrote this, with " +
            record.runs[0].sampling + ":\n\n";
    for (size_t i = 1; i < lines.size(); ++i) text += lines[i] + "\n";
    text += "\n";
  }
  text += "## Sizes\n\n" + Markdown(sizes.table()) + "\n";
  text += "What scoring needs, and what of it counts against the limit:\n\n" + Markdown(Bytes(record)) + "\n";
  text += "## What acted, and how often\n\n" + Markdown(Activity(record)) + "\n";
  text += "## Training\n\n" + Markdown(Training(record)) + "\n";
  text += "## Clock\n\n" + Markdown(Clock(record)) + "\n";
  const bool proved = std::ranges::any_of(record.runs, [](const FinishedRun& run) { return !run.proof.is_null(); });
  const std::string proof = "## Proof\n\n" + (proved ? Markdown(Proved(record)) + "\n`eval-sliding --prove` wrote these; docs/truth.md of the source says what each "
                                                                               "one answers. `make verify-record` proves the score again.\n\n"
                                                     : std::string("None was run here (`make prove`). `make verify-record` proves the score.\n\n"));
  const std::vector<std::string> outside = OutsideTrack(record.runs);
  text += StringPrintf("The ten-minute track wants training, all that reads training data, and evaluation within %.0f s each, and everything that "
                       "counts within %s bytes. ",
                       kTrackSeconds, WithCommas(kTrackBytes).c_str()) +
          (outside.empty() ? "These runs are.\n\n" : "These runs are outside of it: " + Join(outside, "; ") + ".\n\n");
  text += proof;
  if (!record.hardware.empty()) text += "Hardware: " + record.hardware + ".";
  if (!record.pytorch_version.empty()) text += " LibTorch " + record.pytorch_version + ".";
  text += "\n\n## Settings\n\nSeeds: " + SeedList(record) + ". As a profile:\n\n```\n";
  for (const auto& [name, value] : record.runs[0].stated) {
    if (name != "seed") text += name + " = " + value + "\n";
  }
  text +=
      "```\n\n## Where it comes from\n\nIdentities are SHA-256 of content; each product names what it was made "
      "from.\n\n";
  for (const FinishedRun& run : record.runs) {
    const std::string prefix = RunPrefix(record, run);
    AddLineage("`" + prefix + run_file::kArtifact + "`", run.eval["artifact_digest"].get<std::string>(), run.lineage, 0,
               text);
    text += "- `" + prefix + run_file::kEval + "` scores it on the validation split `" +
            run.eval["val_digest"].get<std::string>() + "` with the byte table `" +
            run.eval["byte_table_digest"].get<std::string>() + "`\n";
  }
  text += "- `" + std::string(run_file::kSource) + "` `" + record.runs[0].source_digest +
          "`, everything that training and "
          "evaluation are built from\n\n"
          "`make verify-record RECORD=FOLDER` builds the evaluation from that archive in an empty directory, scores "
          "the artifact "
          "of this folder and compares.\n\n"
          "Every figure on this page was taken from the run's own checkpoints, scores and logs.\n";
  return text;
}

}  // namespace fairway
