// A safetensors file, and its way into a checkpoint (ckpt-inspect --import).
#include "common/checkpoint/safetensors.h"
#include "tests/fuzz/fuzz.h"

using namespace fairway;

FUZZ(input) {
  static fuzz::MemoryFile file;
  fuzz::Takes([&] {
    const SafetensorsReader reader(file.With(input));
    std::string bytes;
    CheckpointWriter writer(&bytes, Kind::kWeights, {});
    for (const TensorInfo& info : reader.tensors()) {
      if (IsFloatingPoint(info.dtype)) reader.Floats(info.name);
      writer.Add(info, reader.Data(info.name));
    }
    writer.Finish({}, {});
    CheckpointReader(bytes, "product").Verify();
    Settings settings;
    settings.Adopt(reader.metadata(), reader.path());
  });
}
