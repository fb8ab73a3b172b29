// A checkpoint, and what the stages do with one: ema-finalize, gptq-lite, pack-zstd and what comes after them.
#include "common/average/source.h"
#include "common/quantise/artifact.h"
#include "common/quantise/export.h"
#include "tests/fuzz/fuzz.h"

using namespace fairway;

namespace {

constexpr unsigned kScope = scope::kModel | scope::kQuantise | scope::kEvaluate;

// A product of `input`, which must be readable.
template <typename Write>
void Make(const CheckpointReader& input, Kind kind, Write write) {
  fuzz::Takes([&] {
    Settings settings;
    settings.Adopt(input.settings(), input.path());
    std::string bytes;
    CheckpointWriter writer(&bytes, kind, settings.Select(kScope));
    write(settings, writer);
    Lineage lineage = OpenLineage("fuzz", "0", "0", settings, kScope);
    AddInput(lineage, "input", input);
    writer.Finish(input.counters(), lineage);
    try {
      CheckpointReader(bytes, "product").Verify();
    } catch (const InputError& error) {
      fuzz::Require(false, std::string("a product cannot be read: ") + error.what());
    }
  });
}

}  // namespace

FUZZ(input) {
  fuzz::Takes([&] {
    const CheckpointReader checkpoint(std::string(input), "checkpoint");
    checkpoint.Verify();
    for (const TensorInfo& info : checkpoint.tensors()) {
      if (IsFloatingPoint(info.dtype)) checkpoint.Floats(info.name);
      if (info.quantisation) fuzz::Takes([&] { Dequantise(checkpoint, info); });
    }
    for (const char* source : {"last", "swa", "ema:0.5,swa:0.5"}) {
      Make(checkpoint, Kind::kWeights, [&](Settings& settings, CheckpointWriter& writer) {
        settings.source = source;
        WriteWeights(checkpoint, ChooseSource(checkpoint, settings), settings.published_quirks, writer);
      });
    }
    Make(checkpoint, Kind::kQuantised, [&](Settings& settings, CheckpointWriter& writer) {
      settings.threads = 1;
      ExportWeights(checkpoint, settings, writer);
    });
    for (const Coder coder : {Coder::kZstd, Coder::kArithmetic}) fuzz::Takes([&] { PackArtifact(checkpoint, std::vector{1}, 1, coder); });
  });
}
