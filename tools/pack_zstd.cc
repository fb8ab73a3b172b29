// pack-zstd: compresses a quantised checkpoint into the artifact, and guards the byte budget.
#include <nlohmann/json.hpp>
#include <optional>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/checkpoint/checkpoint.h"
#include "common/quantise/artifact.h"
#include "common/tool/tool.h"

using namespace fairway;

namespace {

// What the artifact leaves out, because it differs between runs that computed the same: a checkpoint without tensors.
void WriteLineage(const std::string& path, const Artifact& artifact, const CheckpointReader& quantised) {
  Lineage lineage = OpenLineage("pack-zstd", Version(), SourceDigest(), Settings(), 0);
  lineage.inputs.push_back({"artifact", artifact.digest, {}});
  AddInput(lineage, "quantised checkpoint", quantised);
  CheckpointWriter(path, Kind::kQuantised, quantised.settings()).Finish(quantised.counters(), lineage);
}

}  // namespace

int main(int argc, char** argv) {
  std::string in, out;
  int64_t budget = 16'000'000, level = 0;
  bool dry_run = false;
  Settings settings;
  CommandLine line(
      "pack-zstd",
      "Compresses a quantised checkpoint into the artifact. Over budget it ends with status 5 and writes nothing; an "
      "older OUT stays as it was. Counters and lineage go to OUT.lineage, which does not count.",
      "pack-zstd --budget 16000000 --code-bytes 150000 quantised.ckpt model.bin.zst");
  line.Input("IN", in, "quantised checkpoint; - is standard input");
  line.Output("OUT", out, "artifact; - is standard output, without OUT.lineage; not needed with --dry-run");
  line.Optional();
  line.Option("--budget", budget, 0, INT64_MAX, "limit on the bytes of artifact and code together");
  line.Option("--level", level, 1, 22, "zstd level; without it 1, 19 and 22 are tried and the smallest result kept");
  line.Flag("--dry-run", dry_run, "only report the size: write nothing and accept any size");
  line.Use(settings, scope::kPack);
  line.Inherit(in, [](const std::string& path) { return CheckpointReader(path).settings(); });

  return RunTool(line, argc, argv, [&]() -> Json {
    if (out.empty() && !dry_run) throw UsageError("OUT is required without --dry-run (see --help)");
    const CheckpointReader quantised(in);
    settings.Adopt(quantised.settings(), quantised.path());
    const int64_t code_bytes = settings.code_bytes;
    if (settings.origin("code_bytes") == Origin::kCheckpoint && code_bytes > 0)
      Log("pack-zstd: code_bytes = %s, as %s states", WithCommas(code_bytes).c_str(), quantised.path().c_str());
    // Opened before the work: a path that cannot be written is known at once. Uncommitted it vanishes.
    std::optional<OutputFile> file;
    if (!dry_run) file.emplace(out);
    std::vector<int> levels(kShippedLevels.begin(), kShippedLevels.end());
    if (level > 0) levels = {static_cast<int>(level)};
    std::optional<Progress> bar("compressing");
    const Artifact artifact = PackArtifact(quantised, levels, settings.ThreadCount(), CoderNamed(settings.coder));
    bar.reset();
    const int64_t bytes = artifact.bytes.size();
    const int64_t left = budget - code_bytes - bytes;
    Log("pack-zstd: %s bytes, codes by %s, at level %d, from %s; with code %s of %s", WithCommas(bytes).c_str(),
        settings.coder == "zstd" ? "zstd" : "the arithmetic coder", artifact.level, WithCommas(artifact.content_bytes).c_str(), WithCommas(bytes + code_bytes).c_str(), WithCommas(budget).c_str());
    if (file) {
      if (left < 0) {
        throw GateError(StringPrintf("over budget by %s bytes: artifact %s + code %s > %s", WithCommas(-left).c_str(),
                                     WithCommas(bytes).c_str(), WithCommas(code_bytes).c_str(),
                                     WithCommas(budget).c_str()));
      }
      file->Write(artifact.bytes);
      file->Flush();
      // The lineage first, once the disk has space for both: an artifact is never without it.
      if (out != "-") WriteLineage(out + ".lineage", artifact, quantised);
      file->Commit();
    }
    return {{"tool", "pack-zstd"},
            {"out", dry_run ? Json() : Json(out)},
            {"artifact_bytes", bytes},
            {"code_bytes", code_bytes},
            {"budget", budget},
            {"left", left},
            {"coder", settings.coder},
            {"level", artifact.level},
            {"content_bytes", artifact.content_bytes},
            {"artifact_digest", artifact.digest},
            {"identity", artifact.identity}};
  });
}
